"""What a language model is for."""

from __future__ import annotations

from enum import StrEnum


class Task(StrEnum):
    """What a language model does; the value of each is its name in a config and in a Kitfile."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RERANK = "rerank"

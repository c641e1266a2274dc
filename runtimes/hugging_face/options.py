"""What a language model of Hugging Face's is run with, by its files and the options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from runtimes.engines.base import EngineOptions
from runtimes.engines.task import Task
from runtimes.errors import LoadError
from runtimes.hugging_face.directory import HuggingFaceModel
from runtimes.hugging_face.files import read_object, read_text

DEFAULT_CONTEXT = 4096
"""The largest context where nobody says one: a cache for all that models can take would be too large."""

PAGE = 64
"""How many tokens a page of transformers' key-value cache holds: prompts share beginnings by whole pages."""


def context(model: HuggingFaceModel, options: EngineOptions) -> int:
    """Return how many tokens a call may have. Raises LoadError where the model cannot take so many."""
    config = text_config(model.config)
    longest = config.get("max_position_embeddings") or config.get("n_positions")
    limit = longest if isinstance(longest, int) and longest > 0 else None
    if options.context is None:
        return DEFAULT_CONTEXT if limit is None else min(limit, DEFAULT_CONTEXT)
    if limit is not None and options.context > limit:
        raise LoadError(
            f"{model.directory} was trained for {limit} tokens (max_position_embeddings), and a context of "
            f"{options.context} is asked for; ask for {limit} at most"
        )
    return options.context


def require_generation(options: EngineOptions) -> None:
    """Raise LoadError where the options are for a model that does something else than generate text."""
    if options.task not in (None, Task.CHAT, Task.COMPLETION):
        raise LoadError(f"the model generates text, and task {options.task} is asked for; leave the task out")


def tasks(model: HuggingFaceModel, options: EngineOptions) -> frozenset[Task]:
    """Return what the model can be asked for: chats, where it has a template. Raises LoadError."""
    has_chat = bool(chat_template(model, options))
    return frozenset({Task.CHAT, Task.COMPLETION} if has_chat else {Task.COMPLETION})


def chat_template(model: HuggingFaceModel, options: EngineOptions) -> str:
    """Return the chat template that is used, several of them as JSON, "" for none. Raises LoadError."""
    if options.chat_template is not None:
        return options.chat_template
    if text := read_text(model.tokenizer / "chat_template.jinja"):
        return text
    named = read_object(model.tokenizer / "tokenizer_config.json").get("chat_template") or ""
    return named if isinstance(named, str) else json.dumps(named)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config.json that is about text: all of it, or that of a model of several kinds."""
    part = config.get("text_config")
    return part if isinstance(part, dict) else config

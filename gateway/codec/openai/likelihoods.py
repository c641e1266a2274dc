"""The likelihoods of tokens as completions have them; llama.cpp gives them as chats have them, there too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Likelihoods:
    """Writes the likelihoods of one call's answers; they go on from event to event."""

    __slots__ = ("_offsets",)

    def __init__(self) -> None:
        self._offsets: dict[int, int] = {}
        """How many characters each answer has so far."""

    def rewrite(self, document: Mapping[str, Any]) -> None:
        """Change an event, or a whole answer, into what clients of completions read."""
        for choice in document.get("choices") or ():
            logprobs = choice.get("logprobs")
            if isinstance(logprobs, dict) and isinstance(logprobs.get("content"), list):
                choice["logprobs"] = self._as_of_completions(choice.get("index", 0), logprobs["content"])

    def _as_of_completions(self, index: int, tokens: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        offsets = []
        for token in tokens:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(token["token"])
        return {
            "tokens": [token["token"] for token in tokens],
            "token_logprobs": [token["logprob"] for token in tokens],
            "top_logprobs": [
                {top["token"]: top["logprob"] for top in token.get("top_logprobs") or ()} for token in tokens
            ],
            "text_offset": offsets,
        }

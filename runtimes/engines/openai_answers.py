"""The answers of the OpenAI API that carry generated text, whole and in pieces (server-sent events).

https://platform.openai.com/docs/api-reference/chat/object and .../completions/object; what that has no word
for, such as `reasoning_content`, is named as llama-server names it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class TokenReport:
    """One generated token, with the likeliest ones in its place."""

    text: str
    raw: bytes
    logprob: float
    top: tuple[TokenReport, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model calls; `arguments` is JSON."""

    index: int
    """Its place among the calls of the answer."""
    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")


@dataclass(frozen=True, slots=True)
class Piece:
    """What a choice got since its last piece."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reports: tuple[TokenReport, ...] = ()
    tokens: int = 0
    finish: str = ""
    """The reason on the last piece: "stop", "length" or "tool_calls"; else ""."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it to send."""
        return not (self.text or self.reasoning or self.tool_calls or self.reports or self.finish)


@dataclass(frozen=True, slots=True)
class Usage:
    """How many tokens a call took."""

    prompt: int
    completion: int

    @property
    def fields(self) -> dict[str, int]:
        """The object of the API."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


def joined(pieces: Sequence[Piece]) -> Piece:
    """Return all pieces of a choice as one."""
    return Piece(
        "".join(piece.text for piece in pieces),
        "".join(piece.reasoning for piece in pieces),
        tuple(call for piece in pieces for call in piece.tool_calls),
        tuple(report for piece in pieces for report in piece.reports),
        sum(piece.tokens for piece in pieces),
        next((piece.finish for piece in pieces if piece.finish), ""),
    )


class _Writer:
    """What every body of one answer says."""

    _ID: str
    _WHOLE: str
    _CHUNK: str

    def __init__(self, model: str, fingerprint: str) -> None:
        self._head = {
            "id": f"{self._ID}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, choices: Sequence[Piece], usage: Usage) -> bytes:
        """Return the answer that is not streamed."""
        rendered = [self._choice(index, piece) for index, piece in enumerate(choices)]
        return orjson.dumps({**self._head, "object": self._WHOLE, "choices": rendered, "usage": usage.fields})

    def first(self, index: int) -> bytes:
        """Return the event that begins a choice of a stream; b"" where there is none."""
        raise NotImplementedError

    def chunk(self, index: int, piece: Piece) -> bytes:
        """Return the events of one piece of a choice."""
        raise NotImplementedError

    def usage(self, usage: Usage) -> bytes:
        """Return the event with the usage, the last one before the end of a stream."""
        return self._event({"choices": [], "usage": usage.fields})

    def _choice(self, index: int, piece: Piece) -> dict[str, Any]:
        raise NotImplementedError

    def _event(self, fields: dict[str, Any]) -> bytes:
        return b"data: " + orjson.dumps({**self._head, "object": self._CHUNK, **fields}) + b"\n\n"


class ChatWriter(_Writer):
    """The answers of /v1/chat/completions."""

    _ID = "chatcmpl"
    _WHOLE = "chat.completion"
    _CHUNK = "chat.completion.chunk"

    def first(self, index: int) -> bytes:
        """Return the event that names the role."""
        return self._delta(index, {"role": "assistant", "content": ""})

    def chunk(self, index: int, piece: Piece) -> bytes:
        """Return the events of a piece; the reason for the end comes in one of its own."""
        delta: dict[str, Any] = {}
        if piece.text:
            delta["content"] = piece.text
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.tool_calls:
            delta["tool_calls"] = _tool_calls(piece.tool_calls, is_streamed=True)
        events = self._delta(index, delta, piece.reports) if delta or piece.reports else b""
        return events + self._delta(index, {}, finish=piece.finish) if piece.finish else events

    def _delta(
        self, index: int, delta: dict[str, Any], reports: Sequence[TokenReport] = (), finish: str = ""
    ) -> bytes:
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": finish or None}
        if reports:
            choice["logprobs"] = _chat_logprobs(reports)
        return self._event({"choices": [choice]})

    def _choice(self, index: int, piece: Piece) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": piece.text}
        if piece.reasoning:
            message["reasoning_content"] = piece.reasoning
        if piece.tool_calls:
            message["tool_calls"] = _tool_calls(piece.tool_calls, is_streamed=False)
            message["content"] = piece.text or None
        return {
            "index": index,
            "message": message,
            "logprobs": _chat_logprobs(piece.reports) if piece.reports else None,
            "finish_reason": piece.finish,
        }


class CompletionWriter(_Writer):
    """The answers of /v1/completions."""

    _ID = "cmpl"
    _WHOLE = "text_completion"
    _CHUNK = "text_completion"

    def __init__(self, model: str, fingerprint: str) -> None:
        super().__init__(model, fingerprint)
        self._offsets: dict[int, int] = {}

    def first(self, index: int) -> bytes:  # noqa: ARG002
        """Return nothing: such a stream begins with its first text."""
        return b""

    def chunk(self, index: int, piece: Piece) -> bytes:
        """Return the event of a piece."""
        return self._event({"choices": [self._choice(index, piece)]})

    def _choice(self, index: int, piece: Piece) -> dict[str, Any]:
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + sum(len(report.text) for report in piece.reports)
        return {
            "index": index,
            "text": piece.text,
            "logprobs": _completion_logprobs(piece.reports, offset) if piece.reports else None,
            "finish_reason": piece.finish or None,
        }


def _tool_calls(calls: Sequence[ToolCall], *, is_streamed: bool) -> list[dict[str, Any]]:
    return [
        ({"index": call.index} if is_streamed else {})
        | {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in calls
    ]


def _chat_logprobs(reports: Sequence[TokenReport]) -> dict[str, Any]:
    def token(report: TokenReport) -> dict[str, Any]:
        return {"token": report.text, "logprob": report.logprob, "bytes": list(report.raw)}

    content = [
        {**token(report), "top_logprobs": [token(other) for other in report.top]} for report in reports
    ]
    return {"content": content, "refusal": None}


def _completion_logprobs(reports: Sequence[TokenReport], offset: int) -> dict[str, Any]:
    offsets = []
    for report in reports:
        offsets.append(offset)
        offset += len(report.text)
    return {
        "tokens": [report.text for report in reports],
        "token_logprobs": [report.logprob for report in reports],
        "top_logprobs": [{other.text: other.logprob for other in report.top} for report in reports],
        "text_offset": offsets,
    }

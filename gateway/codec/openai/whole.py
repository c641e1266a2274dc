"""One answer made of the events of its stream, for callers who want no stream, and for those who judge it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from gateway.codec.openai.answer import Choice, ToolCall, Usage
from gateway.codec.openai.events import usage_document
from gateway.codec.openai.members import Endpoint
from gateway.wire.sse import data_of, split

_LAST = ("response.completed", "response.incomplete", "response.failed")


def whole_answer(endpoint: Endpoint, events: Iterable[bytes], usage: Usage) -> dict[str, Any]:
    """Return the answer that a stream told in parts.

    Raises:
        ValueError: when the stream has no answer.
    """
    documents = _documents(events)
    if endpoint is Endpoint.RESPONSES:
        return _response(documents)
    if not documents:
        raise ValueError("the engine's stream has no event")
    choices: dict[int, dict[str, Any]] = {}
    for document in documents:
        for part in document.get("choices") or ():
            index = part.get("index", 0)
            if endpoint is Endpoint.CHAT:
                _add_delta(choices.setdefault(index, _new_choice(index)), part)
            else:
                _add_text(choices.setdefault(index, {"index": index, "text": ""}), part)
    first = {
        name: value for name, value in documents[0].items() if name not in ("choices", "usage", "timings")
    }
    if endpoint is Endpoint.CHAT:
        first["object"] = "chat.completion"
    return {**first, "choices": [choices[index] for index in sorted(choices)], "usage": usage_document(usage)}


def choices_of(endpoint: Endpoint, answer: Mapping[str, Any]) -> tuple[Choice, ...]:
    """Return what was said, of an answer that is whole."""
    if endpoint is Endpoint.RESPONSES:
        return (_said_in_response(answer),)
    if endpoint is Endpoint.COMPLETIONS:
        return tuple(Choice(c.get("text") or "", c.get("finish_reason") or "") for c in answer["choices"])
    return tuple(_said_in_chat(choice) for choice in answer["choices"])


def _documents(events: Iterable[bytes]) -> list[dict[str, Any]]:
    documents = []
    for piece in events:
        for event in split(piece):
            data = data_of(event)
            if data.startswith(b"{"):
                documents.append(orjson.loads(data))
    return documents


def _response(documents: list[dict[str, Any]]) -> dict[str, Any]:
    for document in reversed(documents):
        if document.get("type") in _LAST:
            response: dict[str, Any] = document["response"]
            return response
    raise ValueError("the engine's stream has no last event")


def _new_choice(index: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": None}


def _add_delta(choice: dict[str, Any], part: Mapping[str, Any]) -> None:
    message = choice["message"]
    for name, value in (part.get("delta") or {}).items():
        if value is None:
            message.setdefault(name, None)
        elif name == "tool_calls":
            calls = message.setdefault(name, [])
            for call in value:
                _add_tool_call(calls, call)
        elif isinstance(value, str) and name != "role":
            message[name] = (message.get(name) or "") + value
        else:
            message[name] = value
    _add_end(choice, part)


def _add_tool_call(calls: list[dict[str, Any]], part: Mapping[str, Any]) -> None:
    index = part.get("index", len(calls))
    while len(calls) <= index:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[index]
    for name in ("id", "type"):
        if part.get(name):
            call[name] = part[name]
    function = part.get("function") or {}
    for name in ("name", "arguments"):
        call["function"][name] += function.get(name) or ""


def _add_text(choice: dict[str, Any], part: Mapping[str, Any]) -> None:
    choice["text"] += part.get("text") or ""
    choice.setdefault("logprobs", None)
    choice.setdefault("finish_reason", None)
    _add_end(choice, part)


def _add_end(choice: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add the likelihoods, lists that go on from event to event, and why the answer ended."""
    for name, values in (part.get("logprobs") or {}).items():
        if choice.get("logprobs") is None:
            choice["logprobs"] = {}
        if isinstance(values, list):
            choice["logprobs"].setdefault(name, []).extend(values)
        else:
            choice["logprobs"].setdefault(name, values)
    if part.get("finish_reason") is not None:
        choice["finish_reason"] = part["finish_reason"]


def _said_in_chat(choice: Mapping[str, Any]) -> Choice:
    message = choice["message"]
    calls = tuple(
        ToolCall(call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    )
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    return Choice(message.get("content") or "", choice.get("finish_reason") or "", calls, reasoning)


def _said_in_response(response: Mapping[str, Any]) -> Choice:
    texts, thoughts, calls = [], [], []
    for item in response.get("output") or ():
        parts = [part.get("text") or "" for part in item.get("content") or ()]
        if item.get("type") == "function_call":
            calls.append(ToolCall(item.get("name") or "", item.get("arguments") or ""))
        elif item.get("type") == "reasoning":
            thoughts += parts
        else:
            texts += parts
    reason = (response.get("incomplete_details") or {}).get("reason") or ""
    if not reason:
        reason = "tool_calls" if calls else "stop" if response.get("status") == "completed" else ""
    return Choice("".join(texts), reason, tuple(calls), "".join(thoughts))

"""What events of the Responses API must have, and llama.cpp leaves out: numbers, and what they are about.

OpenAI's clients put an answer together by them. https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

import re

import orjson

from gateway.wire.sse import DATA, END, data_of, split

_TYPE = re.compile(rb"^event: (response\.[a-z_.]+)\ndata: \{")
_ITEM_ID = re.compile(rb'"item_id": ?("(?:[^"\\]|\\.)*")')
_NUMBER = b'"sequence_number":'
_BEGINNINGS = (b"response.created", b"response.in_progress")
_ITEMS = (b"response.output_item.added", b"response.output_item.done")
_TEXT = b"response.output_text."
_OF_CONTENT = (b"response.content_part.", _TEXT, b"response.reasoning_text.", b"response.refusal.")


class ResponseEvents:
    """The events of one answer, in their order; those that an engine has numbered stay as they are."""

    __slots__ = ("_count", "_model", "_places")

    def __init__(self, model: str) -> None:
        self._model = model
        self._count = 0
        self._places: dict[str, int] = {}
        """The place of each item among the answer's, by its identity."""

    def complete(self, events: bytes) -> bytes:
        """Return whole events with what they lack."""
        return b"".join([self._complete(event) + END for event in split(events)])

    def _complete(self, event: bytes) -> bytes:
        match = _TYPE.match(event)
        if match is None or _NUMBER in event:
            return event
        kind = match[1]
        if kind in _BEGINNINGS:
            event = self._begin(event)
        members = b"%s%d," % (_NUMBER, self._count)
        self._count += 1
        identity = self._identity(kind, event)
        if identity:
            members += b'"output_index":%d,' % self._places.setdefault(identity, len(self._places))
        if kind.startswith(_OF_CONTENT):
            members += b'"content_index":0,'
        if kind.startswith(_TEXT) and b'"logprobs":' not in event:
            members += b'"logprobs":[],'
        head = match.end()
        return event[:head] + members + event[head:]

    def _begin(self, event: bytes) -> bytes:
        """Return an event about an answer that has begun, with the members that it has from its beginning."""
        document = orjson.loads(data_of(event))
        response = document.get("response")
        if isinstance(response, dict):
            document["response"] = {"model": self._model, "output": [], **response}
        return event.partition(DATA)[0] + DATA + orjson.dumps(document)

    @staticmethod
    def _identity(kind: bytes, event: bytes) -> str:
        """Return what an event calls the item that it is about, "" where it is about the whole answer."""
        if kind in _ITEMS:
            item = orjson.loads(data_of(event)).get("item") or {}
            return str(item.get("id") or item.get("call_id") or "")
        match = _ITEM_ID.search(event)
        return "" if match is None else str(orjson.loads(match[1]))

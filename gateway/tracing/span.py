"""A span: one stretch of a traced call's way, in the words of OpenTelemetry and W3C Trace Context."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from gateway.foreign_text import foreign_text

Value = str | bool | int | float | tuple[str, ...]

MAX_ATTRIBUTES = 32
MAX_LINKS = 64
MAX_NUMBER = 2**63 - 1
"""OTLP's numbers have 64 bits."""
_MAX_NAME = 100
_TRACE_ID = re.compile("[0-9a-f]{32}")
_SPAN_ID = re.compile("[0-9a-f]{16}")
_SHOWN = 500


class InvalidSpan(ValueError):
    """What a process sent for a span is none."""


class SpanName(NamedTuple):
    """Which span of which trace: both ids in hexadecimal digits."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch of a call's way. Times are nanoseconds since 1970."""

    name: str
    own: SpanName
    parent_id: str
    """The span that this one is part of, in the same trace; "" for none."""
    start: int
    end: int
    attributes: Mapping[str, Value] = field(default_factory=dict)
    links: tuple[SpanName, ...] = ()
    error: str = ""
    """Why it failed; "" where it did not."""
    is_server: bool = False
    """Whether it takes a call of somebody else's."""
    process: tuple[tuple[str, str], ...] = ()
    """What is so of all spans of the process that it is of: attributes of OpenTelemetry's resource."""

    def __reduce__(self) -> tuple[type[Span], tuple[object, ...]]:
        """Have it pickled in a third of the time that a dataclass with slots takes."""
        fields = (self.name, self.own, self.parent_id, self.start, self.end, self.attributes, self.links)
        return Span, (*fields, self.error, self.is_server, self.process)

    def checked(self) -> Span:
        """Return the span with its texts cut and printable, as its worker may run code of a kit.

        Raises:
            InvalidSpan: when it cannot be one.
        """
        names = [SpanName(*name) for name in (self.own, *self.links[:MAX_LINKS])]
        has_ids = all(_TRACE_ID.fullmatch(trace) and _SPAN_ID.fullmatch(span) for trace, span in names)
        if not has_ids or not (self.parent_id == "" or _SPAN_ID.fullmatch(self.parent_id)):
            raise InvalidSpan("an id is none")
        if not (
            type(self.start) is int and type(self.end) is int and 0 <= self.start <= self.end < MAX_NUMBER
        ):
            raise InvalidSpan("it ends before it starts")
        attributes = {
            _text(name, _MAX_NAME): _checked(value)
            for name, value in islice(self.attributes.items(), MAX_ATTRIBUTES)
        }
        return Span(
            _text(self.name, _MAX_NAME),
            names[0],
            self.parent_id,
            self.start,
            self.end,
            attributes,
            tuple(names[1:]),
            _text(self.error, _SHOWN),
            self.is_server is True,
        )


def new_span_id() -> str:
    """Return an id for a span: random, and never the one that means none."""
    return f"{random.getrandbits(64) or 1:016x}"


def _text(value: object, characters: int) -> str:
    """Return a text, cut and printable; most are so already."""
    if type(value) is str and len(value) <= characters and value.isprintable():
        return value
    return foreign_text(value, characters)


def _checked(value: object) -> Value:
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return max(-MAX_NUMBER, min(value, MAX_NUMBER))
    if isinstance(value, tuple):
        return tuple(_text(text, _SHOWN) for text in value[:MAX_ATTRIBUTES])
    return _text(value, _SHOWN)

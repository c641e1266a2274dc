"""A span: one stretch of a traced call's way, in the words of OpenTelemetry and W3C Trace Context."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from gateway.foreign_text import foreign_text

Value = str | bool | int | float | tuple[str, ...]

NO_ATTRIBUTES: Mapping[str, Value] = {}
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


class Span(NamedTuple):
    """One stretch of a call's way. Times are nanoseconds since 1970.

    A tuple, as those are made and pickled in a third of the time that a frozen dataclass takes.
    """

    name: str
    own: SpanName
    parent_id: str
    """The span that this one is part of, in the same trace; "" for none."""
    start: int
    end: int
    attributes: Mapping[str, Value] = NO_ATTRIBUTES
    links: tuple[SpanName, ...] = ()
    error: str = ""
    """Why it failed; "" where it did not."""
    is_server: bool = False
    """Whether it takes a call of somebody else's."""
    process: tuple[tuple[str, str], ...] = ()
    """What is so of all spans of the process that it is of: attributes of OpenTelemetry's resource."""

    def checked(self) -> Span:
        """Return the span with its texts cut and printable, as its worker may run code of a kit.

        Raises:
            InvalidSpan: when it cannot be one.
        """
        names = (self.own, *self.links[:MAX_LINKS])
        has_ids = all(_TRACE_ID.fullmatch(trace) and _SPAN_ID.fullmatch(span) for trace, span in names)
        if not has_ids or not (self.parent_id == "" or _SPAN_ID.fullmatch(self.parent_id)):
            raise InvalidSpan("an id is none")
        if not (
            type(self.start) is int and type(self.end) is int and 0 <= self.start <= self.end < MAX_NUMBER
        ):
            raise InvalidSpan("it ends before it starts")
        attributes = self.attributes
        if not _are_plain(attributes):
            attributes = {
                _text(name, _MAX_NAME): _checked(value)
                for name, value in islice(attributes.items(), MAX_ATTRIBUTES)
            }
        return Span(
            _text(self.name, _MAX_NAME),
            SpanName(*self.own),
            self.parent_id,
            self.start,
            self.end,
            attributes,
            tuple(SpanName(*link) for link in names[1:]),
            _text(self.error, _SHOWN),
            self.is_server is True,
        )


def new_span_id() -> str:
    """Return an id for a span: random, and never the one that means none."""
    return f"{random.getrandbits(64) or 1:016x}"


def _are_plain(attributes: Mapping[str, Value]) -> bool:
    """Tell whether attributes can stay as they are, as most can: quicker than to write each anew."""
    if type(attributes) is not dict or len(attributes) > MAX_ATTRIBUTES:
        return False
    for name, value in attributes.items():
        if type(name) is not str or len(name) > _MAX_NAME or not name.isprintable():
            return False
        if type(value) is str:
            if len(value) > _SHOWN or not value.isprintable():
                return False
        elif type(value) is int:
            if not -MAX_NUMBER <= value <= MAX_NUMBER:
                return False
        elif type(value) is not bool and type(value) is not float:
            return False
    return True


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

"""Which model the body of a call of the OpenAI API names: its member `model`. Pure.

The body may have 64 MB and is read by somebody else later, so it is looked through for that one member, and
what else is in it does not become objects.
"""

from __future__ import annotations

import json
import re

from gateway.edge.openai import NO_MODEL

MAX_NAME_BYTES = 1024
MAX_PARTS = 1_000_000
"""How many strings, quotes in strings and brackets a body may have: some tenths of a second's work."""
_PART = re.compile(rb'["{}\[\]]')
_SPACE = re.compile(rb"[ \t\r\n]*")
_KEY = "model"
# Each letter may be written as an escape of six bytes.
_KEY_BYTES = 6 * len(_KEY) + 2
# The interpreter's lock is not held for longer than it takes to search so much.
_STRETCH_BYTES = 1024 * 1024


class ModelNotNamed(ValueError):
    """A body that does not say which model is called; its message is for the caller, and says why."""


def named_model(body: bytes) -> str:
    """Return the member `model` of the object that `body` is, with its escapes undone.

    It is not checked that the rest is JSON.

    Raises:
        ModelNotNamed: when there is none, or more than one, or it is no string.
    """
    position = _after_space(body, 0)
    if body[position : position + 1] != b"{":
        raise ModelNotNamed("the body must be a JSON object")
    name: str | None = None
    depth = parts = 0
    while True:
        position = _next_part(body, position)
        parts += 1
        if parts > MAX_PARTS:
            raise ModelNotNamed(
                "the body has too many parts to look for `model`; send the header ModelKit-Model"
            )
        character = body[position]
        if character == ord('"'):
            start, (position, quotes) = position, _string_end(body, position)
            parts += quotes
            colon = _after_space(body, position)
            if depth == 1 and body[colon : colon + 1] == b":" and _is_key(body[start:position]):
                if name is not None:
                    raise ModelNotNamed("the body has `model` more than once")
                name, position = _text(body, _after_space(body, colon + 1))
            continue
        position += 1
        depth += 1 if character in b"{[" else -1
        if depth == 0:
            break
    if name is None:
        raise ModelNotNamed(NO_MODEL)
    return name


def _after_space(body: bytes, position: int) -> int:
    match = _SPACE.match(body, position)
    assert match is not None
    return match.end()


def _next_part(body: bytes, position: int) -> int:
    """Return where the next quote or bracket is."""
    while position < len(body):
        match = _PART.search(body, position, position + _STRETCH_BYTES)
        if match is not None:
            return match.start()
        position += _STRETCH_BYTES
    raise ModelNotNamed("the body is not JSON: it ends within an object")


def _string_end(body: bytes, start: int) -> tuple[int, int]:
    """Return where the string ends that begins at `start`, and how many quotes it has."""
    quote, quotes = start, 0
    while True:
        before, quote = quote + 1, body.find(b'"', quote + 1)
        quotes += 1
        if quote < 0:
            raise ModelNotNamed("the body is not JSON: it ends within a string")
        piece = body[before:quote]
        backslashes = len(piece) - len(piece.rstrip(b"\\"))
        if backslashes % 2 == 0 or quotes > MAX_PARTS:
            return quote + 1, quotes


def _is_key(text: bytes) -> bool:
    if text == b'"model"':
        return True
    return b"\\" in text and len(text) <= _KEY_BYTES and _decoded(text) == _KEY


def _text(body: bytes, position: int) -> tuple[str, int]:
    """Return the string at a position, and where it ends."""
    if body[position : position + 1] != b'"':
        raise ModelNotNamed("`model` must be a string")
    end, _ = _string_end(body, position)
    if end - position > MAX_NAME_BYTES:
        raise ModelNotNamed(f"`model` is longer than {MAX_NAME_BYTES} bytes")
    name = _decoded(body[position:end])
    if name is None:
        raise ModelNotNamed("`model` is not a string of JSON")
    return name, end


def _decoded(text: bytes) -> str | None:
    """Return a string of JSON; None where it is none."""
    try:
        return str(json.loads(text))
    except ValueError:
        return None

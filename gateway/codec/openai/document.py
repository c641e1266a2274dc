"""The body of a call as JSON: single members can be changed, and all others stay as they were sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]  # public in name, though not in typeshed
from typing import Any

import orjson

from gateway.codec.openai.errors import RefusedCall
from gateway.codec.openai.text_members import check_text

_SPACE = " \t\n\r"


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the body."""

    value: Any
    raw: str
    """The value as it is in the body."""


class Document:
    """The members of a call's body, by name.

    No name may come twice, in no object of it: the edge, the worker and the engine would each take another.
    """

    def __init__(self, body: Sequence[bytes | memoryview] | bytes) -> None:
        """Read a body. Raises RefusedCall."""
        try:
            data = body if isinstance(body, bytes) else b"".join(body)
            check_text(data)
            self._members = _read(data.decode())
        except UnicodeDecodeError as error:
            raise RefusedCall(f"the body is not UTF-8: {error}") from error
        except RecursionError as error:
            raise RefusedCall("the body is nested too deeply") from error
        except (ValueError, StopIteration) as error:
            raise RefusedCall(f"the body is not JSON: {error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def __iter__(self) -> Any:
        return iter(list(self._members))

    def get(self, name: str) -> Any:
        """Return a member's value, None where there is none."""
        member = self._members.get(name)
        return None if member is None else member.value

    def raw(self, name: str) -> str:
        """Return a member's value as it was sent."""
        return self._members[name].raw

    def set(self, name: str, value: Any) -> None:
        """Give a member another value, or add it."""
        self._members[name] = Member(value, orjson.dumps(value).decode())

    def set_raw(self, name: str, value: Any, raw: str) -> None:
        """Give a member another value, and say how it is written."""
        self._members[name] = Member(value, raw)

    def remove(self, name: str) -> None:
        """Leave a member out."""
        self._members.pop(name, None)

    def dump(self) -> bytes:
        """Return the body with its changes."""
        members = (f"{json.dumps(name)}:{member.raw}" for name, member in self._members.items())
        return ("{" + ",".join(members) + "}").encode()


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RefusedCall(f"{twice!r} is there twice in one object", twice)
    return members


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


_scan = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant).scan_once  # type: ignore[attr-defined]


def _read(text: str) -> dict[str, Member]:
    """Read an object, member by member. Raises ValueError or StopIteration where it is not one."""
    position = _skip(text, 0)
    if text[position : position + 1] != "{":
        raise RefusedCall("the body must be a JSON object")
    members: dict[str, Member] = {}
    position = _skip(text, position + 1)
    is_first = True
    while text[position : position + 1] != "}":
        if not is_first:
            position = _skip(text, _expect(text, position, ","))
        is_first = False
        name, position = scanstring(text, _expect(text, position, '"'), True)
        start = _skip(text, _expect(text, _skip(text, position), ":"))
        value, position = _scan(text, start)
        if name in members:
            raise RefusedCall(f"{name!r} is there twice", name)
        members[name] = Member(value, text[start:position])
        position = _skip(text, position)
    if _skip(text, position + 1) != len(text):
        raise ValueError(f"something follows the object at {position + 1}")
    return members


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


def _expect(text: str, position: int, sign: str) -> int:
    if text[position : position + 1] != sign:
        raise ValueError(f"expected {sign} at {position}")
    return position + 1

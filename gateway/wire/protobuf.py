"""Protobuf's wire format, as far as large or frequent fields are handled here without protobuf.

Specification: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from gateway.wire.body import BodyReader
from runtimes.protobuf import varint

Parts = list[bytes | memoryview]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_MAX_FIELDS = 1024


def take_apart(body: BodyReader, number: int) -> tuple[bytes, list[memoryview]] | None:
    """Return a message without its fields of a number, and what these hold; None if it has too many.

    Raises:
        DecodeError: when it is no message.
    """
    remainder = bytearray()
    taken: list[memoryview] = []
    for _ in range(_MAX_FIELDS):
        if not body.left:
            return bytes(remainder), taken
        key = _read_varint(body)
        kind = key & 7
        if kind == _LENGTH:
            size = _read_varint(body)
            if size > body.left:
                raise DecodeError(f"field {key >> 3} goes beyond its end")
            data = body.take(size)
            if key >> 3 == number:
                taken.append(data)
            else:
                remainder += varint(key) + varint(size) + data
        elif kind == _VARINT:
            remainder += varint(key) + varint(_read_varint(body))
        elif kind in (_FIXED64, _FIXED32) and body.left >= (size := 8 if kind == _FIXED64 else 4):
            remainder += varint(key) + body.take(size)
        else:
            raise DecodeError(f"field {key >> 3} is of no known kind, or goes beyond its end")
    return None


def _read_varint(body: BodyReader) -> int:
    value = 0
    for position in range(min(_MAX_VARINT_BYTES, body.left)):
        byte = body.take(1)[0]
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value
    raise DecodeError("a number goes beyond its end")


def field(number: int, parts: Sequence[bytes | memoryview]) -> Parts:
    """Return a field of strings, bytes, messages or packed numbers, in parts."""
    return [varint(number << 3 | _LENGTH) + varint(sum(map(len, parts))), *parts]


def plain_field(number: int, data: bytes) -> bytes:
    """Return such a field in one piece; nothing where it is empty, as proto3 has it."""
    return b"".join(field(number, [data])) if data else b""

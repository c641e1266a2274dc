"""Protobuf's wire format, without a schema: a reader in place, and how numbers are written.

See https://protobuf.dev/programming-guides/encoding. A message is a span of the file, (start, end). Its
fields are iterated over; values that are skipped are not read. The number of fields is bounded.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtimes.errors import LoadError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Span = tuple[int, int]

_NAME_BYTES = 64 * 1024


class Malformed(Exception):
    """The bytes are not a message of the expected type, or larger than real ones are."""


class Reader:
    """Reads the bytes of a file; raises Malformed once it has visited more than `max_fields` fields."""

    __slots__ = ("_data", "_fields_left")

    def __init__(self, data: mmap.mmap | bytes, max_fields: int = 4_000_000) -> None:
        self._data = data
        self._fields_left = max_fields

    @property
    def whole(self) -> Span:
        """The span of the outermost message."""
        return 0, len(self._data)

    def fields(self, span: Span) -> Iterator[tuple[int, int, int, Span]]:
        """Yield (number, wire type, integer, span of its bytes) of each field. Raises Malformed."""
        position, end = span
        while position < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise Malformed("it has too many fields")
            tag, position = self._varint(position, end)
            number, wire, value, start = tag >> 3, tag & 7, 0, position
            if wire == VARINT:
                value, position = self._varint(position, end)
            elif wire == BYTES:
                size, start = self._varint(position, end)
                position = start + size
            elif wire in (FIXED64, FIXED32):
                position += 8 if wire == FIXED64 else 4
            else:
                raise Malformed(f"wire type {wire} does not exist in protobuf 3")
            if number == 0 or position > end:
                raise Malformed("a field does not fit its message; the file is cut short or something else")
            yield number, wire, value, (start, position)

    def messages(self, span: Span, *numbers: int) -> Iterator[tuple[int, Span]]:
        """Yield (number, span) of the fields with these numbers that hold a message, a string or bytes."""
        for number, wire, _, inner in self.fields(span):
            if wire == BYTES and number in numbers:
                yield number, inner

    def integer(self, span: Span, number: int) -> int | None:
        """Return the integer in the field `number`, signed, or None; in protobuf the last one counts."""
        last = None
        for field, wire, value, _ in self.fields(span):
            if field == number and wire == VARINT:
                last = _signed(value)
        return last

    def integers(self, span: Span, number: int) -> Iterator[int]:
        """Yield the signed integers in the repeated field `number`, packed or not."""
        for field, wire, value, inner in self.fields(span):
            if field != number:
                continue
            if wire == VARINT:
                yield _signed(value)
            elif wire == BYTES:
                position, end = inner
                while position < end:
                    value, position = self._varint(position, end)
                    yield _signed(value)

    def string(self, span: Span, number: int) -> str:
        """Return the string in the field `number`, or an empty one; the last one counts."""
        last = ""
        for _, inner in self.messages(span, number):
            last = self.text(inner)
        return last

    def text(self, span: Span) -> str:
        """Return the string at `span`. Raises Malformed for one over 64 KiB or not UTF-8."""
        if span[1] - span[0] > _NAME_BYTES:
            raise Malformed("a name is longer than 64 KiB")
        try:
            return self._data[span[0] : span[1]].decode()
        except UnicodeDecodeError as error:
            raise Malformed("a name is not UTF-8") from error

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while position < end and shift < 70:
            byte = self._data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, position
            shift += 7
        raise Malformed("a number does not end; the file is cut short or something else")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    """Map the file at `path` into memory, read-only. Raises LoadError when it cannot be opened."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    try:
        yield data
    finally:
        if isinstance(data, mmap.mmap):
            data.close()


def varint(value: int) -> bytes:
    """Return a number that is not negative, seven bits a byte, the lowest first."""
    if value < 0x80:
        return b"%c" % value
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)

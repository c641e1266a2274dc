"""A reader of Universal Binary JSON as XGBoost writes it (https://ubjson.org, draft 12).

Arrays of one type become numpy arrays that share the file's bytes, so large models are read quickly.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

_MAX_DEPTH = 64
_MAX_COUNT = 1 << 40

_NUMBERS = {
    byte: np.dtype(name)
    for byte, name in zip(b"iUIlLdD", ("i1", "u1", ">i2", ">i4", ">i8", ">f4", ">f8"), strict=True)
}
_UNPACK = {
    byte: struct.Struct(name)
    for byte, name in zip(b"iUIlLdD", ("b", "B", ">h", ">i", ">q", ">f", ">d"), strict=True)
}
_CONSTANTS = {ord("T"): True, ord("F"): False, ord("Z"): None}


class Malformed(ValueError):
    """The bytes are no UBJSON; the message says where."""


def loads(data: bytes) -> Any:
    """Return the value, of which typed arrays are read-only numpy arrays. Raises Malformed."""
    reader = _Reader(data)
    try:
        value = reader.value(reader.byte(), 0)
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise Malformed(f"byte {reader.position}: {error or 'the end is missing'}") from error
    if reader.position != len(data):
        raise Malformed(f"byte {reader.position}: more follows after the end")
    return value


class _Reader:
    """Reads values from `position` on."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def byte(self) -> int:
        byte = self.data[self.position]
        self.position += 1
        return byte

    def value(self, mark: int, depth: int) -> Any:
        """Return the value that begins with `mark`, which is read already."""
        if depth > _MAX_DEPTH:
            raise ValueError("too deep")
        if (number := _UNPACK.get(mark)) is not None:
            (value,) = number.unpack_from(self.data, self.position)
            self.position += number.size
            return value
        if mark == 0x7B:
            return self._object(depth)
        if mark == 0x5B:
            return self._array(depth)
        if mark == 0x53:
            return self._text()
        if mark == 0x43:
            return chr(self.byte())
        return _CONSTANTS[mark] if mark in _CONSTANTS else self._unknown(mark)

    def _unknown(self, mark: int) -> Any:
        raise ValueError(f"unknown type {bytes([mark])!r}")

    def _length(self) -> int:
        mark = self.byte()
        if mark not in b"iUIlL":
            raise ValueError(f"a length of type {bytes([mark])!r}")
        length = self.value(mark, 0)
        if not 0 <= length <= _MAX_COUNT:
            raise ValueError(f"a length of {length}")
        return int(length)

    def _text(self) -> str:
        length = self._length()
        piece = self.data[self.position : self.position + length]
        if len(piece) < length:
            raise ValueError("a text is cut short")
        self.position += length
        return piece.decode()

    def _object(self, depth: int) -> dict[str, Any]:
        values = {}
        while self.data[self.position] != 0x7D:
            key = self._text()
            values[key] = self.value(self.byte(), depth + 1)
        self.position += 1
        return values

    def _array(self, depth: int) -> Any:
        mark = None
        if self.data[self.position] == 0x24:
            self.position += 1
            mark = self.byte()
            if self.data[self.position] != 0x23:
                raise ValueError("an array of one type must have a length")
        if self.data[self.position] != 0x23:
            values = []
            while self.data[self.position] != 0x5D:
                values.append(self.value(self.byte(), depth + 1))
            self.position += 1
            return values
        self.position += 1
        count = self._length()
        if mark is None:
            return [self.value(self.byte(), depth + 1) for _ in range(count)]
        dtype = _NUMBERS.get(mark)
        if dtype is None:
            raise ValueError(f"an array of type {bytes([mark])!r}")
        array = np.frombuffer(self.data, dtype, count, self.position)
        self.position += array.nbytes
        return array

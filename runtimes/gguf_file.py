"""The header of a GGUF file: its metadata, and where its tensors lie.

See https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Numbers are little-endian. Tensors are never
read, and of long arrays (a vocabulary) only the length is kept.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from runtimes import protobuf
from runtimes.errors import LoadError

_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SCALARS = {
    number: struct.Struct(f"<{code}")
    for number, code in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
_LENGTH = struct.Struct("<Q")
_WORD = struct.Struct("<I")

_KEYS = 65_536
_KEY_BYTES = 65_535
_TENSORS = 1_000_000
_TEXTS = 10_000_000
_TEXT_BYTES = 64 * 1024 * 1024
_DIMENSIONS = 4
_NAME_BYTES = 64
_KEPT_NUMBERS = 4_096
_ALIGNMENT = 32

# Of the types of tensors, by ggml's numbers: the bytes of a block, by how many elements it has. A type that
# is not here is left to the engine to judge.
_BLOCKS_OF = {
    1: {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2},
    32: {2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 9: 40, 20: 18, 39: 17},
    64: {40: 36},
    128: {41: 18},
    256: {10: 84, 11: 110, 12: 144, 13: 176, 14: 210, 15: 292, 16: 66, 17: 74, 18: 98, 19: 50}
    | {21: 110, 22: 82, 23: 136, 29: 56, 34: 54, 35: 66},
}
_BLOCKS: Mapping[int, tuple[int, int]] = {
    number: (elements, size) for elements, sizes in _BLOCKS_OF.items() for number, size in sizes.items()
}


@dataclass(frozen=True, slots=True)
class Length:
    """Stands for an array that is not kept."""

    count: int


Value = int | float | bool | str | tuple[int | float | bool, ...] | Length


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor; `offset` is that in the data, and `bytes` None where its type is unknown."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    bytes: int | None


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What a file declares."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    data_bytes: int
    """How many bytes follow the header: the tensors."""

    @property
    def architecture(self) -> str:
        """The name of the model's architecture, such as `llama`; "" where the file does not say it."""
        return self.text("general.architecture")

    @property
    def part(self) -> tuple[int, int]:
        """The number of this file, from 1, among all files of its model, and how many they are."""
        return (self.number("split.no") or 0) + 1, self.number("split.count") or 1

    def text(self, key: str) -> str:
        """Return the text of a key; "" where there is none."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int | None:
        """Return the whole number of a key, the largest of an array; None where there is none."""
        numbers = self.numbers(key)
        return max(numbers) if numbers else None

    def numbers(self, key: str) -> tuple[int, ...]:
        """Return the whole numbers of a key, which may be one or an array."""
        value = self.metadata.get(key)
        values = value if isinstance(value, tuple) else (value,)
        return tuple(int(number) for number in values if isinstance(number, int))

    def own(self, key: str) -> str:
        """Return the key of that name of this architecture: `llama.block_count` for `block_count`."""
        return f"{self.architecture}.{key}"


def read(path: Path) -> GgufFile:
    """Return the header of a file, checked against the file's size. Raises LoadError."""
    with protobuf.mapped(path) as data:
        return _Reader(path, data).file()


class _Reader:
    """Reads a header from its start to its end."""

    def __init__(self, path: Path, data: mmap.mmap | bytes) -> None:
        self._path = path
        self._data = data
        self._size = len(data)
        self._position = 0
        self._texts = 0

    def file(self) -> GgufFile:
        if self._take(4) != b"GGUF":
            self._refuse("is no GGUF file")
        version = self._number(_WORD)
        if version not in _VERSIONS:
            if version & 0xFFFF == 0 and version:
                self._refuse("is a big-endian GGUF file: convert the model on this machine")
            self._refuse(
                f"has version {version} of GGUF, and 2 and 3 can be read: convert the model again"
                + (", or use a newer release" if 3 < version < 100 else "")
            )
        tensor_count, key_count = self._number(_LENGTH), self._number(_LENGTH)
        # A key takes at least 13 bytes, and a tensor 24.
        for count, what, limit, least in (
            (key_count, "keys", _KEYS, 13),
            (tensor_count, "tensors", _TENSORS, 24),
        ):
            if count > min(limit, self._size // least):
                self._refuse(f"declares {count} {what}, which is too many: it is damaged or cut short")
        metadata = self._metadata(key_count)
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            self._refuse(f"states an alignment of {alignment}, which is no power of 2: it is damaged")
        tensors = self._tensors(tensor_count, alignment)
        start = -(-self._position // alignment) * alignment
        self._check_bounds(tensors, start)
        return GgufFile(self._path, metadata, tensors, max(0, self._size - start))

    def _metadata(self, count: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for _ in range(count):
            key = self._text(_KEY_BYTES, "a key")
            if not key or key in metadata:
                self._refuse(f"has the key {key!r} twice or empty: it is damaged")
            metadata[key] = self._value(key)
        return metadata

    def _value(self, key: str) -> Value:
        kind = self._number(_WORD)
        if kind == _STRING:
            return self._text(_TEXT_BYTES, f"the value of {key}")
        if kind == _ARRAY:
            return self._array(key)
        if kind not in _SCALARS:
            self._refuse(f"has a value of the unknown type {kind} at {key}: it is damaged")
        value: Value = _SCALARS[kind].unpack(self._take(_SCALARS[kind].size))[0]
        return value

    def _array(self, key: str) -> Value:
        kind, count = self._number(_WORD), self._number(_LENGTH)
        if kind == _STRING:
            self._texts += count
            if self._texts > _TEXTS or count * 8 > self._size - self._position:
                self._refuse(
                    f"declares {count} texts at {key}, which is too many: it is damaged or cut short"
                )
            self._skip_texts(count)
            return Length(count)
        if kind not in _SCALARS:
            self._refuse(f"has an array of the unknown type {kind} at {key}: it is damaged")
        scalar = _SCALARS[kind]
        if count > _KEPT_NUMBERS:
            self._skip(count * scalar.size)
            return Length(count)
        return tuple(value for (value,) in scalar.iter_unpack(self._take(count * scalar.size)))

    def _tensors(self, count: int, alignment: int) -> tuple[Tensor, ...]:
        tensors = []
        names = set()
        expected: int | None = 0
        for _ in range(count):
            name = self._text(_NAME_BYTES - 1, "the name of a tensor")
            dimensions = self._number(_WORD)
            if name in names or dimensions > _DIMENSIONS:
                self._refuse(f"has the tensor {name!r} twice or with {dimensions} dimensions: it is damaged")
            names.add(name)
            shape = tuple(self._number(_LENGTH) for _ in range(dimensions))
            kind, offset = self._number(_WORD), self._number(_LENGTH)
            size = self._tensor_bytes(name, kind, shape)
            if expected is not None and offset != expected:
                self._refuse(f"has the tensor {name!r} at {offset} instead of {expected}: it is damaged")
            expected = None if size is None else offset + -(-size // alignment) * alignment
            tensors.append(Tensor(name, shape, kind, offset, size))
        return tuple(tensors)

    def _tensor_bytes(self, name: str, kind: int, shape: tuple[int, ...]) -> int | None:
        if kind not in _BLOCKS:
            return None
        elements, size = _BLOCKS[kind]
        if shape and shape[0] % elements:
            self._refuse(
                f"has {shape[0]} numbers in a row of {name!r}, no multiple of {elements}: it is damaged"
            )
        return math.prod(shape) // elements * size

    def _check_bounds(self, tensors: tuple[Tensor, ...], start: int) -> None:
        if not tensors:
            return
        last = tensors[-1]
        needed = start + last.offset + (last.bytes or 0)
        if needed > self._size:
            self._refuse(
                f"is a GGUF file that is cut short: it has {self._size} bytes of {needed}; copy it again, "
                "then pack the kit"
            )

    def _text(self, limit: int, what: str) -> str:
        length = self._number(_LENGTH)
        if length > limit:
            self._refuse(f"declares {length} bytes for {what}, which is too many: it is damaged")
        return self._take(length).decode(errors="replace")

    def _skip_texts(self, count: int) -> None:
        data, position, size, unpack = self._data, self._position, self._size, _LENGTH.unpack_from
        for _ in range(count):
            if position + 8 > size:
                break
            position += 8 + unpack(data, position)[0]
        self._position = position
        self._skip(0)

    def _number(self, form: struct.Struct) -> int:
        number: int = form.unpack(self._take(form.size))[0]
        return number

    def _take(self, count: int) -> bytes:
        start = self._position
        self._skip(count)
        return self._data[start : self._position]

    def _skip(self, count: int) -> None:
        self._position += count
        if self._position > self._size:
            self._refuse("is a GGUF file that is cut short or damaged in its header: copy it again")

    def _refuse(self, text: str) -> NoReturn:
        raise LoadError(f"{self._path} {text}")

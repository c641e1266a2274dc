"""Tensors as raw bytes, as the binary tensor extension of the Open Inference Protocol has them.

Specification: Triton, `docs/protocol/extension_binary_data.md`. Numbers are little-endian, row by row,
without gaps; a BOOL is one byte, 0 or 1; before each element of BYTES stands its length, 4 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gateway.wording import counted
from runtimes.base import Array, Datatype
from runtimes.errors import InputError

MAX_STRINGS = 2_000_000
"""How many elements of BYTES a tensor may have; each becomes an object, and may be two bytes of a body."""
_LENGTH = 4


def from_bytes(name: str, datatype: Datatype, shape: Sequence[int], data: memoryview) -> Array:
    """Return the elements of input `name`, flat: a view of `data` where they are aligned there, else a copy.

    Raises InputError when the data are not as many as the shape says, or are no elements of the datatype.
    """
    count = math.prod(shape)
    if datatype is Datatype.BYTES:
        return _split(name, shape, count, data)
    dtype = datatype.numpy
    if count * dtype.itemsize != len(data):
        needed = counted(count * dtype.itemsize, "byte")
        raise InputError(
            f"input {name!r}: shape {list(shape)} of {datatype} needs {needed}, its data has {len(data):,}"
        )
    if datatype is Datatype.BOOL and count and np.frombuffer(data, np.uint8).max() > 1:
        raise InputError(f"input {name!r}: each byte of BOOL data must be 0 or 1")
    array = np.frombuffer(data, dtype)
    return array if array.flags.aligned else array.copy()


def _split(name: str, shape: Sequence[int], count: int, data: memoryview) -> Array:
    size = len(data)
    if count * _LENGTH > size:
        raise InputError(
            f"input {name!r}: shape {list(shape)} of BYTES needs {count * _LENGTH:,} bytes for lengths "
            f"alone, its data has {size:,}"
        )
    if count > MAX_STRINGS:
        raise InputError(f"input {name!r} has {count:,} elements of BYTES, more than {MAX_STRINGS:,}")
    elements = np.empty(count, dtype=object)
    end = 0
    for position in range(count):
        start = end + _LENGTH
        end = start + int.from_bytes(data[end:start], "little")
        if start > size or end > size:
            raise InputError(f"input {name!r}: element {position} of BYTES goes beyond the data")
        elements[position] = bytes(data[start:end])
    if end != size:
        rest, all_elements = counted(size - end, "byte"), counted(count, "element")
        raise InputError(f"input {name!r}: {rest} behind the last of {all_elements} of BYTES")
    return elements


def to_bytes(array: Array) -> memoryview | bytes:
    """Return an array's elements as raw bytes: a view of them, unless they have gaps or are strings."""
    if array.dtype.kind in "OSU":
        parts: list[bytes] = []
        for item in array.reshape(-1).tolist():
            element = item if isinstance(item, bytes) else str(item).encode("utf-8", "replace")
            parts += (len(element).to_bytes(_LENGTH, "little"), element)
        return b"".join(parts)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data

"""The frames that a worker and the kit's Python exchange on a Unix socket: a JSON header, then tensors.

    4 bytes   the length of the header, unsigned, little-endian
    header    JSON in UTF-8: an object; `tensors` has [name, datatype, shape, bytes] of each tensor
    tensors   their elements one after another, C-contiguous and little-endian

Datatypes are those of the Open Inference Protocol. An element of BYTES is its length (4 bytes, unsigned,
little-endian) and its bytes; the length 0xFFFFFFFF stands for None, a missing value. Nothing is pickled. This
module runs in both processes, so it imports the standard library and numpy alone.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_HEADER_BYTES = 16 * 1024 * 1024
MAX_TENSOR_BYTES = 2 * 1024**3
"""How many bytes the tensors of a frame may have, one or all of them."""

BYTES = "BYTES"
BF16 = "BF16"
_SMALL = 64 * 1024
_LENGTH = struct.Struct("<I")
_MISSING = 0xFFFF_FFFF

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    BYTES: np.dtype(object),
}
"""The dtype of each datatype but BF16, for which numpy has none of its own."""

Array = NDArray[Any]


class BrokenFrame(Exception):
    """What came is no frame, or a tensor of it is too large."""


def dtype_of(datatype: str) -> np.dtype[Any]:
    """Return the dtype of a datatype. Raises ValueError where there is none here."""
    if datatype == BF16:
        try:
            import ml_dtypes
        except ImportError as error:
            raise ValueError("BF16 needs the package ml_dtypes; add it to requirements.txt") from error
        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    if datatype not in DTYPES:
        raise ValueError(f"{datatype!r} is none of {', '.join((*DTYPES, BF16))}")
    return DTYPES[datatype]


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Return the datatype of a dtype; strings and objects are BYTES. Raises ValueError for others."""
    if dtype.kind in "OSU":
        return BYTES
    if dtype.name == "bfloat16":
        return BF16
    for datatype, candidate in DTYPES.items():
        if candidate == dtype:
            return datatype
    raise ValueError(f"dtype {dtype} has no datatype in the Open Inference Protocol")


def send(
    connection: socket.socket,
    header: Mapping[str, object],
    tensors: Mapping[str, Array],
    deadline: float | None = None,
) -> None:
    """Send a frame.

    Args:
        connection: where it goes.
        header: what its header has besides `tensors`.
        tensors: arrays by name.
        deadline: by `time.monotonic()`; None: there is none.

    Raises:
        ValueError: an array has no datatype, or elements of BYTES are none.
        BrokenFrame: a tensor is too large.
        OSError: the other side is gone; TimeoutError: it does not read.
    """
    listed, parts = [], []
    for name, array in tensors.items():
        datatype = datatype_of(array.dtype)
        _check_bytes(name, array.size * array.dtype.itemsize)
        part = _packed(name, array) if datatype == BYTES else _raw(array, dtype_of(datatype))
        _check_bytes(name, len(part))
        listed.append([name, datatype, list(array.shape), len(part)])
        parts.append(part)
    _check_bytes("all of it", sum(map(len, parts)))
    text = json.dumps({**header, "tensors": listed}).encode()
    parts.insert(0, memoryview(_LENGTH.pack(len(text)) + text))
    if sum(map(len, parts)) <= _SMALL:
        parts = [memoryview(b"".join(parts))]
    for part in parts:
        while len(part):
            _limit(connection, deadline)
            part = part[connection.send(part) :]


def receive(
    connection: socket.socket, deadline: float | None = None
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the header and the tensors of the next frame; the arrays may be written to.

    Raises:
        EOFError: the other side has closed the connection.
        BrokenFrame: what came is no frame.
        ValueError: a tensor has a datatype that is not known here; the next frame can be read.
        OSError: the other side is gone; TimeoutError: nothing came until the deadline.
    """
    (length,) = _LENGTH.unpack(_read(connection, 4, deadline))
    if length > MAX_HEADER_BYTES:
        raise BrokenFrame(f"its header has {length} bytes")
    text = bytes(_read(connection, length, deadline))
    try:
        header = json.loads(text)
        listed = [
            (str(name), str(datatype), tuple(map(int, shape)), int(size))
            for name, datatype, shape, size in header.pop("tensors")
        ]
        for _, datatype, shape, size in listed:
            _check_size(datatype, shape, size)
        _check_bytes("all of it", sum(size for _, _, _, size in listed))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise BrokenFrame(f"its header cannot be read: {error}") from error
    read = [(*tensor[:3], _read(connection, tensor[3], deadline)) for tensor in listed]
    return header, {name: _array(datatype, shape, data) for name, datatype, shape, data in read}


def _array(datatype: str, shape: tuple[int, ...], data: bytearray) -> Array:
    if datatype == BYTES:
        return _unpacked(data, shape)
    dtype = dtype_of(datatype)
    return (np.frombuffer(data, dtype) if data else np.empty(0, dtype)).reshape(shape)


def _check_bytes(name: str, size: int) -> None:
    if size > MAX_TENSOR_BYTES:
        raise BrokenFrame(f"{name!r} has {size} bytes, and {MAX_TENSOR_BYTES} are the most")


def _check_size(datatype: str, shape: tuple[int, ...], size: int) -> None:
    if min(shape, default=0) < 0 or not 0 <= size <= MAX_TENSOR_BYTES:
        raise ValueError(f"a tensor of {size} bytes")
    count = math.prod(shape)
    itemsize = 2 if datatype == BF16 else dtype_of(datatype).itemsize
    is_right = size >= 4 * count if datatype == BYTES else size == count * itemsize
    if not is_right:
        raise ValueError(f"{size} bytes for {datatype} of shape {list(shape)}")


def _raw(array: Array, dtype: np.dtype[Any]) -> memoryview:
    contiguous = np.ascontiguousarray(array, dtype)
    octets: Any = contiguous.reshape(-1).view(np.uint8)
    return memoryview(octets)


def _packed(name: str, array: Array) -> memoryview:
    packed = bytearray()
    for element in array.reshape(-1).tolist():
        if element is None:
            packed += _LENGTH.pack(_MISSING)
            continue
        data = element.encode() if isinstance(element, str) else element
        if not isinstance(data, bytes):
            raise ValueError(f"{name!r} has a {type(element).__name__} among its texts")  # noqa: TRY004
        packed += _LENGTH.pack(len(data))
        packed += data
    return memoryview(packed)


def _unpacked(data: bytearray, shape: tuple[int, ...]) -> Array:
    elements: list[bytes | None] = []
    offset = 0
    for _ in range(math.prod(shape)):
        if offset + 4 > len(data):
            raise BrokenFrame("its texts are cut short")
        (length,) = _LENGTH.unpack_from(data, offset)
        offset += 4
        if length == _MISSING:
            elements.append(None)
            continue
        elements.append(bytes(data[offset : offset + length]))
        offset += length
    if offset != len(data):
        raise BrokenFrame("its texts have another length than it says")
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(shape)


def _read(connection: socket.socket, size: int, deadline: float | None) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while len(view):
        _limit(connection, deadline)
        count = connection.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return data


def _limit(connection: socket.socket, deadline: float | None) -> None:
    if deadline is None:
        connection.settimeout(None)
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)

"""Frames carry headers and tensors unchanged between two processes, and nothing else is taken for one."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from runtimes.base import Array, Datatype
from runtimes.python import frames


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def there(pair: tuple[socket.socket, socket.socket], tensors: dict[str, Array]) -> dict[str, Array]:
    sender = threading.Thread(target=frames.send, args=(pair[0], {"method": "m"}, tensors))
    sender.start()
    header, received = frames.receive(pair[1])
    sender.join()
    assert header == {"method": "m"}
    return received


@pytest.mark.parametrize("datatype", [one for one in Datatype if one is not Datatype.BYTES])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 4), (300, 200)])
def test_numbers_arrive(
    pair: tuple[socket.socket, socket.socket], datatype: Datatype, shape: tuple[int, ...]
) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(datatype.numpy)
    received = there(pair, {"x": array})["x"]
    assert (received.dtype, received.shape) == (array.dtype, shape)
    assert received.tobytes() == array.tobytes()
    assert received.flags.writeable


def test_texts_arrive(pair: tuple[socket.socket, socket.socket]) -> None:
    texts = np.array([[b"", None], ["ö", b"\xff" * 70_000]], object)
    received = there(pair, {"x": texts, "y": np.array(["a", "bc"])})
    assert received["x"].tolist() == [[b"", None], ["ö".encode(), b"\xff" * 70_000]]
    assert received["y"].tolist() == [b"a", b"bc"]


def test_the_datatypes_are_those_of_the_protocol() -> None:
    assert {*frames.DTYPES, frames.BF16} == {datatype.value for datatype in Datatype}
    for datatype in Datatype:
        assert frames.dtype_of(datatype) == datatype.numpy
        assert frames.datatype_of(datatype.numpy) == datatype


@pytest.mark.parametrize(
    "value", [np.zeros(1, np.complex64), np.array([object()]), np.array([1, b""], object)]
)
def test_what_has_no_datatype_is_not_sent(pair: tuple[socket.socket, socket.socket], value: Array) -> None:
    with pytest.raises(ValueError, match=r"has no datatype|among its texts"):
        frames.send(pair[0], {}, {"x": value})


def test_what_is_too_large_is_not_sent(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "MAX_TENSOR_BYTES", 100)
    with pytest.raises(frames.BrokenFrame, match="'x' has 101 bytes, and 100 are the most"):
        frames.send(pair[0], {}, {"x": np.zeros(101, np.uint8)})
    with pytest.raises(frames.BrokenFrame, match="'all of it' has 120 bytes, and 100 are the most"):
        frames.send(pair[0], {}, {"x": np.zeros(60, np.uint8), "y": np.zeros(60, np.uint8)})


@pytest.mark.parametrize(
    "header",
    [
        "no JSON",
        [],
        {},
        {"tensors": 1},
        {"tensors": [["x", "FP32", [2]]]},
        {"tensors": [["x", "FP32", [2], 4]]},
        {"tensors": [["x", "FP32", [-1], -4]]},
        {"tensors": [["x", "FP99", [1], 4]]},
        {"tensors": [["x", "BYTES", [2], 4]]},
        {"tensors": [["x", "UINT8", [2**40], 2**40]]},
        {"tensors": [["x", "UINT8", [2**30], 2**30]] * 3},
        '{"tensors": [["x", "FP32", [1e400], 0]]}',
        '{"tensors": [["x", "FP32", [0], 1e400]]}',
        '{"tensors": [["x", "FP32", [NaN], 0]]}',
        "[" * 100_000,
    ],
)
def test_a_broken_header_is_refused(pair: tuple[socket.socket, socket.socket], header: Any) -> None:
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    pair[0].sendall(struct.pack("<I", len(text)) + text)
    with pytest.raises(frames.BrokenFrame):
        frames.receive(pair[1], time.monotonic() + 5)


@pytest.mark.parametrize(
    "data", [b"\x09\0\0\0abcd", b"\0\0\0\0abcd", b"\x01\0\0\0ab\0\0", b"\xf0\xff\xff\xffabcd"]
)
def test_broken_texts_are_refused(pair: tuple[socket.socket, socket.socket], data: bytes) -> None:
    text = json.dumps({"tensors": [["x", "BYTES", [1], 8]]}).encode()
    pair[0].sendall(struct.pack("<I", len(text)) + text + data)
    with pytest.raises(frames.BrokenFrame):
        frames.receive(pair[1], time.monotonic() + 5)


def test_nobody_waits_for_ever(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(TimeoutError):
        frames.receive(pair[1], time.monotonic() + 0.05)
    with pytest.raises(TimeoutError):
        frames.send(pair[0], {}, {"x": np.zeros(10**7)}, time.monotonic() + 0.05)
    pair[0].close()
    with pytest.raises(EOFError):
        frames.receive(pair[1])

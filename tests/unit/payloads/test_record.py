"""Lines of a payload log are read back; what is damaged, foreign or of another release is told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from gateway.codec.tensor_documents import read_tensor_documents, tensor_documents
from gateway.payloads.record import SCHEMA, NoRecord, Protocol, read_record
from runtimes.base import Array, Datatype
from runtimes.errors import InputError

LINE: dict[str, Any] = {
    "schema": SCHEMA,
    "time": "2026-11-29T10:00:00.000+00:00",
    "request_id": "a-1",
    "model": "iris",
    "version": "v1",
    "digest": "sha256:12",
    "protocol": "grpc",
    "status": 200,
    "seconds": 0.001,
    "role": "stable",
    "request": {"inputs": []},
    "answer": {"outputs": []},
    "later": "a field of another release",
}


def test_a_record_is_read() -> None:
    record = read_record(orjson.dumps({**LINE, "redacted": ["inputs.x"], "omitted": {"answer": "too large"}}))
    assert (record.model, record.protocol, record.status) == ("iris", Protocol.GRPC, 200)
    assert (record.redacted, record.omitted) == (("inputs.x",), {"answer": "too large"})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (orjson.dumps(LINE)[:80], "damaged, or cut off"),
        (b"\x00\xff\x00", "damaged, or cut off"),
        (b"[]", "no record"),
        (b'{"level":"info","event":"worker.ready"}', "no record"),
        (orjson.dumps({**LINE, "schema": SCHEMA + 1}), "another release"),
        (orjson.dumps({**LINE, "status": "200"}), "not the fields"),
        (orjson.dumps({**LINE, "status": True}), "not the fields"),
        (orjson.dumps({**LINE, "request": []}), "not the fields"),
        (orjson.dumps({**LINE, "omitted": []}), "not the fields"),
        (orjson.dumps({**LINE, "protocol": "smtp"}), "not the fields"),
    ],
)
def test_other_lines_are_told_apart(line: bytes, reason: str) -> None:
    with pytest.raises(NoRecord, match=reason):
        read_record(line)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, np.nan], [np.inf, -np.inf]], np.float32),
        np.array([0.1, 1e300], np.float64),
        np.array([1, 2], np.float16),
        np.array([0.5, 3], Datatype.BF16.numpy),
        np.array([2**63 + 1], np.uint64),
        np.array([[True], [False]]),
        np.array([b"text", "überall".encode()], object),
        np.array([b"\xff\x00", b"text"], object),
        np.zeros((0, 4), np.int32),
        np.array(7, np.int64),
    ],
    ids=str,
)
def test_tensors_are_read_as_they_were(array: Array) -> None:
    text = orjson.dumps({"tensors": tensor_documents({"x": array})})
    read = read_tensor_documents(orjson.loads(text)["tensors"])["x"]
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    if array.dtype.kind == "f":
        np.testing.assert_array_equal(read, array)
    else:
        assert read.tolist() == array.tolist()


@pytest.mark.parametrize(
    "tensor",
    [
        {"name": "x", "datatype": "FP32", "shape": [1], "redacted": True},
        {"name": "x", "datatype": "FP31", "shape": [1], "data": [1]},
        {"name": "x", "datatype": "FP32", "shape": [3], "data": [1]},
        {"name": "x", "datatype": "FP32", "shape": [1], "data": ["one"]},
        {"name": "x", "datatype": "BYTES", "shape": [1], "data": [1]},
        {"name": "x", "datatype": "INT8", "shape": [1], "data": [1000]},
        "x",
    ],
    ids=str,
)
def test_other_tensors_are_refused(tensor: Any) -> None:
    with pytest.raises(InputError):
        read_tensor_documents([tensor])

"""Messages whose small fields would become very many objects are refused before protobuf reads them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from gateway.codec import grpc_structure
from gateway.codec.grpc import decode, read
from gateway.codec.grpc_structure import check_structure
from gateway.wire.protobuf import field
from runtimes.errors import InputError
from runtimes.protobuf import varint

MIB = 1024 * 1024
NAMED = b"".join([*field(1, [b"iris"])])


def nested(number: int, data: bytes) -> bytes:
    return b"".join(field(number, [data]))


def with_contents(data: bytes) -> bytes:
    return NAMED + nested(5, nested(1, b"x") + nested(2, b"BYTES") + nested(5, data))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (with_contents(b"\x42\x00" * 20 * MIB), "more than 2,000,000 elements"),
        (with_contents(b"\x42\x01a" * 10 * MIB), "more than 2,000,000 elements"),
        (with_contents(b"\xc2\x00\x00" * 10 * MIB), "in more than 65,536 parts"),
        (with_contents(b"\x10\x01" * 20 * MIB), "in more than 65,536 parts"),
        (NAMED + nested(5, nested(5, b"\x42\x00" * MIB)) * 3, "more than 2,000,000 elements"),
        (with_contents(nested(3, b"\x01" * 40 * MIB)), "more than 16,777,216 numbers"),
        (with_contents(nested(1, b"\x01" * 8 * MIB) * 3), "more than 16,777,216 numbers"),
        (NAMED + b"\x2a\x00" * MIB, "more than 65,536 fields"),
        (NAMED + b"\x32\x00" * MIB, "more than 65,536 fields"),
        (NAMED + b"\x3a\x00" * MIB, "more than 65,536 fields"),
        (NAMED + b"\x22\x00" * MIB, "more than 65,536 fields"),
        (NAMED + nested(5, b"\x22\x00" * MIB), "more than 65,536 fields"),
        (NAMED + nested(6, b"\x12\x00" * MIB), "more than 65,536 fields"),
        (NAMED + nested(5, b"\x18\x01" * MIB), "more than 65,536 fields"),
        (NAMED + nested(5, nested(3, b"\x01" * MIB)), "too many dimensions"),
    ],
)
def test_small_fields_without_number_are_refused(
    message: bytes, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.codec.grpc._REQUEST", None)
    with pytest.raises(InputError, match=text):
        read([message])


def request(**fields: Any) -> Any:
    return service_pb2.ModelInferRequest(model_name="iris", **fields)


def test_large_calls_are_read_as_before() -> None:
    message = request()
    tensor = message.inputs.add(name="x", datatype="BYTES", shape=[200_000])
    strings = [b"%d" % number * (number % 50) for number in range(200_000)]
    tensor.contents.bytes_contents.extend(strings)
    call = decode(*read([message.SerializeToString()]), "iris")
    assert call.inputs["x"].tolist() == strings
    message = request()
    tensor = message.inputs.add(name="x", datatype="FP32", shape=[1_000_000])
    tensor.contents.fp32_contents.extend([1.5] * 1_000_000)
    assert decode(*read([message.SerializeToString()]), "iris").inputs["x"].sum() == 1_500_000


def test_the_shape_is_checked_before_contents_are_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    message = request()
    message.inputs.add(name="x", datatype="FP32", shape=[7]).contents.fp32_contents.extend([1.5] * 100_000)
    monkeypatch.setattr("numpy.fromiter", None)
    with pytest.raises(InputError, match=r"shape \[7\] needs 7 elements, contents has 100,000"):
        decode(*read([message.SerializeToString()]), "iris")


def test_any_bytes_are_counted_or_refused_as_protobuf_does() -> None:
    numbers = random.Random(7)
    message = request()
    tensor = message.inputs.add(name="x", datatype="BYTES", shape=[3])
    tensor.contents.bytes_contents.extend([b"", b"abc", b"x" * 300])
    message.parameters["timeout"].int64_param = 5
    message.outputs.add(name="y").parameters["classification"].int64_param = 3
    whole = message.SerializeToString()
    check_structure(whole)
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(numbers.randrange(1, 4)):
            data[numbers.randrange(len(data))] = numbers.randrange(256)
        try:
            check_structure(bytes(data[: numbers.randrange(len(data) + 1)]))
        except (DecodeError, InputError):
            continue


def test_counts_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_structure, "MAX_STRINGS", 3)
    check_structure(with_contents(b"\x42\x00" * 3))
    long = b"\x42" + varint(200) + b"a" * 200
    check_structure(with_contents(long * 3))
    for data in (b"\x42\x00" * 4, long * 4, b"\x42\x00" * 2 + long * 2):
        with pytest.raises(InputError):
            check_structure(with_contents(data))

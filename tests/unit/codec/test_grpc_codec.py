"""Inference over gRPC: what is read, what is refused and in which words, what is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from gateway.codec.call import IN_BINARY, Call, RequestedOutput
from gateway.codec.grpc import GrpcEncoder, decode, read
from gateway.codec.statuses import STATUSES
from gateway.engine.jobs import Job
from gateway.wire.codings import BodyTooLarge, UnknownCoding
from gateway.wire.grpc_frames import Unframer, framed, single_message
from gateway.wire.grpc_status import CODES, Code, message_value, trailers
from gateway.worker.grpc_job import GrpcCodec
from runtimes.base import Array
from runtimes.errors import ExecutionError, InputError
from runtimes.protobuf import varint

Request = Any


def request(**fields: Any) -> Request:
    return service_pb2.ModelInferRequest(model_name="iris", **fields)


def with_input(
    shape: Any = (1, 2), datatype: str = "FP32", raw: bytes | None = b"\0" * 8, **fields: Any
) -> Request:
    message = request(**fields)
    message.inputs.add(name="x", datatype=datatype, shape=shape)
    if raw is not None:
        message.raw_input_contents.append(raw)
    return message


def typed(datatype: str, field: str, values: list[Any], shape: Any = None) -> Request:
    message = with_input([len(values)] if shape is None else shape, datatype, None)
    getattr(message.inputs[0].contents, field).extend(values)
    return message


def call_of(message: Request) -> Call:
    return decode(*read([message.SerializeToString()]), "iris")


def test_a_call_is_read() -> None:
    message = with_input(id="r-1")
    message.parameters["timeout"].int64_param = 1500
    message.parameters["priority"].uint64_param = 1
    message.inputs[0].parameters["anything"].string_param = "x"
    message.outputs.add(name="y").parameters["classification"].int64_param = 3
    message.outputs.add(name="z").parameters["binary_data"].bool_param = False
    call = call_of(message)
    assert (call.id, call.timeout_us, call.others) == ("r-1", 1500, IN_BINARY)
    assert call.outputs == {"y": RequestedOutput(True, 3), "z": IN_BINARY}
    assert (call.inputs["x"].dtype, call.inputs["x"].tolist()) == (np.dtype("f4"), [[0, 0]])


@pytest.mark.parametrize(
    ("datatype", "field", "values", "expected"),
    [
        ("BOOL", "bool_contents", [True, False], np.array([True, False])),
        ("INT8", "int_contents", [-128, 127], np.array([-128, 127], "i1")),
        ("UINT16", "uint_contents", [0, 65535], np.array([0, 65535], "u2")),
        ("UINT64", "uint64_contents", [2**64 - 1], np.array([2**64 - 1], "u8")),
        ("INT64", "int64_contents", [-(2**63)], np.array([-(2**63)], "i8")),
        ("FP32", "fp32_contents", [1.5, float("inf")], np.array([1.5, np.inf], "f4")),
        ("FP64", "fp64_contents", [0.1], np.array([0.1])),
        ("BYTES", "bytes_contents", [b"", b"\xff"], np.array([b"", b"\xff"], object)),
        ("FP32", "fp32_contents", [], np.array([], "f4")),
    ],
)
def test_typed_contents_are_read(datatype: str, field: str, values: list[Any], expected: Array) -> None:
    array = call_of(typed(datatype, field, values)).inputs["x"]
    assert (array.dtype, array.tolist()) == (expected.dtype, expected.tolist())


def no_input(message: Request) -> None:
    message.inputs.clear()


def twice(message: Request) -> None:
    message.inputs.append(message.inputs[0])
    message.raw_input_contents.append(b"\0" * 8)


def both(message: Request) -> None:
    message.inputs[0].contents.fp32_contents.append(1)


def parameter(where: Callable[[Request], Any], key: str, field: str = "", value: Any = None) -> Any:
    def change(message: Request) -> None:
        where(message).parameters[key].SetInParent()
        if field:
            setattr(where(message).parameters[key], field, value)

    return change


def first(message: Request) -> Any:
    return message.inputs[0]


def output(message: Request) -> Any:
    return message.outputs[0] if message.outputs else message.outputs.add(name="y")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (no_input, "`inputs` must have one tensor or more"),
        (twice, "input 'x' is there twice"),
        (
            lambda message: message.raw_input_contents.append(b""),
            "an entry for each input: it has 2, for 1 input",
        ),
        (both, "input 'x': send contents or raw_input_contents, not both"),
        (
            lambda message: setattr(message, "model_name", "rose"),
            "model_name is 'rose', but the call came to",
        ),
        (
            lambda message: setattr(first(message), "datatype", "FP31"),
            "input 'x': datatype 'FP31' is none",
        ),
        (lambda message: first(message).shape.append(-1), "input 'x': shape must be a list of at most 16"),
        (
            lambda message: first(message).shape.extend([1] * 15),
            "input 'x': shape must be a list of at most 16",
        ),
        (
            lambda message: first(message).shape.append(2),
            "shape [1, 2, 2] of FP32 needs 16 bytes",
        ),
        (lambda message: first(message).shape.extend([2**62] * 3), "of FP32 needs"),
        (parameter(first, "k"), "input 'x': parameter 'k' has no value"),
        (parameter(lambda message: message, "k"), "the request: parameter 'k' has no value"),
        (
            parameter(first, "shared_memory_region", "string_param", "r"),
            "input 'x': shared memory is not supported",
        ),
        (
            parameter(output, "shared_memory_region", "string_param", "r"),
            "output 'y': shared memory is not supported",
        ),
        (
            parameter(output, "classification", "string_param", "1"),
            "output 'y': classification must be",
        ),
        (
            parameter(output, "classification", "int64_param", -1),
            "output 'y': classification must be",
        ),
        (
            parameter(lambda message: message, "timeout", "double_param", 1.5),
            "the request: timeout must be a whole number from 0 up",
        ),
        (lambda message: [message.outputs.add(name="y") for _ in "12"], "output 'y' is asked for twice"),
    ],
)
def test_what_is_wrong_is_named(change: Callable[[Request], None], text: str) -> None:
    message = with_input()
    change(message)
    with pytest.raises(InputError) as caught:
        call_of(message)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (typed("INT8", "int_contents", [128]), "input 'x': a value is outside INT8 (-128 to 127)"),
        (typed("UINT16", "uint_contents", [65536]), "input 'x': a value is outside UINT16 (0 to 65535)"),
        (
            typed("FP32", "fp64_contents", [1.0]),
            "data of FP32 belongs in contents.fp32_contents, not",
        ),
        (typed("FP16", "fp32_contents", [1.0]), "input 'x': FP16 comes in raw_input_contents alone"),
        (typed("FP32", "fp32_contents", [1.0], [3]), "shape [3] needs 3 elements, contents has 1"),
        (typed("FP32", "fp32_contents", [], [0, 2**40, 2**40]), "is too large"),
        (with_input([2], "BOOL", b"\1\2"), "each byte of BOOL data must be 0 or 1"),
        (with_input([1], "BYTES", b"\5\0\0\0ab"), "element 0 of BYTES goes beyond the data"),
    ],
)
def test_wrong_data_are_named(message: Request, text: str) -> None:
    with pytest.raises(InputError) as caught:
        call_of(message)
    assert text in str(caught.value)


def test_what_is_no_message() -> None:
    for body in (b"\xff", b"\x0a\x03ab", b"\x0a\x01\xff", b"\x3a\xff" + b"\xff" * 70_000, b"\x07" * 70_000):
        with pytest.raises(InputError, match="the message is no ModelInferRequest"):
            read([body])


@pytest.mark.parametrize("cut", [None, 1, 1000, 65536, 100_001])
def test_large_inputs_are_taken_as_they_are(cut: int | None) -> None:
    values = np.random.default_rng(3).random((2, 50_000), np.float32)
    message = with_input((2, 50_000), raw=values.tobytes(), id="r-2")
    message.inputs.add(name="small", datatype="INT64", shape=[1])
    message.raw_input_contents.append(b"\1" + b"\0" * 7)
    body = message.SerializeToString()
    pieces = [body] if cut is None else [body[:cut], body[cut:]]
    call = decode(*read(pieces), "iris")
    assert call.id == "r-2"
    assert np.array_equal(call.inputs["x"], values)
    assert call.inputs["small"].tolist() == [1]
    if cut is None:
        request_, raw = read(pieces)
        assert not request_.raw_input_contents
        assert raw[0].obj is body


def test_a_large_message_of_very_many_fields_is_read_too() -> None:
    message = request()
    for number in range(1200):
        message.inputs.add(name=f"x{number}", datatype="FP32", shape=[16])
        message.raw_input_contents.append(b"\0" * 64)
    assert len(call_of(message).inputs) == 1200


def answer(call: Call, outputs: dict[str, Array], labels: Any = None) -> Any:
    parts = GrpcEncoder("iris", "v1", labels or {})(call, outputs)
    return service_pb2.ModelInferResponse.FromString(b"".join(parts))


@pytest.mark.parametrize(
    ("array", "datatype", "raw"),
    [
        (np.array([[1.5], [2]], "f4"), "FP32", np.array([1.5, 2], "f4").tobytes()),
        (np.array(7, "i8"), "INT64", b"\7" + b"\0" * 7),
        (np.zeros((0, 3), "u1"), "UINT8", b""),
        (np.zeros((300, 200), "u1").T, "UINT8", b"\0" * 60_000),
        (np.array([1, 2], ml_dtypes.bfloat16), "BF16", b"\x80\x3f\0\x40"),
        (np.array(["é", b"\xff"], object), "BYTES", b"\2\0\0\0\xc3\xa9\1\0\0\0\xff"),
    ],
)
def test_answers_are_raw(array: Array, datatype: str, raw: bytes) -> None:
    response = answer(Call("r-3", {}, {}, IN_BINARY), {"y": array, "z": np.array([True])})
    assert (response.model_name, response.model_version, response.id) == ("iris", "v1", "r-3")
    assert [(output.name, output.datatype, tuple(output.shape)) for output in response.outputs] == [
        ("y", datatype, array.shape),
        ("z", "BOOL", (1,)),
    ]
    assert list(response.raw_output_contents) == [raw, b"\1"]


def test_classes_are_written() -> None:
    call = Call("", {}, {"y": RequestedOutput(True, 1)}, IN_BINARY)
    response = answer(call, {"y": np.array([[0.25, 0.5]])}, {"": ("cat", "dog")})
    assert response.outputs[0].datatype == "BYTES"
    assert response.raw_output_contents[0] == b"\x0e\0\0\0" + b"0.500000:1:dog"


def test_what_has_no_datatype_is_the_models_fault() -> None:
    with pytest.raises(ExecutionError, match="output 'y'"):
        answer(Call("", {}, {}, IN_BINARY), {"y": np.array([1j])})


def test_what_is_remembered_is_bounded() -> None:
    write = GrpcEncoder("iris", "v1", {})
    for size in range(1000):
        write(Call("", {}, {}, IN_BINARY), {"y": np.zeros(size, "u1")})
    assert len(write._tensors) <= 256


def test_an_error_is_the_text_of_a_header() -> None:
    codec = GrpcCodec("iris", "v1", {})
    job = Job([], codec, asyncio.new_event_loop(), print)
    codec.error(job, 400, "50 % of 'é'\n")
    assert job.answer == b"50 %25 of '%C3%A9'%0A"
    job.loop.close()


def test_every_error_has_a_code() -> None:
    assert set(STATUSES.values()) <= CODES.keys()
    assert trailers(404, "no") == [(b"grpc-status", b"5"), (b"grpc-message", b"no")]
    assert trailers(200) == [(b"grpc-status", b"0")]
    assert trailers(418)[0] == (b"grpc-status", b"%d" % Code.UNKNOWN)
    assert message_value("plain") == b"plain"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ([], "it has 0 bytes"),
        ([b"\0\0\0"], "it has 3 bytes"),
        ([b"\0\0\0\0\2a"], "its prefix tells of 2 bytes, 1 follow"),
        ([b"\0\0\0\0\1a" * 2], "its prefix tells of 1 bytes, 7 follow"),
    ],
)
def test_a_body_is_one_message(body: list[bytes], text: str) -> None:
    with pytest.raises(InputError, match=text):
        single_message(body)


def test_compressed_messages_are_refused() -> None:
    with pytest.raises(UnknownCoding):
        single_message([b"\1\0\0\0\0"])
    with pytest.raises(UnknownCoding):
        Unframer(10).feed(b"\1\0\0\0\0")
    with pytest.raises(BodyTooLarge):
        Unframer(10).feed(b"\0\0\0\0\x0b")


def test_frames() -> None:
    assert framed([b"ab", memoryview(b"c")]) == b"\0\0\0\0\3abc"
    assert varint(0) == b"\0"
    assert varint(300) == b"\xac\x02"

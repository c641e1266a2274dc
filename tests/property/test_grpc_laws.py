"""Messages of gRPC under random cuts and damage are read as the same call, or refused with a message."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from gateway.codec.call import IN_BINARY, Call
from gateway.codec.grpc import GrpcEncoder, decode, read
from gateway.wire.body import BodyReader
from gateway.wire.grpc_frames import Unframer, framed, single_message
from gateway.wire.grpc_status import message_value
from gateway.wire.protobuf import take_apart
from runtimes.base import Datatype
from runtimes.errors import InputError

names = st.text(max_size=8)
shapes = st.lists(st.integers(-1, 4), max_size=4)
parameter = st.one_of(
    st.builds(lambda value: ("bool_param", value), st.booleans()),
    st.builds(lambda value: ("int64_param", value), st.integers(-(2**63), 2**63 - 1)),
    st.builds(lambda value: ("string_param", value), names),
    st.builds(lambda value: ("double_param", value), st.floats()),
)
CONTENTS = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(2**31), 2**31 - 1),
    "int64_contents": st.integers(-(2**63), 2**63 - 1),
    "uint_contents": st.integers(0, 2**32 - 1),
    "uint64_contents": st.integers(0, 2**64 - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=5),
}


@st.composite
def requests(draw: st.DrawFn) -> Any:
    """Draw requests that are often right, and otherwise wrong in any way that the message allows."""
    request = service_pb2.ModelInferRequest(model_name="m", id=draw(names))
    for key in draw(st.lists(st.sampled_from(["timeout", "priority", "x"]), max_size=2)):
        setattr(request.parameters[key], *draw(parameter))
    typed = draw(st.booleans())
    for number in range(draw(st.integers(0, 3))):
        tensor = request.inputs.add(
            name=draw(st.sampled_from(["x", f"x{number}"])),
            datatype=draw(st.sampled_from([*Datatype, "FP8"])),
            shape=draw(shapes),
        )
        if typed:
            field = draw(st.sampled_from(list(CONTENTS)))
            getattr(tensor.contents, field).extend(draw(st.lists(CONTENTS[field], max_size=6)))
        else:
            fits = math.prod(tensor.shape) * Datatype.FP32.numpy.itemsize
            data = st.just(b"\0" * max(0, fits)) | st.binary(max_size=40)
            request.raw_input_contents.append(draw(data))
    for name in draw(st.lists(names, max_size=2)):
        output = request.outputs.add(name=name)
        if draw(st.booleans()):
            setattr(output.parameters["classification"], *draw(parameter))
    return request


def cut(data: bytes, offsets: list[int]) -> list[bytes]:
    ends = sorted({offset % (len(data) + 1) for offset in offsets})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


def outcome(pieces: list[bytes]) -> str:
    try:
        call = decode(*read(pieces), "m")
    except InputError as refusal:
        return str(refusal)
    return repr((call.id, call.timeout_us, call.outputs, {k: v.tolist() for k, v in call.inputs.items()}))


offsets = st.lists(st.integers(0, 10_000), max_size=4)


@given(requests(), offsets)
def test_a_request_is_read_or_refused_in_words_wherever_it_is_cut(request: Any, cuts: list[int]) -> None:
    body = request.SerializeToString()
    assert outcome([body])
    assert outcome(cut(body, cuts)) == outcome([body])


@given(requests(), st.data())
def test_damage_is_refused_in_words(request: Any, data: st.DataObject) -> None:
    body = bytearray(request.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert outcome([bytes(body)])


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_in_words(body: bytes) -> None:
    assert outcome([body])


@given(requests(), offsets)
def test_taking_a_message_apart_changes_nothing(request: Any, cuts: list[int]) -> None:
    body = request.SerializeToString()
    taken = take_apart(BodyReader(cut(body, cuts)), 7)
    assert taken is not None
    rest, raw = taken
    rebuilt = service_pb2.ModelInferRequest.FromString(rest)
    assert not rebuilt.raw_input_contents
    rebuilt.raw_input_contents.extend(bytes(piece) for piece in raw)
    assert rebuilt.SerializeToString(deterministic=True) == request.SerializeToString(deterministic=True)


@given(st.binary(max_size=60))
def test_taking_anything_apart_ends(body: bytes) -> None:
    try:
        taken = take_apart(BodyReader([body]), 7)
    except DecodeError:
        return
    assert taken is not None


@given(st.lists(st.binary(max_size=20), max_size=5), offsets)
def test_messages_come_out_of_a_stream_as_they_went_in(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(framed([message]) for message in messages)
    unframer = Unframer(20)
    results = [b"".join(pieces) for piece in cut(stream, cuts) for pieces in unframer.feed(piece)]
    assert results == messages
    assert unframer.is_between


@given(st.binary(max_size=40), offsets)
def test_any_bytes_of_a_stream_are_messages_or_refused(stream: bytes, cuts: list[int]) -> None:
    unframer = Unframer(1000)
    with suppress(InputError):
        for piece in cut(stream, cuts):
            for pieces in unframer.feed(piece):
                assert outcome([b"".join(pieces)])
    with suppress(InputError):
        assert b"".join(single_message(cut(stream, cuts))) == stream[5:]


@given(
    st.lists(
        st.tuples(names, st.sampled_from(list(Datatype)), st.lists(st.integers(0, 4), max_size=3)), max_size=3
    )
)
@settings(max_examples=50)
def test_answers_are_messages(outputs: list[tuple[str, Datatype, list[int]]]) -> None:
    arrays = {
        name: np.full(shape, b"x", object) if datatype is Datatype.BYTES else np.ones(shape, datatype.numpy)
        for name, datatype, shape in outputs
    }
    parts = GrpcEncoder("m", "v", {})(Call("é", {}, {}, IN_BINARY), arrays)
    response = service_pb2.ModelInferResponse.FromString(b"".join(parts))
    assert response.id == "é"
    shapes = [(output.name, tuple(output.shape)) for output in response.outputs]
    assert shapes == [(name, array.shape) for name, array in arrays.items()]


@given(st.text())
def test_any_text_fits_a_header(text: str) -> None:
    assert all(0x20 <= byte < 0x7F for byte in message_value(text))

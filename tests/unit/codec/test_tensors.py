"""Raw tensors: the binary extension, and bodies without JSON."""

from __future__ import annotations

import json
import math
import struct
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from gateway.codec.call import IN_BINARY, Call, RequestedOutput
from gateway.codec.json_answer import Encoder
from gateway.codec.json_request import Decoder
from gateway.codec.tensors import to_bytes
from gateway.wire.body import BodyReader
from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.errors import InputError

PACKED: dict[str, tuple[str, list[Any]]] = {
    "BOOL": ("??", [True, False]),
    "UINT8": ("<2B", [0, 255]),
    "UINT16": ("<2H", [1, 2**16 - 1]),
    "UINT32": ("<2I", [1, 2**32 - 1]),
    "UINT64": ("<2Q", [1, 2**64 - 1]),
    "INT8": ("<2b", [-128, 127]),
    "INT16": ("<2h", [-1, 2**15 - 1]),
    "INT32": ("<2i", [-1, 2**31 - 1]),
    "INT64": ("<2q", [-(2**63), 1]),
    "FP16": ("<2e", [1.5, -65504.0]),
    "FP32": ("<2f", [1.5, -0.25]),
    "FP64": ("<2d", [1e300, -5e-324]),
}
TWO_FLOATS = struct.pack("<2f", 1.5, -2.0)


def tensor(datatype: Any = "FP32", shape: Any = (2,), size: Any = 8, **others: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    return {"name": "x", "datatype": datatype, "shape": shape, "parameters": parameters, **others}


def body(*inputs: Any, data: bytes = b"", **others: Any) -> tuple[list[bytes], bytes]:
    """A request in one piece, and the length of its JSON."""
    text = json.dumps({"inputs": inputs, **others}).encode()
    return [text + data], b"%d" % len(text)


def decode(pieces: Sequence[bytes], json_size: bytes, *specs: TensorSpec) -> Call:
    return Decoder(Signature(specs, ()))(pieces, json_size)


def refused(pieces: Sequence[bytes], json_size: bytes, *specs: TensorSpec) -> str:
    with pytest.raises(InputError) as caught:
        decode(pieces, json_size, *specs)
    return str(caught.value)


def encode(**outputs: Array) -> tuple[list[dict[str, Any]], bytes]:
    """All outputs as raw bytes: what the JSON says of them, and the bytes."""
    answer, json_size = Encoder("iris", "v1", {})(Call("", {}, others=IN_BINARY), outputs)
    assert json_size is not None
    return json.loads(answer[:json_size])["outputs"], answer[json_size:]


@pytest.mark.parametrize("datatype", PACKED)
def test_numbers_are_little_endian_and_without_gaps(datatype: str) -> None:
    form, values = PACKED[datatype]
    data = struct.pack(form, *values)
    array = decode(*body(tensor(datatype, [2, 1], len(data)), data=data)).inputs["x"]
    assert (array.dtype, array.shape) == (Datatype(datatype).numpy, (2, 1))
    assert array.reshape(-1).tolist() == values
    assert encode(x=array) == ([tensor(datatype, [2, 1], len(data))], data)


def test_bf16_is_the_upper_half_of_fp32() -> None:
    data = struct.pack("<f", 1.5)[2:] + struct.pack("<f", -(2.0**127))[2:]
    array = decode(*body(tensor("BF16", [2], 4), data=data)).inputs["x"]
    assert array.astype(np.float64).tolist() == [1.5, -(2.0**127)]
    assert encode(x=array) == ([tensor("BF16", [2], 4)], data)


def test_every_element_of_bytes_has_its_length_before_it() -> None:
    elements = [b"", b"caf\xc3\xa9", b"\xff\x00", b"x" * 70_000]
    data = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    array = decode(*body(tensor("BYTES", [2, 2], len(data)), data=data)).inputs["x"]
    assert array.reshape(-1).tolist() == elements
    assert encode(x=array) == ([tensor("BYTES", [2, 2], len(data))], data)
    assert encode(x=np.array(["é", "b"]))[1] == b"\x02\0\0\0\xc3\xa9\x01\0\0\0b"
    assert encode(x=np.array([b"a", b"bc"]))[1] == b"\x01\0\0\0a\x02\0\0\0bc"


def test_not_a_number_and_the_infinities_pass() -> None:
    values = np.array([np.nan, np.inf, -np.inf], "f4")
    array = decode(*body(tensor(shape=[3], size=12), data=values.tobytes())).inputs["x"]
    assert array.tobytes() == values.tobytes()
    assert encode(x=array)[1] == values.tobytes()


def test_raw_and_json_tensors_stand_side_by_side() -> None:
    data = struct.pack("<2f", 1.5, 2.5) + struct.pack("<q", -7)
    first, last = tensor(), tensor("INT64", [1], 8, name="z")
    middle = {"name": "y", "datatype": "BOOL", "shape": [1], "data": [True]}
    inputs = decode(*body(first, middle, last, data=data)).inputs
    assert {name: array.tolist() for name, array in inputs.items()} == {
        "x": [1.5, 2.5],
        "y": [True],
        "z": [-7],
    }


def test_an_answer_may_have_both_and_says_where_the_raw_ones_begin() -> None:
    call = Call(
        "r",
        {},
        {"a": RequestedOutput(binary=True), "b": RequestedOutput(), "c": RequestedOutput(binary=True)},
    )
    outputs = {"a": np.array([1, 2], "i2"), "b": np.array([3], "i2"), "c": np.array([True])}
    answer, json_size = Encoder("iris", "v1", {})(call, outputs)
    assert json.loads(answer[:json_size])["outputs"] == [
        {"name": "a", "datatype": "INT16", "shape": [2], "parameters": {"binary_data_size": 4}},
        {"name": "b", "datatype": "INT16", "shape": [1], "data": [3]},
        {"name": "c", "datatype": "BOOL", "shape": [1], "parameters": {"binary_data_size": 1}},
    ]
    assert answer[json_size:] == b"\x01\x00\x02\x00\x01"


@pytest.mark.parametrize("datatype", list(Datatype))
@pytest.mark.parametrize("shape", [[0], [2, 0], [0, 7]])
def test_tensors_without_elements(datatype: str, shape: list[int]) -> None:
    array = decode(*body(tensor(datatype, shape, 0))).inputs["x"]
    assert (array.dtype, array.shape) == (Datatype(datatype).numpy, tuple(shape))
    assert encode(x=array) == ([tensor(datatype, shape, 0)], b"")


def test_a_scalar_has_the_empty_shape() -> None:
    array = decode(*body(tensor(shape=[], size=4), data=struct.pack("<f", 7))).inputs["x"]
    assert (array.shape, array.item()) == ((), 7)
    assert encode(x=array) == ([tensor(shape=[], size=4)], struct.pack("<f", 7))


def test_outputs_with_gaps_are_written_without_them() -> None:
    whole = np.arange(12, dtype="i4").reshape(3, 4)
    for array in (whole.T, whole[:, ::2], whole[::-1], np.broadcast_to(whole[0], (2, 4))):
        assert encode(x=array)[1] == np.array(array.tolist(), "i4").tobytes()


@pytest.mark.parametrize("cut", [1, 5, 8, 100])
def test_a_body_may_come_in_any_pieces(cut: int) -> None:
    """Every tensor of a body is right and aligned, wherever its bytes lie."""
    values = {"a": np.arange(5, dtype="f8"), "b": np.array([True]), "c": np.arange(7, dtype="f4")}
    inputs = [
        {
            "name": name,
            "datatype": Datatype.of(array.dtype).value,
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in values.items()
    ]
    (whole,), json_size = body(*inputs, data=b"".join(array.tobytes() for array in values.values()))
    pieces = [whole[start : start + cut] for start in range(0, len(whole), cut)]
    for arranged in (pieces, [b"", *pieces, b""]):
        arrays = decode(arranged, json_size).inputs
        for name, array in values.items():
            assert arrays[name].tolist() == array.tolist()
            assert arrays[name].flags.aligned


def test_nothing_is_copied_where_it_need_not_be() -> None:
    """A tensor in one piece is a view of it; one of several pieces is copied once, and may be written to."""
    for padding in range(8):
        (whole,), json_size = body(tensor(), data=TWO_FLOATS, id=" " * padding)
        array = decode([whole], json_size).inputs["x"]
        assert array.tolist() == [1.5, -2.0]
        start = np.frombuffer(whole, np.uint8).ctypes.data
        lies_within = start <= array.ctypes.data < start + len(whole)
        assert lies_within == ((start + int(json_size)) % 4 == 0)
        assert array.flags.aligned
    pieces = decode([whole[:-3], whole[-3:]], json_size).inputs["x"]
    assert (pieces.tolist(), pieces.flags.writeable) == ([1.5, -2.0], True)
    output = np.arange(4.0)
    assert np.shares_memory(np.frombuffer(to_bytes(output), np.uint8), output)


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that work has allocated at a time."""
    tracemalloc.start()
    try:
        kept = work()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    del kept
    return peak


def test_large_tensors_are_copied_at_most_once() -> None:
    size = 1 << 20
    (whole,), json_size = body(tensor("UINT8", [size], size), data=bytes(size))
    view = memoryview(whole)
    pieces = [view[start : start + 65536] for start in range(0, len(whole), 65536)]
    decoder = Decoder(Signature((TensorSpec("x", "UINT8", (-1,)),), ()))
    assert peak(lambda: decoder([whole], json_size)) < size / 10
    assert peak(lambda: decoder([view], json_size)) < size / 10
    assert peak(lambda: decoder([view[-size:]], b"0")) < size / 10
    assert size < peak(lambda: decoder(pieces, json_size)) < size * 1.1
    encoder, call = Encoder("iris", "v1", {}), Call("", {}, others=IN_BINARY)
    outputs = {"x": np.zeros(size, "u1")}
    assert size < peak(lambda: encoder(call, outputs)) < size * 1.1
    with_gaps = {"x": np.zeros(2 * size, "u1")[::2]}
    assert size < peak(lambda: encoder(call, with_gaps)) < size * 2.1


@pytest.mark.parametrize("json_size", [b"-1", b"x", b"1.0", b"+2", b" 2", b"1_0", b"\xb2", b"9" * 400, b"?"])
def test_the_length_of_the_json_is_a_number(json_size: bytes) -> None:
    (whole,), _ = body(tensor(), data=TWO_FLOATS)
    text = refused([whole], json_size)
    assert text == (
        f"Inference-Header-Content-Length must be a number from 0 to the body's {len(whole)} bytes, "
        f"not {json_size.decode('latin-1')!r}"
    )


def test_the_length_of_the_json_is_within_the_body() -> None:
    (whole,), json_size = body(tensor(), data=TWO_FLOATS)
    assert refused([whole], b"%d" % (len(whole) + 1)).startswith("Inference-Header-Content-Length must be")
    assert refused([whole], b"%d" % (int(json_size) + 1)).startswith("the body is not JSON: ")
    assert refused([whole], b"%d" % (int(json_size) - 1)).startswith("the body is not JSON: ")
    assert decode([whole], b"0" + json_size).inputs["x"].tolist() == [1.5, -2.0]


def test_data_that_is_short_or_long_is_refused() -> None:
    left = "bytes of the body are left; is Inference-Header-Content-Length right?"
    assert refused(*body(tensor(), data=TWO_FLOATS[:-1])) == (
        f"input 'x': binary_data_size is 8, but 7 {left}"
    )
    (whole,), _ = body(tensor())
    assert refused([whole], b"") == f"input 'x': binary_data_size is 8, but 0 {left}"
    assert refused(*body(tensor(), data=TWO_FLOATS + b"ab")) == "2 bytes follow the data of the last input"
    for size in (0, 4, 7, 12):
        assert refused(*body(tensor(size=size), data=b"\0" * size)) == (
            f"input 'x': shape [2] of FP32 needs 8 bytes, its data has {size}"
        )


@pytest.mark.parametrize("size", [-1, 1.5, "8", True, 2**70])
def test_a_size_is_a_whole_number(size: Any) -> None:
    text = refused(*body(tensor(size=size), data=TWO_FLOATS))
    assert text.startswith("input 'x': binary_data_size ")


def test_a_size_and_data_are_one_too_many() -> None:
    assert refused(*body(tensor(data=[1, 2]), data=TWO_FLOATS)) == (
        "input 'x' has both data and binary_data_size; send one of them"
    )
    neither = {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {}}
    assert refused(*body(neither)) == (
        "input 'x': data must be a list, or parameters.binary_data_size be there"
    )


@pytest.mark.parametrize(
    "shape", [[2**31, 2**31], [2**62, 4], [2**63, 2], [10**9] * 16, [2**32 + 2], [2**61 + 1]]
)
@pytest.mark.parametrize("datatype", ["FP32", "UINT8", "BYTES"])
def test_shapes_whose_product_overflows_are_refused(shape: list[int], datatype: str) -> None:
    text = refused(*body(tensor(datatype, shape), data=TWO_FLOATS))
    count = math.prod(shape)
    assert text.startswith(f"input 'x': shape {shape} of {datatype} needs ")
    assert f"{count * (1 if datatype == 'UINT8' else 4):,} byte" in text


@pytest.mark.parametrize("shape", [[0, 10**18, 10**18], [2**63, 0]])
def test_a_shape_that_no_array_can_have_is_refused(shape: list[int]) -> None:
    assert refused(*body(tensor(shape=shape, size=0))) == f"input 'x': shape {shape} is too large"


def test_a_boolean_is_0_or_1() -> None:
    assert refused(*body(tensor("BOOL", [3], 3), data=b"\0\1\2")) == (
        "input 'x': each byte of BOOL data must be 0 or 1"
    )


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xff\xff\xff\xff" + b"a" * 8, "element 0 of BYTES goes beyond the data"),
        (b"\x09\0\0\0" + b"a" * 8, "element 0 of BYTES goes beyond the data"),
        (b"\x05\0\0\0" + b"a" * 8, "element 1 of BYTES goes beyond the data"),
        (b"\x08\0\0\0" + b"a" * 8, "element 1 of BYTES goes beyond the data"),
        (b"\0\0\0\0\0\0\0\0abcd", "4 bytes behind the last of 2 elements of BYTES"),
        (b"\0\0\0\0\0\0\0", "shape [2] of BYTES needs 8 bytes for lengths alone, its data has 7"),
    ],
)
def test_lengths_that_lie_are_refused(data: bytes, text: str) -> None:
    assert refused(*body(tensor("BYTES", [2], len(data)), data=data)) == f"input 'x': {text}"


def test_an_incoming_body_knows_what_is_left() -> None:
    body = BodyReader([b"abc", b"", b"defg"])
    assert body.left == 7
    assert [bytes(body.take(size)) for size in (2, 0, 2, 1, 2)] == [b"ab", b"", b"cd", b"e", b"fg"]
    assert body.left == 0


@pytest.mark.parametrize(
    ("spec", "data", "shape"),
    [
        (TensorSpec("x", "FP32", (2,)), TWO_FLOATS, (2,)),
        (TensorSpec("x", "FP32", (-1,)), TWO_FLOATS, (2,)),
        (TensorSpec("x", "FP32", (-1, 2)), TWO_FLOATS * 3, (3, 2)),
        (TensorSpec("x", "FP32", (1, -1, 1)), TWO_FLOATS, (1, 2, 1)),
        (TensorSpec("x", "FP32", (-1, -1)), TWO_FLOATS, (1, 2)),
        (TensorSpec("x", "FP32", (-1, -1, 2)), TWO_FLOATS, (1, 1, 2)),
        (TensorSpec("x", "UINT8", (-1, 4)), TWO_FLOATS, (2, 4)),
        (TensorSpec("x", "BYTES", (1,)), b"\xff\0whole body", (1,)),
        (TensorSpec("x", "BYTES", (-1, 1)), b"", (1, 1)),
    ],
)
def test_a_body_without_json_is_the_only_input(spec: TensorSpec, data: bytes, shape: tuple[int, ...]) -> None:
    call = decode([data], b"0", spec)
    array = call.inputs["x"]
    assert (array.dtype, array.shape) == (Datatype(spec.datatype).numpy, shape)
    assert (array.item() if spec.datatype == "BYTES" else array.tobytes()) == data
    assert (call.id, call.outputs, call.others) == ("", {}, IN_BINARY)


@pytest.mark.parametrize(
    ("specs", "fault"),
    [
        ((), "the model takes 0 inputs"),
        ((TensorSpec("x", "FP32", (1,)), TensorSpec("y", "FP32", (1,))), "the model takes 2 inputs"),
        ((TensorSpec("x", "FP32", None),), "the shape of input 'x' does not follow from a number of bytes"),
        (
            (TensorSpec("x", "FP32", (2, -1, -1)),),
            "the shape of input 'x' does not follow from a number of bytes",
        ),
        (
            (TensorSpec("x", "FP32", (0, -1)),),
            "the shape of input 'x' does not follow from a number of bytes",
        ),
        ((TensorSpec("x", "BYTES", (2,)),), "input 'x' holds more than one element of BYTES"),
    ],
)
def test_a_body_without_json_is_not_enough_for_every_model(specs: Any, fault: str) -> None:
    assert refused([TWO_FLOATS], b"0", *specs) == (
        f"a body without JSON is not enough: {fault}; "
        "send JSON with the tensors, and its length as Inference-Header-Content-Length"
    )


def test_a_body_without_json_fits_its_input() -> None:
    spec = TensorSpec("x", "FP32", (-1, 2))
    assert refused([b""], b"0", spec) == "input 'x': the body is empty"
    assert refused([TWO_FLOATS + b"a"], b"0", spec) == (
        "input 'x': shape [1, 2] of FP32 needs 8 bytes, its data has 9"
    )
    assert refused([TWO_FLOATS[:4]], b"0", spec) == (
        "input 'x': shape [0, 2] of FP32 needs 0 bytes, its data has 4"
    )

from __future__ import annotations

import contextlib
import gzip
import json
import math
import zlib
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.codec.call import Call, RequestedOutput
from gateway.codec.json_answer import Encoder
from gateway.codec.json_request import Decoder
from gateway.wire.codings import decompress
from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.errors import InputError

_decoder = Decoder(Signature((), ()))
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def _decode(body: bytes) -> Call:
    return _decoder([body])


def _values(datatype: Datatype) -> st.SearchStrategy[Any]:
    dtype = datatype.numpy
    if datatype is Datatype.BYTES:
        return _texts.map(str.encode)
    if datatype is Datatype.BOOL:
        return st.booleans()
    if datatype is Datatype.BF16:
        return (st.floats(width=32, allow_nan=False) | st.just(math.nan)).map(_bf16)
    if dtype.kind == "f":
        width = {2: 16, 4: 32, 8: 64}[dtype.itemsize]
        # JSON has one NaN, and floats have many.
        return st.floats(width=width, allow_nan=False) | st.just(math.nan)  # type: ignore[arg-type]
    limits = np.iinfo(dtype)
    return st.integers(int(limits.min), int(limits.max))


def _bf16(value: float) -> float:
    return float(np.array(value).astype(Datatype.BF16.numpy))


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    datatype = draw(st.sampled_from(list(Datatype)))
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    size = math.prod(shape)
    array = np.empty(size, datatype.numpy)
    array[:] = draw(st.lists(_values(datatype), min_size=size, max_size=size))
    return array.reshape(shape)


def _nested(array: Array, data: list[Any]) -> list[Any]:
    for size in reversed(array.shape[1:]):
        data = [data[start : start + size] for start in range(0, len(data), size)]
    return data


@settings(deadline=None)
@given(arrays(), _texts, st.booleans())
def test_what_is_written_is_read_back(array: Array, name: str, nested: bool) -> None:
    answer = json.loads(Encoder("m", "v", {})(Call("r", {}), {name: array})[0])
    (output,) = answer["outputs"]
    if nested and array.size:
        output["data"] = _nested(array, output["data"])
    call = _decode(json.dumps({"id": "r", "inputs": [output]}).encode())
    read = call.inputs[name]
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    assert repr(read.tolist()) == repr(array.tolist())


def _raw_request(arrays: dict[str, Array]) -> tuple[bytes, int]:
    """Return a request with raw tensors, made of an answer, and the size of its JSON."""
    outputs = {name: RequestedOutput(binary=True) for name in arrays}
    answer, json_size = Encoder("m", "v", {})(Call("r", {}, outputs), arrays)
    assert json_size is not None
    text = json.dumps({"inputs": json.loads(answer[:json_size])["outputs"]}).encode()
    return text + answer[json_size:], len(text)


@settings(deadline=None)
@given(st.dictionaries(_texts, arrays(), min_size=1, max_size=3), st.integers(1, 40))
def test_what_is_written_raw_is_read_back_bit_for_bit(arrays: dict[str, Array], cut: int) -> None:
    body, json_size = _raw_request(arrays)
    pieces = [body[start : start + cut] for start in range(0, len(body), cut)]
    for arranged in ([body], pieces):
        inputs = _decoder(arranged, b"%d" % json_size).inputs
        for name, array in arrays.items():
            read = inputs[name]
            assert (read.dtype, read.shape) == (array.dtype, array.shape)
            assert (
                read.tolist() == array.tolist()
                if array.dtype.kind == "O"
                else (read.tobytes() == array.tobytes())
            )


@settings(max_examples=500, deadline=None)
@given(st.data(), st.dictionaries(_texts, arrays(), min_size=1, max_size=2))
def test_a_damaged_raw_body_is_a_call_or_refused(data: st.DataObject, arrays: dict[str, Array]) -> None:
    body, json_size = _raw_request(arrays)
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(0, 4))):
        offset = data.draw(st.integers(0, len(damaged) - 1))
        damaged[offset] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(damaged)))
    size = data.draw(st.just(json_size) | st.integers(0, len(damaged) + 2))
    with contextlib.suppress(InputError):
        _decoder([bytes(damaged[:end])], b"%d" % size)


_only = Decoder(Signature((TensorSpec("x", "FP32", (-1, 2)),), ()))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=30), min_size=1, max_size=4), st.binary(max_size=4))
def test_any_bytes_with_any_header_are_a_call_or_refused(pieces: list[bytes], header: bytes) -> None:
    for decode in (_decoder, _only):
        with contextlib.suppress(InputError):
            decode(pieces, header)


@settings(deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["gzip", "deflate"]), st.integers(0, 40), st.integers(0, 100))
def test_any_bytes_are_content_or_refused(content: bytes, coding: str, limit: int, cut: int) -> None:
    packed = gzip.compress(content) if coding == "gzip" else zlib.compress(content)
    for body in (content, packed, packed[:cut]):
        with contextlib.suppress(InputError):
            assert len(b"".join(decompress([body], coding, limit))) <= limit
    if len(content) <= limit:
        assert b"".join(decompress([packed], coding, limit)) == content


_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=10,
)
_tensor = st.fixed_dictionaries(
    {
        "name": _texts | _json,
        "datatype": st.sampled_from(list(Datatype)) | _json,
        "shape": st.lists(st.integers(0, 3), max_size=3)
        | st.lists(st.integers(0, 2**64), max_size=20)
        | _json,
        "data": st.lists(_json, max_size=4) | st.lists(st.integers(-5, 300) | st.floats()) | _json,
    },
    optional={"parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 9) | _json}) | _json},
)
_request = st.fixed_dictionaries(
    {"inputs": st.lists(_tensor, max_size=2) | _json},
    optional={"id": _json, "outputs": _json, "parameters": _json},
)


@settings(max_examples=500, deadline=None)
@given(_request | _json)
def test_any_json_is_a_call_or_refused(value: Any) -> None:
    with contextlib.suppress(InputError):
        _decode(json.dumps(value).encode())


@settings(deadline=None)
@given(st.binary(max_size=80) | st.text('[]{}":,0-9eE.+trufalsn\\ ', max_size=80).map(str.encode))
def test_any_bytes_are_a_call_or_refused(body: bytes) -> None:
    with contextlib.suppress(InputError):
        _decode(body)

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.worker import oip
from runtimes.base import Array, Datatype
from runtimes.errors import InputError

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def _values(datatype: Datatype) -> st.SearchStrategy[Any]:
    dtype = datatype.numpy
    if datatype is Datatype.BYTES:
        return _texts.map(str.encode)
    if datatype is Datatype.BOOL:
        return st.booleans()
    if dtype.kind == "f":
        width = {2: 16, 4: 32, 8: 64}[dtype.itemsize]
        return st.floats(width=width, allow_nan=False, allow_infinity=False)  # type: ignore[arg-type]
    limits = np.iinfo(dtype)
    return st.integers(int(limits.min), int(limits.max))


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
    answer = json.loads(oip.Encoder("m", "v")("r", {name: array}))
    (output,) = answer["outputs"]
    if nested and array.size:
        output["data"] = _nested(array, output["data"])
    call = oip.decode(json.dumps({"id": "r", "inputs": [output]}).encode())
    read = call.inputs[name]
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    assert read.tolist() == array.tolist()


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
    }
)
_request = st.fixed_dictionaries(
    {"inputs": st.lists(_tensor, max_size=2) | _json}, optional={"id": _json, "outputs": _json}
)


@settings(max_examples=500, deadline=None)
@given(_request | _json)
def test_any_json_is_a_call_or_refused(value: Any) -> None:
    with contextlib.suppress(InputError):
        oip.decode(json.dumps(value).encode())


@settings(deadline=None)
@given(st.binary(max_size=80) | st.text('[]{}":,0-9eE.+trufalsn\\ ', max_size=80).map(str.encode))
def test_any_bytes_are_a_call_or_refused(body: bytes) -> None:
    with contextlib.suppress(InputError):
        oip.decode(body)

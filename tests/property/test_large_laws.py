"""Large bodies are read as small ones are: simdjson and orjson agree on any text."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.codec import json_request as oip
from gateway.codec.json_request import Decoder
from runtimes.base import Array, Datatype, Signature
from runtimes.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")

_NUMERIC = [datatype for datatype in Datatype if datatype not in ("BOOL", "BYTES")]
_large = pytest.importorskip("gateway.codec.large_json").LargeBodies()
_decoder = Decoder(Signature((), ()))
_plain_decoder = Decoder(Signature((), ()))
_plain_decoder._large = None


@pytest.fixture(autouse=True, scope="module")
def _every_body_is_large() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oip, "_LARGE_BYTES", 1)
        yield


def outcome(decoder: Decoder, body: bytes) -> Any:
    """Return all parts of a decoded body, or the message by which it is refused."""
    try:
        call = decoder([body])
    except InputError as error:
        return str(error)
    inputs = [
        (name, array.dtype, array.shape, array.tolist() if array.dtype.kind == "O" else array.tobytes())
        for name, array in call.inputs.items()
    ]
    return call.id, inputs, call.outputs, call.others, call.timeout_us


def check_alike(body: bytes) -> None:
    assert outcome(_decoder, body) == outcome(_plain_decoder, body)


_spaces = st.text(" \t\r\n", max_size=2)
_whole = st.from_regex(r"-?(0|[1-9][0-9]{0,20})", fullmatch=True)
_fraction = st.from_regex(
    r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True
) | st.floats(allow_nan=False, allow_infinity=False).map(repr)
_odd = st.sampled_from(
    [
        *["true", "null", '"1"', "[]", "[1]", "{}", "1e400", "-0", "-0.0", "01", "1.", "9" * 500, '"[" '],
        *[
            "NaN",
            "Infinity",
            "-Infinity",
            '"NaN"',
            '"Infinity"',
            '"-Infinity"',
            "-NaN",
            '"\\"NaN"',
            "NaN,NaN",
        ],
    ]
)
_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)


@st.composite
def data_texts(draw: st.DrawFn, shape: list[int], number: st.SearchStrategy[str]) -> str:
    def lists(sizes: list[int]) -> str:
        if not sizes:
            return draw(number)
        inner = [lists(sizes[1:]) for _ in range(sizes[0])]
        space = draw(_spaces)
        return f"[{space}" + f"{space},".join(inner) + f"{space}]"

    nested = draw(st.booleans()) and len(shape) > 0
    return lists(shape if nested else [math.prod(shape)])


@st.composite
def tensor_texts(draw: st.DrawFn) -> str:
    datatype = draw(st.sampled_from(list(Datatype)))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    number = _whole if np.dtype(datatype.numpy).kind in "iu" else _whole | _fraction
    if draw(st.integers(0, 3)) == 0:
        number = number | _odd
    members = [
        f'"name":{json.dumps(draw(_names), ensure_ascii=draw(st.booleans()))}',
        f'"datatype":"{datatype}"',
        f'"shape":{json.dumps(shape)}',
        f'"data":{draw(_spaces)}{draw(data_texts(shape, number))}',
    ]
    more = [
        '"data":null',
        '"data":[1,2]',
        '"\\u0064ata":[]',
        '"data\\u0000":[3]',
        '"other":[[1],2]',
        '"name":1',
        '"parameters":{"binary_data_size":0}',
        '"parameters":{"p":[1]}',
        '"shape":[[2]]',
        '"datatype":["FP32"]',
    ]
    members += draw(st.lists(st.sampled_from(more), max_size=1))
    return "{" + ",".join(draw(st.permutations(members))) + "}"


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    inputs = draw(st.lists(tensor_texts(), min_size=1, max_size=2))
    members = ['"inputs":[' + ",".join(inputs) + "]"]
    more = [
        '"id":"a"',
        '"id":"\\u005b[\\ud83d\\ude00"',
        '"id":1',
        '"inputs":3',
        '"outputs":[{"name":"y"}]',
        '"outputs":[]',
        '"outputs":null',
        '"parameters":{"timeout":7,"f":1e3,"t":true}',
        '"parameters":{"binary_data_output":true}',
    ]
    members += draw(st.lists(st.sampled_from(more), max_size=2))
    space = draw(_spaces)
    return (f"{space}{{" + f",{space}".join(draw(st.permutations(members))) + f"}}{space}").encode()


@settings(max_examples=400, deadline=None)
@given(bodies())
@example(b'\xef\xbb\xbf{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}')
@example(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[3],"data":[1,[2],3]}]}')
@example(b'{"inputs":[{"name":"\\u005b","datatype":"FP32","shape":[3],"data":[1,[2],3]}]}')
@example(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[6],"data":[[1,2],[3],[4,5,6]]}]}')
@example(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[4],"data":[[1,2],[[3],4]]}]}')
@example(b'{"inputs":[{"name":"x","datatype":"FP32","shape":[4],"data":[[],[1,2,3,4]]}]}')
@example(b'{"inputs":[{"name":"x","datatype":"BF16","shape":[1],"data":[18446744073709551615]}]}')
def test_any_request_is_read_alike(body: bytes) -> None:
    check_alike(body)


_damages = st.tuples(st.integers(0, 2**20), st.integers(0, 2), st.binary(min_size=1, max_size=1))


@settings(max_examples=400, deadline=None)
@given(bodies(), st.lists(_damages, max_size=4))
def test_a_damaged_request_is_read_alike(body: bytes, damages: list[tuple[int, int, bytes]]) -> None:
    for offset, removed, inserted in damages:
        start = offset % len(body)
        body = body[:start] + (inserted if removed < 2 else b"") + body[start + removed :]
        if body:
            check_alike(body)


_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | _names,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["inputs", "id", "outputs", "name", "shape", "data", "datatype"]) | _names,
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(_json | st.fixed_dictionaries({"inputs": st.lists(_json, max_size=2)}), st.booleans())
def test_any_json_is_read_alike(value: Any, ascii_only: bool) -> None:
    check_alike(json.dumps(value, ensure_ascii=ascii_only).encode())


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=1, max_size=80) | st.text('[]{}":,0-9eE.+trufalsn\\ ', min_size=1).map(str.encode))
def test_any_bytes_are_read_alike(body: bytes) -> None:
    check_alike(body)


def _expected(texts: list[str], datatype: Datatype) -> Array:
    # "-0" is a whole number, so it has no sign.
    return np.array([float(json.loads(text)) for text in texts], np.float64).astype(datatype.numpy)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([datatype for datatype in _NUMERIC if datatype.numpy.kind in "fV"]),
    st.lists((_whole | _fraction).filter(lambda text: math.isfinite(float(text))), min_size=1, max_size=9),
)
def test_numbers_are_those_that_python_reads(datatype: Datatype, texts: list[str]) -> None:
    """To the last bit, whatever their length, and subnormal ones too."""
    text = '{"inputs":[{"name":"x","datatype":"%s","shape":[%d],"data":[%s]}]}'
    body = (text % (datatype, len(texts), ",".join(texts))).encode()
    expected = _expected(texts, datatype)
    for decoder in (_decoder, _plain_decoder):
        assert decoder([body]).inputs["x"].tobytes() == expected.tobytes()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(_NUMERIC), st.data())
def test_whole_numbers_are_exact(datatype: Datatype, data: st.DataObject) -> None:
    kind = np.dtype(datatype.numpy).kind
    if kind not in "iu":
        return
    limits = np.iinfo(datatype.numpy)
    values = data.draw(st.lists(st.integers(int(limits.min), int(limits.max)), min_size=1, max_size=9))
    tensor = {"name": "x", "datatype": datatype, "shape": [len(values)], "data": values}
    body = json.dumps({"inputs": [tensor]}).encode()
    assert type(_large(body)["inputs"][0]["data"]) is np.ndarray
    assert _decoder([body]).inputs["x"].tolist() == values

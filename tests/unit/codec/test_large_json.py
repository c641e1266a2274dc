"""Which large bodies become arrays without a Python object for each number, and which are left to orjson."""

from __future__ import annotations

import gc
import json
import threading
import tracemalloc
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.codec import json_request as oip
from gateway.codec.json_request import Decoder
from runtimes.base import Datatype, Signature, TensorSpec
from runtimes.errors import InputError

_LargeBodies: Any = pytest.importorskip("gateway.codec.large_json").LargeBodies
NUMERIC = [datatype for datatype in Datatype if datatype not in ("BOOL", "BYTES")]


def tensor(datatype: Any = "FP32", shape: Any = (2, 3), data: Any = (1, 2, 3, 4, 5, 6)) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, "data": data}


def body(*inputs: Any, **others: Any) -> bytes:
    return json.dumps({"inputs": inputs, **others}).encode()


def read(text: bytes | memoryview) -> dict[str, Any] | None:
    document: dict[str, Any] | None = _LargeBodies()(text)
    return document


def array_of(document: dict[str, Any] | None) -> Any:
    assert document is not None
    return document["inputs"][0]["data"]


@pytest.mark.parametrize("datatype", NUMERIC)
@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]], ids=["flat", "nested"])
def test_numbers_are_a_flat_array(datatype: Datatype, data: Any) -> None:
    array = array_of(read(body(tensor(datatype, data=data))))
    kinds = {"i": "int64", "u": "uint64"}
    assert array.dtype == kinds.get(np.dtype(datatype.numpy).kind, "float64")
    assert array.tolist() == [1, 2, 3, 4, 5, 6]


def test_the_rest_is_as_orjson_reads_it() -> None:
    text = body(
        tensor(),
        tensor("BYTES", data=["a"]) | {"name": "é\n", "parameters": {"binary_data_size": 2**63, "f": 1.5}},
        id="r",
        outputs=[{"name": "y", "parameters": {"classification": 1}}],
        parameters={"timeout": 5, "yes": True, "text": "t"},
    )
    for arranged in (text, memoryview(text), memoryview(b"ab" + text)[2:]):
        document = read(arranged)
        assert document is not None
        document["inputs"][0]["data"] = document["inputs"][0]["data"].tolist()
        assert document == orjson.loads(text)


def test_members_that_no_request_has_are_left_out() -> None:
    document = read(body(tensor() | {"other": {"a": 1}}, other=1))
    assert document is not None
    assert list(document) == ["inputs"]
    assert list(document["inputs"][0]) == ["name", "datatype", "shape", "data"]


@pytest.mark.parametrize("shape", [[0], [2, 0], [0, 2]])
def test_data_may_be_empty(shape: list[int]) -> None:
    data = np.zeros(shape).tolist()
    assert array_of(read(body(tensor(data=data)))).tolist() == []


@pytest.mark.parametrize(
    "data", [[True, 1], [1, "2"], [1, None], [{}], ["a"], [["a", "b"], ["c", "d"]], [2**63, -1], [1.5, -1]]
)
@pytest.mark.parametrize("datatype", ["INT64", "UINT64", "FP3", "BYTES"])
def test_elements_of_another_kind_are_lists(datatype: str, data: list[Any]) -> None:
    document = read(body(tensor(datatype, data=data)))
    assert document == orjson.loads(body(tensor(datatype, data=data)))


@pytest.mark.parametrize(
    "data",
    [
        [1, [2], 3],
        [[1], 2],
        [[1, 2], [3]],
        [[1, 2], [3], [4, 5, 6]],
        [[1, 2], [[3], 4]],
        [[], [1]],
        [[[1], [2]], [[3, 4]]],
        [[], {}],
        None,
        "1",
        7,
    ],
)
def test_data_that_is_ragged_is_left_to_orjson(data: Any) -> None:
    assert read(body(tensor(data=data), id=" " * 200)) is None


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[1]",
        b"1",
        b'{"inputs":[1]}',
        b'{"inputs":{}}',
        b'{"inputs":[{"name":"\xff"}]}',
        b'{"inputs":[{"data":[1e400]}]}',
        b'{"inputs":[{"data":[100000000000000000000]}]}',
        b'{"inputs":[' + b"[" * 2000,
        b"\xef\xbb\xbf" + body(tensor()),
        b'{"inputs":[],"inputs":[]}',
        b'{"inputs":[{"data":[1],"data":[2]}]}',
        b'{"inputs":[{"name":"[","data":[1]}]}',
        b'{"inputs":[' + b"[],[],[],[],[],[],[],[],[]" * 20 + b"]}",
        body(tensor(data=np.zeros([1] * 17).tolist())),
    ],
)
def test_what_simdjson_might_read_otherwise_is_left_to_orjson(text: bytes) -> None:
    assert read(text + b" " * 200) is None


def test_lists_too_long_for_simdjson_are_left_to_orjson() -> None:
    count = 0xFFFFFF
    text = (
        b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[%d],"data":[' % count
        + b"1," * (count - 1)
        + b"1]}]}"
    )
    assert read(text) is None
    shorter = text[: 2 * count - 100] + b"1]}]}"
    assert array_of(read(shorter.replace(b"BYTES", b"UINT8"))).dtype == np.uint64


def test_large_bodies_go_this_way_and_make_no_objects() -> None:
    """A number needs 8 bytes and then 4; a Python object for each would be 32 with its place in a list."""
    count = 100_000
    data = np.linspace(-1, 1, count).round(6).tolist()
    text = body(tensor(shape=[count], data=data))
    decode = Decoder(Signature((TensorSpec("x", "FP32", (-1,)),), ()))
    gc.collect()
    tracemalloc.start()
    try:
        array = decode([text]).inputs["x"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert array.tolist() == np.array(data, "f4").tolist()
    # 12 for the two arrays, and as much as the text while its brackets are counted
    assert peak < 12 * count + len(text) + 100_000


def test_errors_of_large_bodies_name_the_field() -> None:
    decode = Decoder(Signature((), ()))
    for datatype, data, text in [
        ("INT8", [1] * 999 + [128], "a value is outside INT8 (-128 to 127)"),
        ("UINT8", [1] * 999 + [-1], "a value is outside UINT8 (0 to 255)"),
        ("INT64", [1] * 999 + [1.5], "INT64 cannot be made of fractions (data[999])"),
        ("FP32", [1] * 999 + [True], "FP32 cannot be made of booleans (data[999])"),
        ("FP32", [1] * 998, "shape [1000] needs 1,000 elements, data has 998"),
        ("FP32", [1] * 998 + [[1, 2]], "data is ragged"),
    ]:
        with pytest.raises(InputError) as caught:
            decode([body(tensor(datatype, [1000], data))])
        assert str(caught.value) == f"input 'x': {text}"
        # An error that is kept keeps nothing that the next body needs.
        assert decode([body(tensor("FP32", [1000], [1] * 1000))]).inputs["x"].sum() == 1000


def test_where_simdjson_is_missing_orjson_reads_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oip, "LargeBodies", None)
    array = Decoder(Signature((), ()))([body(tensor(shape=[2000], data=[1.5] * 2000))]).inputs["x"]
    assert array.tolist() == [1.5] * 2000


def test_several_threads_may_read_at_once() -> None:
    decode = Decoder(Signature((), ()))
    outcomes: list[bool] = []

    def many(number: int) -> None:
        text = body(tensor(shape=[5000], data=[number] * 5000))
        outcomes.extend((decode([text]).inputs["x"] == number).all() for _ in range(50))

    threads = [threading.Thread(target=many, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes == [True] * 400

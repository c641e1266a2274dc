from __future__ import annotations

import json
import math
import time
from typing import Any

import numpy as np
import pytest

from gateway.codec import json_answer as answers
from gateway.codec.call import IN_BINARY, IN_JSON, Call, RequestedOutput
from gateway.codec.json_request import Decoder
from gateway.serving import Batching
from gateway.worker import describe
from runtimes.base import ANY, Array, Datatype, Signature, TensorSpec
from runtimes.errors import ExecutionError, InputError

VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True, True],
    "UINT8": [0, 1, 254, 255],
    "UINT16": [0, 1, 2, 2**16 - 1],
    "UINT32": [0, 1, 2, 2**32 - 1],
    "UINT64": [0, 1, 2**63, 2**64 - 1],
    "INT8": [-(2**7), -1, 0, 2**7 - 1],
    "INT16": [-(2**15), -1, 0, 2**15 - 1],
    "INT32": [-(2**31), -1, 0, 2**31 - 1],
    "INT64": [-(2**63), -1, 0, 2**63 - 1],
    "FP16": [0.0, -1.5, 65504.0, 2.0],
    "BF16": [0.0, -1.5, 256.0, 0.0078125],
    "FP32": [0.0, -1.5, 0.25, 1e10],
    "FP64": [0.1, -1.5, 1e300, 5e-324],
    "BYTES": ["", "iris", "né\u0000\U0001f338", '"\\\n'],
}


def tensor(datatype: Any = "FP32", shape: Any = (2,), data: Any = (1, 2), **others: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, "data": data, **others}


def read(body: bytes) -> Call:
    return Decoder(Signature((), ()))([body])


def decode(*inputs: Any, **others: Any) -> Call:
    return read(json.dumps({"inputs": inputs, **others}).encode())


def refused(*inputs: Any, **others: Any) -> str:
    with pytest.raises(InputError) as caught:
        decode(*inputs, **others)
    return str(caught.value)


def encode(**outputs: Array) -> list[dict[str, Any]]:
    body, json_size = answers.Encoder("iris", "v1", {})(Call("", {}), outputs)
    assert json_size is None
    answer = json.loads(body, parse_constant=pytest.fail)
    tensors: list[dict[str, Any]] = answer["outputs"]
    return tensors


def test_every_datatype_has_values_here() -> None:
    assert list(VALUES) == sorted(Datatype, key=list(VALUES).index)


@pytest.mark.parametrize("datatype", VALUES)
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_values_come_in_and_go_out(datatype: str, nested: bool) -> None:
    values = VALUES[datatype]
    data = [values[:2], values[2:]] if nested else values
    array = decode(tensor(datatype, [2, 2], data)).inputs["x"]
    assert (array.dtype, array.shape) == (Datatype(datatype).numpy, (2, 2))
    expected = [value.encode() for value in values] if datatype == "BYTES" else values
    assert array.reshape(-1).tolist() == expected
    assert encode(x=array) == [tensor(datatype, [2, 2], values)]


def test_whole_numbers_are_fractions_too() -> None:
    array = decode(tensor("FP32", [3], [1, 2.5, 2**64 - 1])).inputs["x"]
    assert array.tolist() == [1, 2.5, 2.0**64]


@pytest.mark.parametrize("datatype", VALUES)
@pytest.mark.parametrize(("shape", "data"), [([0], []), ([2, 0], [[], []]), ([0, 7], [])])
def test_tensors_without_elements(datatype: str, shape: list[int], data: list[Any]) -> None:
    array = decode(tensor(datatype, shape, data)).inputs["x"]
    assert (array.dtype, array.shape) == (Datatype(datatype).numpy, tuple(shape))
    assert encode(x=array) == [tensor(datatype, shape, [])]


def test_a_scalar_has_the_empty_shape() -> None:
    array = decode(tensor("INT64", [], [7])).inputs["x"]
    assert array.shape == ()
    assert encode(x=array) == [tensor("INT64", [], [7])]


def test_id_and_outputs() -> None:
    assert decode(tensor()).id == ""
    assert decode(tensor()).outputs == {}
    call = decode(tensor(), id="r-1", outputs=[{"name": "b"}, {"name": "a", "parameters": {}}])
    assert (call.id, list(call.outputs)) == ("r-1", ["b", "a"])
    assert decode(tensor(), outputs=None).outputs == {}
    assert decode(tensor(), outputs=[]).outputs == {}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"inputs": [NaN}', b"[" * 2000, b'"\\ud800"'])
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InputError, match=r"^the body is not JSON: "):
        read(body)


FLOATS = ["FP16", "BF16", "FP32", "FP64"]


@pytest.mark.parametrize("datatype", FLOATS)
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["null", "1", "null", "2.5"], [np.nan, 1, np.nan, 2.5]),
        (["NaN", "Infinity", "-Infinity", "2.5"], [np.nan, np.inf, -np.inf, 2.5]),
        (['"NaN"', '"Infinity"', '"-Infinity"', "2.5"], [np.nan, np.inf, -np.inf, 2.5]),
        (["null"] * 4, [np.nan] * 4),
        (['"Infinity"'] * 4, [np.inf] * 4),
        (["NaN", "null", '"NaN"', "18446744073709551615"], [np.nan, np.nan, np.nan, 2.0**64]),
    ],
)
@pytest.mark.parametrize("space", ["", " ", "\r\n\t"], ids=["dense", "spaced", "lines"])
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_missing_values_and_infinities_are_floats(
    datatype: str, nested: bool, texts: list[str], values: list[float], space: str
) -> None:
    dense = [f"{space}{text}{space}" for text in texts]
    data = f"[{','.join(dense[:2])}],[{','.join(dense[2:])}]" if nested else ",".join(dense)
    for filler in ("", " " * 2000):  # a large body is read in another way
        body = f'{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":[2,2],"data":[{data}]}}]{filler}}}'
        array = read(body.encode()).inputs["x"]
        expected = np.array(values, np.float64).astype(Datatype(datatype).numpy).reshape(2, 2)
        assert (array.dtype, array.shape) == (expected.dtype, (2, 2))
        np.testing.assert_array_equal(array.astype(np.float64), expected.astype(np.float64))


def test_the_words_of_numbers_in_a_text_stay_text() -> None:
    texts = ["NaN", "Infinity", "[NaN, Infinity]", '\\", NaN, "', "\\\\"]
    plain = {"name": "y", "datatype": "FP32", "shape": [1], "data": [float("nan")]}
    call = decode(tensor("BYTES", [5], texts), plain, id=", NaN ,")
    assert call.inputs["x"].tolist() == [text.encode() for text in texts]
    assert (call.id, str(call.inputs["y"])) == (", NaN ,", "[nan]")


@pytest.mark.parametrize(
    "text", ["nan", "+Infinity", "--Infinity", "INF", "NaNs", "infinity", "{NaN:1}", "-NaN"]
)
def test_other_literals_are_no_json(text: str) -> None:
    body = f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[2],"data":[NaN,{text}]}}]}}'.encode()
    with pytest.raises(InputError, match=r"^the body is not JSON: "):
        read(body)


@pytest.mark.parametrize(
    "body", [b'"' + b'\\"' * 200_000 + b"NaN", b"[" * 400_000 + b"NaN", b"[NaN," * 200_000]
)
def test_literals_in_what_is_no_json_cost_little(body: bytes) -> None:
    began = time.perf_counter()
    with pytest.raises(InputError, match=r"^the body is not JSON: "):
        read(body)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("datatype", [datatype for datatype in VALUES if datatype not in FLOATS])
@pytest.mark.parametrize("value", [None, float("nan")], ids=["null", "NaN"])
def test_other_datatypes_have_no_missing_values(datatype: str, value: Any) -> None:
    values = [*VALUES[datatype][:3], value]
    words = f"input 'x': {datatype} cannot be made of null ({{}}); "
    words += "only FP16, BF16, FP32, FP64 have missing values (null, NaN)"
    assert refused(tensor(datatype, [4], values)) == words.format("data[3]")
    nested = [values[:2], values[2:]]
    assert refused(tensor(datatype, [2, 2], nested)) == words.format("data[1][1]")


@pytest.mark.parametrize("datatype", [datatype for datatype in VALUES if datatype not in [*FLOATS, "BYTES"]])
def test_other_numbers_are_never_infinite(datatype: str) -> None:
    for value in ("Infinity", float("-inf")):
        assert refused(tensor(datatype, [2], [VALUES[datatype][0], value])) == (
            f"input 'x': {datatype} cannot be made of strings (data[1])"
        )


def test_a_number_beyond_all_measure_is_refused() -> None:
    assert refused(tensor(data=[1, 10**400])).startswith("the body is not JSON: ")


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"inputs"'])
def test_a_body_must_be_an_object(body: bytes) -> None:
    with pytest.raises(InputError, match=r"^the body must be a JSON object with `inputs`$"):
        read(body)


@pytest.mark.parametrize("body", [b"{}", b'{"inputs": []}', b'{"inputs": {}}', b'{"inputs": null}'])
def test_inputs_must_be_there(body: bytes) -> None:
    with pytest.raises(InputError, match=r"^`inputs` must be a list of one tensor or more$"):
        read(body)


def test_each_input_is_an_object_with_a_name_of_its_own() -> None:
    assert refused(tensor(), 3) == "inputs[1] must be an object"
    assert refused({**tensor(), "name": None}) == "inputs[0].name must be a string"
    assert refused(tensor(), tensor()) == "input 'x' is there twice"


@pytest.mark.parametrize("datatype", ["FP8", "TYPE_FP32", "fp32", "", None, 32, ["FP32"]])
def test_an_unknown_datatype_is_named(datatype: Any) -> None:
    assert refused(tensor(datatype)) == (
        f"input 'x': datatype {datatype!r} is none of BOOL, UINT8, UINT16, UINT32, UINT64, "
        "INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES"
    )


@pytest.mark.parametrize(
    "shape", [None, 2, "2", {}, [-1], [True], [2.0], ["2"], [[2]], [None], [1] * 17, [2**70]]
)
def test_a_shape_is_a_list_of_whole_numbers(shape: Any) -> None:
    assert refused(tensor(shape=shape)) == (
        "input 'x': shape must be a list of at most 16 whole numbers from 0 up"
    )


@pytest.mark.parametrize("shape", [[10**9] * 3, [10**9] * 16, [2**63, 2], [1], [3], [2, 2], [0], []])
def test_a_shape_must_fit_its_data(shape: list[int]) -> None:
    text = refused(tensor(shape=shape))
    assert text.startswith(f"input 'x': shape {shape} needs ")
    assert text.endswith(" element, data has 2" if math.prod(shape) == 1 else " elements, data has 2")


@pytest.mark.parametrize("shape", [[0, 10**18, 10**18], [2**63, 0]])
def test_a_shape_that_no_array_can_have_is_refused(shape: list[int]) -> None:
    assert refused(tensor(shape=shape, data=[])) == f"input 'x': shape {shape} is too large"


@pytest.mark.parametrize("data", [None, 1, "12", {"0": 1}])
def test_data_is_a_list(data: Any) -> None:
    assert refused(tensor(data=data)).startswith("input 'x': data must be a list")


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("FP32", [[1], [2, 3]]),
        ("FP32", [1, [2, 3]]),
        ("INT64", [[1, 2], 3]),
        ("INT64", [[[1]], [2], 3]),
        ("BYTES", [["a"], ["b", "c"]]),
        ("BYTES", ["a", ["b", "c"]]),
    ],
)
def test_ragged_data_is_refused(datatype: str, data: list[Any]) -> None:
    assert refused(tensor(datatype, [3], data)) == "input 'x': data is ragged"


@pytest.mark.parametrize(
    ("datatype", "data", "types", "first"),
    [
        ("FP32", ["1", "2"], "strings", 0),
        ("FP32", [1, "2"], "strings", 1),
        ("FP32", ["NaN", "nan"], "strings", 1),
        ("BF16", [None, "2"], "strings", 1),
        ("FP64", [True, False], "booleans", 0),
        ("FP64", [0.5, True], "booleans", 1),
        ("FP64", [None, True], "booleans", 1),
        ("FP32", [{}, None], "objects", 0),
        ("INT64", [1, 1.5], "fractions", 1),
        ("INT64", [1.0, 2.0], "fractions", 0),
        ("INT64", [1, True], "booleans", 1),
        ("UINT8", [1, "2"], "strings", 1),
        ("INT64", [1, 2**64], "fractions", 1),
        ("BOOL", [0, 1], "integers", 0),
        ("BOOL", [True, 1], "integers", 1),
        ("BOOL", ["true", "false"], "strings", 0),
        ("BYTES", [1, "2"], "integers", 0),
    ],
)
def test_values_of_another_type_are_refused(datatype: str, data: list[Any], types: str, first: int) -> None:
    text = f"input 'x': {datatype} cannot be made of {types}"
    assert refused(tensor(datatype, [2], data)) == f"{text} (data[{first}])"
    assert refused(tensor(datatype, [2, 1], [[item] for item in data])) == f"{text} (data[{first}][0])"


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("UINT8", 256),
        ("UINT8", -1),
        ("UINT16", 2**16),
        ("UINT32", 2**32),
        ("UINT64", -1),
        ("INT8", 128),
        ("INT8", -129),
        ("INT16", 2**15),
        ("INT32", 2**31),
        ("INT64", 2**63),
    ],
)
@pytest.mark.parametrize("beside", [0, 1, 127])
def test_integers_must_fit_their_datatype(datatype: str, value: int, beside: int) -> None:
    limits = np.iinfo(Datatype(datatype).numpy)
    assert refused(tensor(datatype, [2], [beside, value])) == (
        f"input 'x': a value is outside {datatype} ({limits.min} to {limits.max})"
    )


def test_very_large_and_small_integers_stand_side_by_side() -> None:
    array = decode(tensor("UINT64", [2], [1, 2**64 - 1])).inputs["x"]
    assert array.tolist() == [1, 2**64 - 1]
    assert refused(tensor("INT64", [2], [-1, 2**63])).startswith("input 'x': a value is outside INT64")


def test_one_long_string_among_many_costs_no_memory() -> None:
    # numpy would give every element the room of the longest: 400 GB here
    strings = ["x" * 1_000_000] + ["y"] * 100_000
    assert (
        refused(tensor("FP32", [100_001], strings)) == "input 'x': FP32 cannot be made of strings (data[0])"
    )
    assert decode(tensor("BYTES", [100_001], strings)).inputs["x"].size == 100_001


@pytest.mark.parametrize(
    ("parameters", "binary", "default"),
    [
        (None, None, False),
        ({}, {}, False),
        ({"binary_data_output": True}, None, True),
        ({"binary_data_output": False}, {"binary_data": True}, False),
        ({"binary_data_output": True}, {"binary_data": False}, True),
        ({"priority": 1, "timeout": 5, "other": "x", "ratio": 0.5}, {"other": True}, False),
    ],
)
def test_outputs_are_raw_where_they_or_all_are_asked_to_be(
    parameters: Any, binary: Any, default: bool
) -> None:
    output = {"name": "y"} | ({} if binary is None else {"parameters": binary})
    others = {} if parameters is None else {"parameters": parameters}
    call = decode(tensor(), outputs=[output], **others)
    assert call.others == (IN_BINARY if default else IN_JSON)
    assert call.outputs == {"y": RequestedOutput((binary or {}).get("binary_data", default))}


def test_classes_may_be_asked_of_an_output() -> None:
    for expected, parameters in [
        (RequestedOutput(classes=3), {"classification": 3}),
        (RequestedOutput(binary=True, classes=1), {"classification": 1, "binary_data": True}),
        (RequestedOutput(), {"classification": 0}),
    ]:
        assert decode(tensor(), outputs=[{"name": "y", "parameters": parameters}]).outputs == {"y": expected}


def test_a_caller_may_say_how_long_it_waits() -> None:
    assert decode(tensor()).timeout_us == 0
    assert decode(tensor(), parameters={"timeout": 0}).timeout_us == 0
    assert decode(tensor(), parameters={"timeout": 250_000}).timeout_us == 250_000


@pytest.mark.parametrize("value", [-1, 1.5, 1e6, "5", True, 2**64])
def test_a_timeout_is_a_whole_number(value: Any) -> None:
    text = refused(tensor(), parameters={"timeout": value})
    assert text == "the request: timeout must be a whole number from 0 up"


@pytest.mark.parametrize("value", [None, [], {}, [1], {"a": 1}])
def test_parameters_are_plain_values(value: Any) -> None:
    text = "parameter 'p' must be a string, a number or a boolean"
    assert refused(tensor(), parameters={"p": value}) == f"the request: {text}"
    assert refused(tensor(parameters={"p": value})) == f"input 'x': {text}"
    assert refused(tensor(), outputs=[{"name": "y", "parameters": {"p": value}}]) == f"output 'y': {text}"


@pytest.mark.parametrize("parameters", [1, "x", [], True])
def test_parameters_are_an_object(parameters: Any) -> None:
    assert refused(tensor(), parameters=parameters) == "the request: parameters must be an object"
    assert refused(tensor(parameters=parameters)) == "input 'x': parameters must be an object"
    outputs = [{"name": "y", "parameters": parameters}]
    assert refused(tensor(), outputs=outputs) == "output 'y': parameters must be an object"


@pytest.mark.parametrize(
    ("outputs", "others", "text"),
    [
        (
            None,
            {"parameters": {"binary_data_output": 1}},
            "the request: parameter 'binary_data_output' must be true or false",
        ),
        ({"binary_data": "yes"}, {}, "output 'y': parameter 'binary_data' must be true or false"),
        ({"classification": -1}, {}, "output 'y': classification must be a whole number from 0 up"),
        ({"classification": 1.5}, {}, "output 'y': classification must be a whole number from 0 up"),
        ({"classification": True}, {}, "output 'y': classification must be a whole number from 0 up"),
        (
            {"shared_memory_region": "r"},
            {},
            "output 'y': shared memory is not supported; send data with the request",
        ),
    ],
)
def test_known_parameters_have_their_types(outputs: Any, others: dict[str, Any], text: str) -> None:
    requested = None if outputs is None else [{"name": "y", "parameters": outputs}]
    assert refused(tensor(), outputs=requested, **others) == text


def test_an_input_in_shared_memory_is_refused() -> None:
    region = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    without = {"name": "x", "datatype": "FP32", "shape": [2], "parameters": region}
    assert refused(without) == "input 'x': shared memory is not supported; send data with the request"


def test_a_great_many_parameters_and_outputs_cost_little() -> None:
    many = {f"p{number}": number for number in range(100_000)}
    outputs = [{"name": f"y{number}"} for number in range(100_000)]
    assert len(decode(tensor(), parameters=many, outputs=outputs).outputs) == 100_000


@pytest.mark.parametrize("request_id", [1, None, ["r"], {}])
def test_an_id_is_a_string(request_id: Any) -> None:
    assert refused(tensor(), id=request_id) == "`id` must be a string"


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"name": "y"}, "`outputs` must be a list"),
        ({}, "`outputs` must be a list"),
        (0, "`outputs` must be a list"),
        ("y", "`outputs` must be a list"),
        (["y"], "each of `outputs` must be an object with a `name`"),
        ([{"name": "y"}, {}], "each of `outputs` must be an object with a `name`"),
        ([{"name": "y"}, {"name": "y"}], "output 'y' is asked for twice"),
        ([{"name": 1}], "each of `outputs` must be an object with a `name`"),
    ],
)
def test_outputs_are_objects_with_names(outputs: Any, text: str) -> None:
    assert refused(tensor(), outputs=outputs) == text


def test_an_answer_names_model_version_and_request() -> None:
    encode = answers.Encoder('i"ris', "v1", {})
    body, _ = encode(Call('r"1', {}), {"b": np.array([1], "i8"), "a": np.array([True])})
    assert json.loads(body) == {
        "model_name": 'i"ris',
        "model_version": "v1",
        "id": 'r"1',
        "outputs": [
            {"name": "b", "datatype": "INT64", "shape": [1], "data": [1]},
            {"name": "a", "datatype": "BOOL", "shape": [1], "data": [True]},
        ],
    }


@pytest.mark.parametrize("datatype", FLOATS)
def test_what_json_cannot_say_is_null_or_a_string(datatype: str) -> None:
    values = [None, "Infinity", "-Infinity", 1.5]
    array = np.array([np.nan, np.inf, -np.inf, 1.5]).astype(Datatype(datatype).numpy)
    assert encode(x=array) == [tensor(datatype, [4], values)]
    assert encode(x=array.reshape(2, 2).T) == [tensor(datatype, [2, 2], [None, "-Infinity", "Infinity", 1.5])]
    assert encode(null=np.array([b"null"], object), x=array[:1])[1]["data"] == [None]
    names = [f"u{number}" for number in range(40)]
    for tensor_ in encode(x=array, **dict.fromkeys(names, array[1:2]))[1:]:
        assert tensor_["data"] == ["Infinity"]


def test_infinities_beside_other_numbers_change_none_of_them() -> None:
    array = np.array([0.1, np.inf, 1e-45, -3.4028235e38, np.nan] * 2000, "f4")
    (output,) = encode(x=array)
    assert output["data"] == [0.1, "Infinity", 1e-45, -3.4028235e38, None] * 2000


@pytest.mark.parametrize("datatype", FLOATS)
@pytest.mark.parametrize("count", [1, 3000])
def test_an_answer_is_a_call_again_and_loses_nothing(datatype: str, count: int) -> None:
    values = [np.nan, np.inf, -np.inf, 1 / 3, -0.0] * count
    array = np.array(values, np.float64).astype(Datatype(datatype).numpy)
    (output,) = encode(x=array)
    again = decode(output).inputs["x"]
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again.view("u1"), array.view("u1"))


def test_outputs_may_be_views() -> None:
    whole = np.arange(12, dtype="i4").reshape(3, 4)
    for array in (whole.T, whole[:, ::2], whole[::-1], whole[0, ::-2], np.broadcast_to(whole[0], (2, 4))):
        assert encode(x=array) == [tensor("INT32", list(array.shape), array.reshape(-1).tolist())]


def test_bytes_may_be_of_any_kind_of_string() -> None:
    for array in (
        np.array([b"caf\xc3\xa9", "thé"], dtype=object),
        np.array(["café", "thé"]),
        np.array(["café".encode(), "thé".encode()]),
    ):
        assert encode(x=array) == [tensor("BYTES", [2], ["café", "thé"])]
    assert encode(x=np.array([b"\xff"], dtype=object)) == [tensor("BYTES", [1], ["\ufffd"])]


@pytest.mark.parametrize("dtype", ["complex64", ">f4", "datetime64[s]"])
def test_an_output_that_the_protocol_cannot_say_is_the_models_fault(dtype: str) -> None:
    with pytest.raises(ExecutionError, match=r"^output 'x': dtype \S+ has no datatype"):
        encode(x=np.zeros(1, dtype))


def test_metadata_tells_scalars_any_length_and_any_rank_apart() -> None:
    signature = Signature(
        (TensorSpec("a", "FP32", (-1, 4)), TensorSpec("b", "BYTES", None)), (TensorSpec("c", "INT64", ()),)
    )
    assert json.loads(describe.metadata("iris", "v1", "onnxruntime_onnx", signature)) == {
        "name": "iris",
        "versions": ["v1"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "b", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": "c", "datatype": "INT64", "shape": []}],
    }


def test_a_configuration_has_the_same_tensors_in_tritons_words() -> None:
    signature = Signature(
        (TensorSpec("a", "BF16", (-1, 4)), TensorSpec("b", "BYTES", None)), (TensorSpec("c", "BOOL", ()),)
    )
    assert json.loads(describe.configuration("iris", "onnxruntime_onnx", signature)) == {
        "name": "iris",
        "platform": "onnxruntime_onnx",
        "max_batch_size": 0,
        "input": [
            {"name": "a", "data_type": "TYPE_BF16", "dims": [-1, 4]},
            {"name": "b", "data_type": "TYPE_STRING", "dims": [-1]},
        ],
        "output": [{"name": "c", "data_type": "TYPE_BOOL", "dims": []}],
    }


def test_datatypes_that_are_not_stated_and_inputs_that_may_be_left_out_are_shown() -> None:
    signature = Signature(
        (TensorSpec("x", ANY, likely="INT64"),), (TensorSpec("y", ANY),), (TensorSpec("scale", "FP32", (1,)),)
    )
    document = json.loads(describe.metadata("lstm", "v1", "pytorch_torchscript", signature))
    assert document["inputs"] == [
        {"name": "x", "datatype": "ANY", "shape": [-1]},
        {"name": "scale", "datatype": "FP32", "shape": [1]},
    ]
    assert document["outputs"] == [{"name": "y", "datatype": "ANY", "shape": [-1]}]
    configuration = json.loads(describe.configuration("lstm", "pytorch_torchscript", signature))
    assert configuration["input"] == [
        {"name": "x", "data_type": "TYPE_INVALID", "dims": [-1]},
        {"name": "scale", "data_type": "TYPE_FP32", "dims": [1], "optional": True},
    ]
    assert configuration["output"] == [{"name": "y", "data_type": "TYPE_INVALID", "dims": [-1]}]


def test_a_datatype_that_a_call_was_answered_with_is_shown() -> None:
    specs = (TensorSpec("x", ANY, likely="INT64"), TensorSpec("z", "FP16"))
    signature = Signature(specs, (TensorSpec("y", ANY),), (TensorSpec("mask", ANY),))
    document = json.loads(describe.metadata("gpt", "v1", "pytorch", describe.proven(signature)))
    assert [tensor["datatype"] for tensor in document["inputs"]] == ["INT64", "FP16", "ANY"]
    assert document["outputs"][0]["datatype"] == "ANY"


def test_a_body_without_json_needs_a_stated_datatype() -> None:
    decoder = Decoder(Signature((TensorSpec("x", ANY, (-1,)),), ()))
    with pytest.raises(InputError, match="does not say the datatype of input 'x'"):
        decoder([bytes(4)], b"0")


def test_the_configuration_of_a_batched_model_is_of_one_row() -> None:
    signature = Signature((TensorSpec("a", "FP32", (-1, 4)),), (TensorSpec("c", "INT64", (-1,)),))
    assert json.loads(describe.configuration("iris", "onnxruntime_onnx", signature, Batching(8, 0.0025))) == {
        "name": "iris",
        "platform": "onnxruntime_onnx",
        "max_batch_size": 8,
        "input": [{"name": "a", "data_type": "TYPE_FP32", "dims": [4]}],
        "output": [{"name": "c", "data_type": "TYPE_INT64", "dims": []}],
        "dynamic_batching": {"max_queue_delay_microseconds": 2500},
    }


def test_an_error_is_json() -> None:
    assert json.loads(answers.error('no "x"\n')) == {"error": 'no "x"\n'}

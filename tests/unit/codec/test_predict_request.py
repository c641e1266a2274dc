"""Calls as people write them, each form of a body, and what is said where one is wrong."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gateway.codec.predict import images
from gateway.codec.predict.image_settings import ImageSettings, UnusableImageSettings
from gateway.codec.predict.media import UnknownMedia
from gateway.codec.predict.paths import Style
from gateway.codec.predict.request import Reader
from runtimes.base import ANY, Array, Datatype, Signature, TensorSpec
from runtimes.errors import InputError
from runtimes.tables import column

PEOPLE = Signature(
    (
        column("age", Datatype.INT64),
        column("height", Datatype.FP32),
        column("city", Datatype.BYTES),
        column("is_new", Datatype.BOOL),
    ),
    (TensorSpec("predict", "INT64", (-1,)), TensorSpec("predict_proba", "FP64", (-1, 2))),
)
MATRIX = Signature((TensorSpec("input", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 1)),))
TEXT = Signature((TensorSpec("text", "BYTES", (-1,)),), ())
PAIR = Signature((TensorSpec("a", "INT32", (-1, 2)), TensorSpec("b", "FP32", (-1, 2))), ())
RGB = Signature((TensorSpec("image", "UINT8", (-1, 4, 6, 3)),), ())

ROW: dict[str, Any] = {"age": 51, "height": 1.8, "city": "Oslo", "is_new": True}
ROWS = [ROW, {"is_new": 0, "city": None, "height": None, "age": 7.0}]
VALUES: list[list[Any]] = [[51, 1.8, "Oslo", True], [7, None, None, False]]
NAMES = ["age", "height", "city", "is_new"]


def read(
    signature: Signature,
    body: Any,
    content_type: str = "application/json",
    image: ImageSettings | None = None,
    style: Style = Style.NAMED,
) -> dict[str, Array]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reader(signature, image, 1 << 20)([raw], content_type, style).call.inputs


def refused(signature: Signature, body: Any, content_type: str = "application/json") -> str:
    with pytest.raises(InputError) as refusal:
        read(signature, body, content_type)
    return str(refusal.value)


def check_people(inputs: dict[str, Array]) -> None:
    assert list(inputs) == NAMES
    assert inputs["age"].tolist() == [[51], [7]]
    assert inputs["age"].dtype == np.int64
    assert inputs["height"].dtype == np.float32
    assert inputs["height"][0, 0] == np.float32(1.8)
    assert np.isnan(inputs["height"][1, 0])
    assert inputs["city"].tolist() == [[b"Oslo"], [None]]
    assert inputs["is_new"].tolist() == [[True], [False]]


@pytest.mark.parametrize(
    "body",
    [
        {"rows": ROWS},
        {"instances": ROWS, "signature_name": "serving_default"},
        {"dataframe_records": ROWS, "params": {}},
        {"dataframe_split": {"columns": NAMES, "data": VALUES, "index": [0, 1]}},
        {"dataframe_split": {"columns": NAMES[::-1], "data": [row[::-1] for row in VALUES]}},
        {"inputs": {name: [row[place] for row in VALUES] for place, name in enumerate(NAMES)}},
        {"inputs": ROWS},
        {"rows": VALUES},
        {"instances": VALUES},
        ROWS,
        VALUES,
    ],
)
def test_rows_in_json(body: Any) -> None:
    check_people(read(PEOPLE, body))


@pytest.mark.parametrize(
    "text",
    [
        "age,height,city,is_new\n51,1.8,Oslo,true\n7,,,0\n",
        '\ufeffcity,"age", height ,is_new\r\n"Oslo",51,1.8,True\r\n,7.0,NaN,FALSE\r\n',
        ",age,height,city,is_new\n0,51,1.8,Oslo,1\n1,7,,,0\n",
        "51,1.8,Oslo,1\n7,,,0\n",
    ],
)
def test_rows_in_csv(text: str) -> None:
    check_people(read(PEOPLE, text.encode(), "text/csv"))
    check_people(read(PEOPLE, text.encode(), "application/x-www-form-urlencoded"))
    check_people(read(PEOPLE, text.lstrip("\ufeff").encode("utf-16"), "text/csv"))


def test_encodings_of_csv() -> None:
    text = 'city,age,height,is_new\n"Tromsø, ""nord""",1,2,1'
    for charset in ("utf-8", "latin-1", "windows-1252"):
        inputs = read(PEOPLE, text.encode(charset), f'text/csv; charset="{charset}"')
        assert inputs["city"].tolist() == [['Tromsø, "nord"'.encode()]]
    assert "is not UTF-8 from byte" in refused(PEOPLE, text.encode("latin-1"), "text/csv")
    assert "'zip'" in refused(PEOPLE, text.encode(), "text/csv; charset=zip")


def test_one_row_may_stand_alone() -> None:
    assert read(PEOPLE, ROW)["age"].tolist() == [[51]]
    assert read(MATRIX, {"input": [1, 2, 3]})["input"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[1, 2, 3], [4, None, "NaN"]]},
        {"inputs": [[1, 2, 3], [4, None, None]]},
        {"rows": [{"input": [1, 2, 3]}, {"input": [4, None, None]}]},
        {"dataframe_split": {"columns": ["x", "y", "z"], "data": [[1, 2, 3], [4, None, None]]}},
        b'{"rows": [[1, 2, 3], [4, NaN, NaN]]}',
    ],
)
def test_rows_of_a_matrix(body: Any) -> None:
    array = read(MATRIX, body)["input"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, [[1, 2, 3], [4, np.nan, np.nan]])


@pytest.mark.parametrize("text", ["1,2,3\n4,,nan\n", "x,y,z\n1,2,3\n4,,\n"])
def test_a_matrix_in_csv(text: str) -> None:
    np.testing.assert_array_equal(
        read(MATRIX, text.encode(), "text/csv")["input"], [[1, 2, 3], [4, np.nan, np.nan]]
    )


def test_scalars_texts_and_several_tensors() -> None:
    assert read(TEXT, {"instances": ["a", "b"]})["text"].tolist() == [b"a", b"b"]
    assert read(TEXT, [["a"], ["b"]])["text"].tolist() == [b"a", b"b"]
    rows = [{"a": [1, 2], "b": [0.5, 1]}, {"b": [2, 3], "a": [3, 4]}]
    for body in (
        {"instances": rows},
        [[[1, 2], [0.5, 1]], [[3, 4], [2, 3]]],
        {"inputs": {"a": [[1, 2], [3, 4]], "b": [[0.5, 1], [2, 3]]}},
    ):
        inputs = read(PAIR, body)
        assert (inputs["a"].tolist(), inputs["b"].tolist()) == ([[1, 2], [3, 4]], [[0.5, 1], [2, 3]])


def test_flat_rows_and_missing_axes_are_put_right() -> None:
    digits = Signature((TensorSpec("x", "FP32", (-1, 2, 2, 1)),), ())
    for rows in ([[1, 2, 3, 4]], [[[1, 2], [3, 4]]], [[[[1], [2]], [[3], [4]]]]):
        assert read(digits, {"rows": rows})["x"].shape == (1, 2, 2, 1)
    assert read(digits, b"1,2,3,4\n5,6,7,8", "text/csv")["x"].shape == (2, 2, 2, 1)


def test_unknown_datatypes_and_shapes_are_the_likely_ones() -> None:
    unknown = Signature((TensorSpec("x", ANY, None, "INT64"), TensorSpec("y", ANY, (-1, 1))), ())
    inputs = read(unknown, [{"x": [1, 2], "y": 1}])
    assert [(str(array.dtype), array.shape) for array in inputs.values()] == [
        ("int64", (1, 2)),
        ("float32", (1, 1)),
    ]


def test_optional_inputs_may_be_left_out() -> None:
    signature = Signature((column("a"),), (), (column("b"),))
    assert list(read(signature, [{"a": 1}])) == ["a"]
    assert list(read(signature, [[1, 2]])) == ["a", "b"]
    assert "only some rows have 'b'" in refused(signature, [{"a": 1}, {"a": 1, "b": 2}])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([{**ROW, "age": 1.5}], "row 1, column 'age': INT64 cannot be made of fractions, such as 1.5"),
        ([ROW, {**ROW, "age": "1"}], "row 2, column 'age': INT64 cannot be made of strings, such as '1'"),
        ([{**ROW, "age": None}], "row 1, column 'age': INT64 cannot be null; only FP16"),
        ([{**ROW, "age": 2**63}], "row 1, column 'age': 9223372036854775808 is outside INT64"),
        ([{**ROW, "height": True}], "row 1, column 'height': FP32 cannot be made of booleans"),
        (
            [{**ROW, "height": "2024-01-01"}],
            "row 1, column 'height': FP32 cannot be made of strings, such as '2024-01-01'",
        ),
        ([{**ROW, "city": 5}], "row 1, column 'city': BYTES cannot be made of integers, such as 5"),
        ([{**ROW, "city": {}}], "row 1, column 'city': BYTES cannot be made of objects"),
        ([{**ROW, "is_new": 2}], "row 1, column 'is_new': BOOL cannot be made of integers, such as 2"),
        ([{**ROW, "city": "x" * 50, "age": "y" * 50}], f"such as '{'y' * 40}'…"),
        ([ROW, {**ROW, "sex": 1}], "row 2: 'sex' is no column; the model takes 'age', 'height'"),
        ([ROW, {"age": 1}], "row 2: 'height', 'city', 'is_new' are missing"),
        ({"age": 1, "town": "x"}, "'town' is no column, and 'height', 'city', 'is_new' are missing"),
        ([ROW, 3], "row 2 is no object, but others are"),
        ([[1, 2.0, "x", True], [1]], "row 2 has 1 value, and row 1 has 4"),
        ([[1, 2]], "a row has 2 values; the model takes 4"),
        ([1, 2], "a row must be an object, or a list of values"),
        ({"rows": []}, "there are no rows"),
        ({"rows": {}}, "'rows' must be a list of rows"),
        ({"rows": [ROW], "instances": [ROW]}, "both 'rows' and 'instances'"),
        ({"rows": [ROW], "row": 1}, "'row' beside 'rows' means nothing here"),
        ({"data": [ROW]}, 'the body has no rows; send {"rows": '),
        ({}, "the body has no rows"),
        ("text", "must be a JSON object or a list"),
        ({"inputs": {"age": [1]}}, "'height', 'city', 'is_new' are missing"),
        (
            {"inputs": {**{name: [1] for name in NAMES}, "age": [1, 2]}},
            "columns 'age' and 'height' have 2 and 1 values",
        ),
        ({"inputs": dict.fromkeys(NAMES, 1)}, "column 'age' must be a list"),
        (
            {"dataframe_split": {"columns": ["age"], "data": [[1], [2, 3]]}},
            "row 2 has 2 values for 1 column",
        ),
        ({"dataframe_split": []}, "must be an object with 'columns'"),
        ({"rows": [ROW], "outputs": [1]}, "'outputs' must be a list"),
        (
            {"inputs": [{"name": "age", "shape": [1], "datatype": "INT64", "data": [1]}]},
            "POST them to the path …/infer",
        ),
        (b"{", "the body is not JSON"),
        (b"", "the body is empty"),
        (b"[" * 100_000, "the body is not JSON"),
    ],
)
def test_what_is_wrong_with_rows_is_said(body: Any, message: str) -> None:
    assert message in refused(PEOPLE, body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([[1, 2]], "a row of 'input' must have values of shape [3], not values of shape [2]"),
        ([1, 2], "a row of 'input' must have values of shape [3], not one value"),
        ([[1, 2, 3], [1, 2]], "row 2, column 'input': 2 values where 3 values came before"),
        ([[1, 2, 3], 4], "row 2, column 'input': one value where 3 values came before"),
        ([[1, 2, "x"]], "row 1, column 'input': FP32 cannot be made of strings, such as 'x'"),
        (json.loads("[" * 20 + "1" + "]" * 20), "nested too deep"),
        ([{"age": 1}], "'age' is no column, and 'input' is missing"),
    ],
)
def test_what_is_wrong_with_a_matrix_is_said(body: Any, message: str) -> None:
    assert message in refused(MATRIX, body)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age,height,city,is_new\n1.5,1,x,1", "row 1, column 'age': '1.5' is no INT64"),
        ("age,height,city,is_new\n1,1,x,1\n,1,x,1", "row 2, column 'age': INT64 cannot be empty"),
        ("age,height,city,is_new\n1,1_0,x,1", "row 1, column 'height': '1_0' is no FP32"),
        ("age,height,city,is_new\n1,tall,x,1", "row 1, column 'height': 'tall' is no FP32"),
        ("age,height,city,is_new\n1,1,x,yes", "row 1, column 'is_new': 'yes' is no BOOL"),
        ("age,height,city,is_new\n9223372036854775808,1,x,1", "is no INT64 (-9223372036854775808 to"),
        ("age,height,city\n1,1,x", "'is_new' is missing; the model takes"),
        ("age,height,city,is_new,sex\n1,1,x,1,1", "'sex' is no column"),
        ("age,age,height,city,is_new\n1,1,1,x,1", "column 'age' is there twice"),
        ("age,height,city,is_new\n1,1,x", "line 2 has 3 values, and line 1 has 4"),
        ("age,height,city,is_new\n", "there are no rows below the header"),
        ("\n\n", "there are no rows"),
        ('age,height,city,is_new\n1,1,"x,1', "is not CSV"),
        ("1,2", "a row has 2 values; the model takes 4"),
        ("age,height,city,is_new\n1,1," + "x" * 200_000 + ",1", "is not CSV"),
    ],
)
def test_what_is_wrong_with_csv_is_said(text: str, message: str) -> None:
    assert message in refused(PEOPLE, text.encode(), "text/csv")


def test_too_many_cells_are_refused_before_they_are_made() -> None:
    assert "more than 4,000,000 cells" in refused(MATRIX, b"," * 9_000_000, "text/csv")


@pytest.mark.parametrize("content_type", ["application/pdf", "multipart/form-data; boundary=x", "image/gif"])
def test_other_types_are_refused(content_type: str) -> None:
    with pytest.raises(UnknownMedia, match="is not read here; send one of application/json"):
        read(MATRIX, b"x", content_type)


@pytest.mark.parametrize(
    "content_type", ["", "application/octet-stream", "text/plain", "application/vnd.x+json"]
)
def test_json_is_known_by_its_beginning(content_type: str) -> None:
    assert read(MATRIX, b'\n {"rows": [[1, 2, 3]]}', content_type)["input"].shape == (1, 3)


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("content_type", ["application/x-npy", "application/octet-stream", ""])
@pytest.mark.parametrize("dtype", ["f8", ">f4", "f2", "i8", "u1", ">i2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_of_numpy(content_type: str, dtype: str, order: Any) -> None:
    array = np.array([[1, 2, 3], [4, 5, 6]], dtype, order=order)
    inputs = read(MATRIX, npy(array), content_type)
    assert inputs["input"].dtype == np.float32
    assert inputs["input"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert inputs["input"].dtype.isnative
    assert read(MATRIX, npy(array[0]), content_type)["input"].tolist() == [[1, 2, 3]]


def test_arrays_of_several_inputs() -> None:
    inputs = read(PAIR, npz(b=np.ones((2, 2)), a=np.ones((2, 2), "u1")), "application/x-npz")
    assert {name: (str(array.dtype), array.shape) for name, array in inputs.items()} == {
        "a": ("int32", (2, 2)),
        "b": ("float32", (2, 2)),
    }
    table = Signature((column("a"), column("b", Datatype.INT64)), ())
    assert read(table, npy(np.array([[1, 2], [3, 4]])), "")["b"].tolist() == [[2], [4]]
    records = np.array([(2, 1.5)], [("b", "i4"), ("a", "f4")])
    assert read(table, npy(records), "")["a"].tolist() == [[1.5]]
    assert read(TEXT, npy(np.array(["ø", "b"])), "")["text"].tolist() == ["ø".encode(), b"b"]


def header(text: str, data: bytes = b"") -> bytes:
    line = text.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + data


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (npy(np.array([{}]), allow_pickle=True), "has elements of object"),
        (npy(np.array(["2024-01-01"], "M8[D]")), "has elements of datetime64[D]"),
        (npy(np.ones((1, 3), "c8")), "has elements of complex64"),
        (npy(np.array([["a", "b", "c"]])), "input 'input' must be FP32, not strings"),
        (npy(np.ones((1, 4))), "a row of 'input' must have values of shape [3], not values of shape [4]"),
        (npy(np.ones((1, 3)))[:-1], "needs 24 bytes, and 23 follow"),
        (npy(np.ones((1, 3))) + b"x", "needs 24 bytes, and 25 follow"),
        (
            header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3)}"),
            "needs 24000000000000 bytes",
        ),
        (
            header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -8)}", b"x" * 64),
            "has the shape [-1, -8]",
        ),
        (header("{'descr': '|V0', 'fortran_order': False, 'shape': (99999999999,)}"), "has elements of |V0"),
        (header("{'descr': '|S0', 'fortran_order': False, 'shape': (99999999999,)}"), "needs 0 bytes"),
        (header("__import__('os').system('true')"), "is no .npy file"),
        (header("(" * 100), "is no .npy file"),
        (b"\x93NUMPY\x03\x00", "version (3, 0)"),
        (b"\x93NUMPY", "is no .npy file"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "is no .npy file"),
    ],
)
def test_what_is_wrong_with_an_array_is_said(body: bytes, message: str) -> None:
    tracemalloc.start()
    assert message in refused(MATRIX, body, "application/x-npy")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_values_are_changed_by_no_cast() -> None:
    whole = Signature((TensorSpec("x", "INT32", (-1,)),), ())
    assert read(whole, npy(np.array([1.0, 2.0])), "")["x"].tolist() == [1, 2]
    assert "1.5" in refused(whole, npy(np.array([1.5])), "")
    assert "not BOOL" in refused(whole, npy(np.array([True])), "")


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.npy", "b.npy"):
            archive.writestr(name, npy(np.zeros((200_000, 2), "i4")))
    return file.getvalue()


def lzma() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        for name in ("a.npy", "b.npy"):
            archive.writestr(name, npy(np.zeros((1, 2), "i4")))
    return file.getvalue()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (bomb(), "the arrays of the file take more than 1048576 bytes"),
        (lzma(), "only `numpy.savez` and `savez_compressed` are read"),
        (npz(a=np.ones((1, 2)), c=np.ones(2)), "'c' is no column, and 'b' is missing"),
        (npz(a=np.ones((1, 2)), b=np.ones((2, 2))), "columns 'a' and 'b' have 1 and 2 values"),
        (npz(a=1, b=2, c=3), "the file has 3 arrays"),
        (npz(a=np.ones((1, 2)), b=np.ones((1, 2)))[:-30], "is no .npz file"),
        (b"PK\x03\x04", "is no .npz file"),
    ],
)
def test_what_is_wrong_with_arrays_is_said(body: bytes, message: str) -> None:
    assert message in refused(PAIR, body, "application/zip")


def picture(
    size: Sequence[int] = (6, 4),
    mode: str = "RGB",
    form: str = "PNG",
    color: Any = (10, 20, 30),
    **options: Any,
) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (size[0], size[1]), color).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("content_type", ["image/png", "", "application/octet-stream"])
def test_an_image_as_it_is(content_type: str) -> None:
    array = read(RGB, picture(), content_type)["image"]
    assert (array.shape, str(array.dtype)) == ((1, 4, 6, 3), "uint8")
    assert array[0, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("spec", "settings", "shape", "pixel"),
    [
        (("UINT8", (-1, 3, 2, 2)), {}, (1, 3, 2, 2), [10, 20, 30]),
        (("UINT8", (-1, 2, 2, 3)), {"channels": "BGR"}, (1, 2, 2, 3), [30, 20, 10]),
        (("UINT8", (-1, 2, 2, 1)), {}, (1, 2, 2, 1), [18]),
        (("UINT8", (2, 2, 3)), {}, (2, 2, 3), [10, 20, 30]),
        (("UINT8", (-1, -1, -1, 3)), {}, (1, 4, 6, 3), [10, 20, 30]),
        (("UINT8", (-1, -1, -1, 3)), {"size": 8}, (1, 8, 8, 3), [10, 20, 30]),
        (("UINT8", None), {"size": [2, 3], "layout": "NCHW", "channels": "RGB"}, (1, 3, 2, 3), [10, 20, 30]),
        (("FP32", (-1, 3, 2, 2)), {"scale": 0.1}, (1, 3, 2, 2), [1, 2, 3]),
        (("FP16", (-1, 3, 2, 2)), {"scale": 0.1, "mean": [1, 1, 1], "std": [2]}, (1, 3, 2, 2), [0, 0.5, 1]),
        (("FP32", (-1, 2, 2)), {"scale": 1}, (1, 2, 2), [18]),
    ],
)
def test_an_image_becomes_what_the_model_takes(
    spec: Any, settings: Any, shape: tuple[int, ...], pixel: list[float]
) -> None:
    signature = Signature((TensorSpec("image", *spec),), ())
    array = read(signature, picture(), "image/png", ImageSettings.of(settings))["image"]
    assert array.shape == shape
    is_first = shape[1 if len(shape) == 4 else 0] == 3
    first = array.reshape(-1, *shape[-3:])[0] if len(shape) > 3 else array
    got = first[:, 0, 0] if is_first else first[0, 0] if first.shape[-1] in (1, 3) else [first[0, 0, 0]]
    np.testing.assert_allclose(np.asarray(got, float), pixel, atol=1e-3)


def test_ways_to_resize() -> None:
    image = Image.new("L", (8, 4), 0)
    image.paste(255, (2, 0, 6, 4))
    file = io.BytesIO()
    image.save(file, "PNG")
    square = Signature((TensorSpec("x", "UINT8", (-1, 4, 4, 1)),), ())
    means = {
        way: read(square, file.getvalue(), "", ImageSettings.of({"resize": way}))["x"].mean()
        for way in ("stretch", "crop", "pad")
    }
    assert means["crop"] == 255
    assert means["stretch"] == pytest.approx(127.5, abs=5)
    assert means["pad"] == pytest.approx(63.75, abs=20)


def test_an_image_is_turned_upright() -> None:
    image = Image.new("RGB", (2, 1))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    upright = Signature((TensorSpec("x", "UINT8", (-1, -1, -1, 3)),), ())
    array = read(upright, file.getvalue(), "image/png")["x"]
    assert array.shape == (1, 2, 1, 3)
    assert array[0, 0, 0].tolist() == [255, 0, 0]


def test_modes_of_images() -> None:
    for mode, color in (
        ("L", 7),
        ("LA", (7, 255)),
        ("P", 7),
        ("RGBA", (7, 7, 7, 0)),
        ("1", 0),
        ("I;16", 7 * 256),
    ):
        array = read(RGB, picture(mode=mode, color=color), "image/png")["image"]
        assert array.max() in (0, 7), mode
    assert read(RGB, picture(mode="CMYK", color=(0, 0, 0, 255), form="JPEG"), "image/jpeg")["image"].max() < 9


@pytest.mark.parametrize(
    ("signature", "body", "settings", "message"),
    [
        (RGB, b"x" * 100, {}, "the body is no PNG or JPEG"),
        (RGB, picture()[:45], {}, "the body is no PNG or JPEG"),
        (RGB, picture(form="GIF"), {}, "the body is no PNG or JPEG"),
        (RGB, picture(form="TIFF"), {}, "the body is no PNG or JPEG"),
        (MATRIX, picture(), {}, "the model takes no image: input 'input' has 2 axes"),
        (TEXT, picture(), {}, "the model takes no image: input 'text' is BYTES"),
        (PAIR, picture(), {}, "the model takes 2 inputs, and no image alone"),
        (
            Signature((TensorSpec("x", "FP32", (-1, 3, 2, 2)),), ()),
            picture(),
            {},
            "model.parameters.image.scale",
        ),
        (Signature((TensorSpec("x", "UINT8", (-1, 5, 2, 2)),), ()), picture(), {}, "is none of an image"),
        (Signature((TensorSpec("x", "UINT8"),), ()), picture(), {}, "model.parameters.image.layout"),
        (RGB, picture(), {"scale": 0.5}, "is UINT8, but the Kitfile scales images"),
        (RGB, picture(), {"size": [1, 1]}, "the Kitfile says that an image is (1, 1)"),
        (RGB, picture(), {"channels": "L"}, "the Kitfile says that an image is L"),
        (RGB, picture(), {"layout": "NCHW"}, "the Kitfile says that an image is NCHW"),
    ],
)
def test_what_is_wrong_with_an_image_is_said(
    signature: Signature, body: bytes, settings: Any, message: str
) -> None:
    with pytest.raises(InputError) as refusal:
        read(signature, body, "image/png", ImageSettings.of(settings))
    assert message in str(refusal.value)


def test_an_image_of_too_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    large = picture((9000, 9000), "1", color=0)
    assert len(large) < 100_000
    tracemalloc.start()
    with pytest.raises(InputError, match=f"9000 x 9000 pixels; {images.MAX_PIXELS} are the most"):
        read(RGB, large, "image/png")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000
    monkeypatch.setattr(images, "MAX_PIXELS", 10**12)
    with pytest.raises(InputError, match="decompression bomb"):
        read(RGB, picture((20000, 20000), "1", color=0), "image/png")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "must be an object"),
        ({"sizes": 1}, "'sizes' is none of channels, layout"),
        ({"size": [1, 2, 3]}, r"size must be \[HEIGHT, WIDTH\]"),
        ({"size": 0}, "from 1 to"),
        ({"size": True}, "size must be"),
        ({"channels": "RGBA"}, "channels must be one of RGB, BGR, L"),
        ({"layout": ["NCHW"]}, "layout must be one of"),
        ({"scale": "1"}, "scale must be a number"),
        ({"scale": [1]}, "scale must be a number"),
        ({"mean": []}, "mean must be a list of numbers"),
        ({"std": [1, 0, 1]}, "std must not be 0"),
    ],
)
def test_settings_of_images_are_checked(settings: Any, message: str) -> None:
    with pytest.raises(UnusableImageSettings, match=message):
        ImageSettings.of(settings)

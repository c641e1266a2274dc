"""Bodies that are made to cost a worker its memory or its time, or to be answered wrongly."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gateway.codec.predict import csv_rows, images, json_rows, numpy_files
from gateway.codec.predict.answer import wants_csv
from gateway.codec.predict.image_settings import ImageSettings, UnusableImageSettings
from gateway.codec.predict.paths import Style
from gateway.codec.predict.request import Reader
from gateway.wire import codings
from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.errors import InputError
from runtimes.tables import column

MATRIX = Signature((TensorSpec("input", "FP32", (-1, 3)),), ())
COLUMNS = Signature((column("age", Datatype.INT64), column("city", Datatype.BYTES)), ())
INTEGER = Signature((column("x", Datatype.INT64),), ())
TEXT = Signature((TensorSpec("text", "BYTES", (-1,)),), ())
ANY_RANK = Signature((TensorSpec("x", "FP32", None),), ())
OPTIONAL = Signature((), (), (column("a"),))
RGB = Signature((TensorSpec("image", "UINT8", (-1, 4, 6, 3)),), ())


def read(signature: Signature, body: bytes, content_type: str = "application/json") -> dict[str, Array]:
    return Reader(signature, None, 1 << 20)([body], content_type, Style.NAMED).call.inputs


def refused(signature: Signature, body: bytes, content_type: str = "application/json") -> str:
    with pytest.raises(InputError) as refusal:
        read(signature, body, content_type)
    return str(refusal.value)


def npy(header: dict[str, Any], data: bytes = b"") -> bytes:
    text = repr({"fortran_order": False, **header}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    ("signature", "body", "message"),
    [
        (TEXT, npy({"descr": "<U1", "shape": (1,)}, b"\xff\xff\xff\xff"), "is no Unicode"),
        (TEXT, npy({"descr": "<U1", "shape": (1,)}, struct.pack("<I", 0xD800)), "is no Unicode"),
        (ANY_RANK, npy({"descr": "<f4", "shape": (0, 2**70)}), "has the shape"),
        (ANY_RANK, npy({"descr": "<f4", "shape": (0, 2**62)}), "has the shape"),
        (MATRIX, npy({"descr": "<f4", "shape": (True, 3)}, bytes(12)), "has the shape"),
    ],
)
def test_arrays_that_numpy_cannot_have_are_the_callers_fault(
    signature: Signature, body: bytes, message: str
) -> None:
    assert message in refused(signature, body, "application/x-npy")


def test_so_many_strings_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_files, "_MAX_TEXTS", 2)
    body = npy({"descr": "|S1", "shape": (3,)}, b"abc")
    assert "more than 2 strings" in refused(TEXT, body, "application/x-npy")


def test_a_directory_of_many_entries_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(200):
            archive.writestr(f"{number}.npy", b"")
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert "too many arrays" in refused(MATRIX, file.getvalue(), "application/x-npz")


@pytest.mark.parametrize("body", [b"[{}]", b"[[]]", b'{"dataframe_split": {"columns": [], "data": [[]]}}'])
def test_a_call_without_values_is_refused(body: bytes) -> None:
    assert "the call has no values; the model takes 'a'" in refused(OPTIONAL, body)


def test_a_file_without_arrays_is_refused() -> None:
    file = io.BytesIO()
    zipfile.ZipFile(file, "w").close()
    assert "has no arrays" in refused(OPTIONAL, file.getvalue(), "application/x-npz")


def test_so_many_lists_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "_MAX_CONTAINERS", 20)
    assert "more than 20 lists and objects" in refused(MATRIX, b"[" + b"[]," * 20 + b"[]]")
    assert read(MATRIX, b"[" + b"[1,2,3]," * 18 + b"[1,2,3]]")["input"].shape == (19, 3)


def test_json_may_begin_with_a_byte_order_mark() -> None:
    assert read(MATRIX, b"\xef\xbb\xbf[[1, 2, 3]]", "")["input"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("signature", "text", "separator"),
    [
        (COLUMNS, "age;city\n51;Oslo\n", "';'"),
        (COLUMNS, "age;city\n51,5;Oslo, north\n", "';'"),
        (MATRIX, "1,5;2,0;3;4\n", "';'"),
        (COLUMNS, "age\tcity\n51\tOslo\n", "tabs"),
    ],
)
def test_other_separators_than_commas_are_told(signature: Signature, text: str, separator: str) -> None:
    assert f"seem to be separated by {separator}: put ','" in refused(signature, text.encode(), "text/csv")


@pytest.mark.parametrize("line", ["NA,1,2", "1,2,x", "1_0,2,3", "1,2\0,3"])
def test_a_row_with_a_fault_is_not_taken_for_a_header(line: str) -> None:
    message = refused(MATRIX, f"{line}\n4,5,6\n".encode(), "text/csv")
    assert message.startswith("line 1 is neither a row nor a header")


@pytest.mark.parametrize("other", ["1.0", "1e18", "-3"])
def test_whole_numbers_beside_others_stay_what_they_are(other: str) -> None:
    body = f"x\n9007199254740993\n{other}\n".encode()
    assert read(INTEGER, body, "text/csv")["x"].tolist() == [[9007199254740993], [int(float(other))]]
    assert "row 2, column 'x': '1.5' is no INT64" in refused(
        INTEGER, b"x\n9007199254740993\n1.5\n", "text/csv"
    )


def test_the_cell_that_is_wrong_is_found_in_a_long_column(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = csv_rows._are_of
    monkeypatch.setattr(csv_rows, "_are_of", lambda *given: calls.append(given) or real(*given))  # type: ignore[func-returns-value]
    for row in (1, 777, 1000):
        calls.clear()
        cells = ["1"] * 1000
        cells[row - 1] = cells[-1] = "q"
        message = refused(INTEGER, "\n".join(["x", *cells]).encode(), "text/csv")
        assert message.startswith(f"row {row}, column 'x': 'q' is no INT64")
        assert len(calls) < 20


def test_the_encoding_that_was_read_is_named() -> None:
    assert "the body is not UTF-16 from byte 2" in refused(COLUMNS, b"\xff\xfea", "text/csv")


def jpeg(**options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG", **options)
    return file.getvalue()


def png(extra: bytes) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4)).save(file, "PNG")
    whole = file.getvalue()
    return whole[:33] + extra + whole[33:]


def test_a_jpeg_of_many_scans_is_not_decoded() -> None:
    whole = jpeg(progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    assert read(RGB, whole[:-2] + scan * 10 + whole[-2:], "image/jpeg")["image"].max() < 5
    assert "more than 50 scans" in refused(RGB, whole[:-2] + scan * 100 + whole[-2:], "image/jpeg")


def test_an_image_in_many_pieces_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_MAX_READS", 1000)
    text = b"k\0v"
    chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
    assert read(RGB, png(chunk * 10), "image/png")["image"].shape == (1, 4, 6, 3)
    assert "too many pieces" in refused(RGB, png(chunk * 1000), "image/png")
    whole = jpeg()
    for segment in (b"\xff\xe1\x00\x02", b"\xff"):
        assert "too many pieces" in refused(RGB, whole[:2] + segment * 2000 + whole[2:], "image/jpeg")


def test_an_image_of_one_long_line_is_not_decoded() -> None:
    file = io.BytesIO()
    Image.new("1", (1, 70_000)).save(file, "PNG")
    assert "65535 on a side" in refused(RGB, file.getvalue(), "image/png")


def test_what_is_no_image_is_said_in_plain_words() -> None:
    assert refused(RGB, b"\x89PNG\r\n\x1a\n", "image/png") == "the body is no PNG or JPEG"


@pytest.mark.parametrize(
    "settings", [{"scale": 10**400}, {"scale": float("inf")}, {"mean": [float("nan")]}, {"std": [-(10**400)]}]
)
def test_settings_of_images_are_numbers_that_can_be_computed_with(settings: Any) -> None:
    with pytest.raises(UnusableImageSettings, match="must be a"):
        ImageSettings.of(settings)


def test_rows_of_names_that_mean_something_elsewhere() -> None:
    names = ("__proto__", "rows", "é\0")
    signature = Signature(tuple(map(column, names)), ())
    row = dict(zip(names, (1, 2, 3), strict=True))
    for document in (row, {"rows": [row]}, [row]):
        inputs = read(signature, json.dumps(document).encode())
        assert {name: array.item() for name, array in inputs.items()} == row
    assert np.array_equal(read(signature, "__proto__,rows,é\0\n1,2,3\n".encode(), "text/csv")["rows"], [[2]])


@pytest.mark.parametrize("name", ["inputs", "instances", "rows"])
def test_an_input_may_have_the_name_of_a_form(name: str) -> None:
    signature = Signature((TensorSpec(name, "FP32", (-1, 3)),), ())
    for rows in ([[1, 2, 3], [4, 5, 6]], [{name: [1, 2, 3]}, {name: [4, 5, 6]}]):
        array = read(signature, json.dumps({name: rows}).encode())[name]
        assert array.tolist() == [[1, 2, 3], [4, 5, 6]]
    columns = json.dumps({"inputs": {name: [[1, 2, 3]]}}).encode()
    assert read(signature, columns)[name].tolist() == [[1, 2, 3]]
    assert read(signature, json.dumps({name: [1, 2, 3]}).encode())[name].tolist() == [[1, 2, 3]]
    assert "must have values of shape [3]" in refused(signature, json.dumps({name: [[1, 2]]}).encode())
    single = Signature((column(name),), ())
    assert read(single, json.dumps({name: 2}).encode())[name].tolist() == [[2]]
    assert read(single, json.dumps({name: [1, 2]}).encode())[name].tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("accept", "is_csv"),
    [
        ("text/csv", True),
        ("text/csv;q=0.5", True),
        ("text/csv;q=0, */*", False),
        ("text/csv; q=0.000, application/json", False),
        ("text/csv;header=absent;q=0", False),
    ],
)
def test_a_type_of_weight_0_is_not_given(accept: str, is_csv: bool) -> None:
    assert wants_csv(accept) is is_csv


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("charset", ["", "utf-16"])
def test_a_text_is_read_alike_in_stretches(size: int, charset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "_STRETCH_BYTES", size)
    text = "age,city\n51,Tromsø\n52,\U0001f600\n"
    encoding = charset or "utf-8-sig"
    rows = read(COLUMNS, text.encode(encoding), f"text/csv; charset={charset}" if charset else "text/csv")
    assert [cell.decode() for cell in rows["city"].reshape(-1)] == ["Tromsø", "\U0001f600"]
    broken = b"age,city\n51,Oslo\n" + b"52,Bod\xc3\xb8\n" * 20 + b"53,\xc3(\n"
    assert f"is not UTF-8 from byte {broken.index(b'(') - 1} on" in refused(COLUMNS, broken, "text/csv")


def test_arrays_do_not_become_larger_ones_without_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_files, "_MAX_BYTES", 1000)
    body = npy({"descr": "|i1", "shape": (84, 3)}, bytes(252))
    assert "has more than 1000 bytes as FP32" in refused(MATRIX, body, "application/x-npy")
    body = npy({"descr": "|i1", "shape": (83, 3)}, bytes(249))
    assert read(MATRIX, body, "application/x-npy")["input"].shape == (83, 3)


def test_arrays_that_were_compressed_too_well_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codings, "_FREE_BYTES", 1000)
    file = io.BytesIO()
    np.savez_compressed(file, input=np.zeros((80_000, 3), "f4"))
    assert "more than 200 times as large as the file" in refused(MATRIX, file.getvalue(), "application/x-npz")


def test_an_image_that_is_not_resized_makes_no_larger_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_MAX_TENSOR_BYTES", 4 * 3 * 100)
    signature = Signature((TensorSpec("image", "FP32", (-1, 3, -1, -1)),), ())
    reader = Reader(signature, ImageSettings(scale=1.0), 1 << 20)
    for side, is_read in ((10, True), (11, False)):
        picture = io.BytesIO()
        Image.new("RGB", (side, side)).save(picture, "PNG")
        if is_read:
            assert reader([picture.getvalue()], "image/png", Style.NAMED).call.inputs["image"].shape[2:] == (
                10,
                10,
            )
        else:
            with pytest.raises(InputError, match="11 x 11 pixels; 100 are the most"):
                reader([picture.getvalue()], "image/png", Style.NAMED)


def test_a_model_whose_image_is_larger_than_any_that_is_read_takes_none() -> None:
    signature = Signature((TensorSpec("image", "UINT8", (1, 60_000, 60_000, 3)),), ())
    assert "more than 50000000 pixels" in refused(signature, b"\x89PNG\r\n\x1a\n", "image/png")

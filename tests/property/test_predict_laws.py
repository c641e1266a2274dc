"""Laws of calls as people write them: rows are what the Open Inference Protocol says of the same values."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.codec.infer_request import write_request
from gateway.codec.json_request import Decoder
from gateway.codec.predict.paths import Style
from gateway.codec.predict.request import Reader
from runtimes.base import Array, Datatype, Signature
from runtimes.errors import InputError
from runtimes.tables import column

TYPES = {
    "a": Datatype.INT64,
    "b": Datatype.FP32,
    "c": Datatype.BYTES,
    "d": Datatype.BOOL,
    "e": Datatype.UINT8,
}
SIGNATURE = Signature(tuple(column(name, datatype) for name, datatype in TYPES.items()), ())
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=8)
ROW = st.fixed_dictionaries(
    {
        "a": st.integers(-(2**63), 2**63 - 1),
        "b": st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-99, 99),
        "c": st.none() | TEXTS,
        "d": st.booleans(),
        "e": st.integers(0, 255),
    }
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*TYPES, "rows", "inputs", "columns", "data", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
READER = Reader(SIGNATURE, None, 1 << 20)


def read(body: bytes, content_type: str = "application/json") -> dict[str, Array]:
    return READER([body], content_type, Style.NAMED).call.inputs


def same(first: dict[str, Array], second: dict[str, Array]) -> None:
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert (array.dtype, array.shape) == (second[name].dtype, second[name].shape)
        np.testing.assert_array_equal(array, second[name])


def infer(rows: list[dict[str, Any]]) -> dict[str, Array]:
    tensors = [
        {"name": name, "datatype": datatype, "shape": [len(rows), 1], "data": [row[name] for row in rows]}
        for name, datatype in TYPES.items()
    ]
    return Decoder(SIGNATURE)([json.dumps({"inputs": tensors}).encode()]).inputs


@given(st.lists(ROW, min_size=1, max_size=5))
def test_rows_are_the_tensors_of_the_same_values(rows: list[dict[str, Any]]) -> None:
    expected = infer(rows)
    values = [[row[name] for name in TYPES] for row in rows]
    columns = {name: [row[name] for row in rows] for name in TYPES}
    for body in (
        {"rows": rows},
        {"instances": values},
        {"inputs": columns},
        {"dataframe_split": {"columns": list(TYPES), "data": values}},
        rows,
    ):
        same(read(json.dumps(body).encode()), expected)
    pieces, size = write_request(expected)
    same(Decoder(SIGNATURE)(pieces, b"%d" % size).inputs, expected)


@given(st.lists(ROW, min_size=1, max_size=5), st.permutations(list(TYPES)))
def test_csv_is_the_same_rows(rows: list[dict[str, Any]], names: list[str]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows(["" if row[name] is None else row[name] for name in names] for row in rows)
    # CSV cannot tell an empty string from a missing one.
    missing = [{**row, "c": row["c"] or None} for row in rows]
    same(read(text.getvalue().encode(), "text/csv"), infer(missing))


@given(ANYTHING | st.lists(ROW | ANYTHING, max_size=3))
def test_any_json_is_read_or_refused(document: Any) -> None:
    try:
        inputs = read(json.dumps(document).encode())
    except InputError:
        return
    assert set(inputs) == set(TYPES)


@given(st.text(max_size=60), st.sampled_from(["text/csv", ""]))
def test_any_text_is_read_or_refused(text: str, content_type: str) -> None:
    try:
        read(text.encode("utf-8", "replace"), content_type)
    except InputError:
        return


@given(
    st.binary(max_size=60), st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n"])
)
def test_any_bytes_are_read_or_refused(body: bytes, magic: bytes) -> None:
    for content_type in ("", "application/x-npy", "application/x-npz", "image/png", "text/csv"):
        try:
            read(magic + body, content_type)
        except InputError:
            continue

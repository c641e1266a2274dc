"""A kit's example of a call, in each form that people write it in."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from gateway.engine.example import MAX_TEXT_BYTES, example_inputs, example_text
from gateway.errors import KitError
from runtimes.base import Array, Signature, TensorSpec

COLUMNS = Signature(
    (TensorSpec("age", "INT64", (-1, 1)), TensorSpec("city", "BYTES", (-1, 1), may_be_missing=True)),
    (),
    (TensorSpec("height", "FP32", (-1, 1)),),
)
MATRIX = Signature((TensorSpec("input", "FP64", (-1, 2)),), ())
TEXT = Signature((TensorSpec("text", "BYTES", (-1,)),), ())


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def lists(inputs: dict[str, Array]) -> dict[str, Any]:
    return {name: array.tolist() for name, array in inputs.items()}


@pytest.mark.parametrize(
    "example",
    [
        [{"age": 51, "city": "Bern"}, {"age": 35.0, "city": None}],
        [{"age": 51, "city": "Bern"}, {"age": 35}],
        {"age": [51, 35], "city": ["Bern", None]},
        {"age": [[51], [35]], "city": [["Bern"], [None]]},
        {"columns": ["age", "city"], "data": [[51, "Bern"], [35, None]]},
        {"columns": ["city", "age"], "data": [["Bern", 51], [None, 35]]},
        {"inputs": [{"age": 51, "city": "Bern"}, {"age": 35}]},
        {
            "inputs": [
                tensor("age", "INT64", [2, 1], [51, 35]),
                tensor("city", "BYTES", [2, 1], ["Bern", None]),
            ]
        },
        {"inputs": [tensor("age", "FP64", [2], [51, 35]), tensor("city", "BYTES", [2], ["Bern", None])]},
    ],
)
def test_rows_of_columns(example: Any) -> None:
    inputs = example_inputs(example, COLUMNS)
    assert lists(inputs) == {"age": [[51], [35]], "city": [[b"Bern"], [None]]}
    assert inputs["age"].dtype == np.int64


def test_one_row_and_missing_floats() -> None:
    inputs = example_inputs({"age": 51, "city": "Bern", "height": None}, COLUMNS)
    assert inputs["height"].dtype == np.float32
    assert np.isnan(inputs["height"]).all()
    text = json.loads(example_text(inputs))
    assert text["inputs"][2] == tensor("height", "FP32", [1, 1], [None])
    assert text["inputs"][1] == tensor("city", "BYTES", [1, 1], ["Bern"])


@pytest.mark.parametrize(
    "example",
    [
        [[1, 2], [3, None]],
        {"input": [[1, 2], [3, None]]},
        {"inputs": [tensor("input", "FP64", [2, 2], [1, 2, 3, None])]},
        # The columns of one matrix may have names.
        {"columns": ["a", "b"], "data": [[1, 2], [3, None]]},
        [{"a": 1, "b": 2}, {"a": 3, "b": None}],
    ],
)
def test_rows_of_a_matrix(example: Any) -> None:
    rows = example_inputs(example, MATRIX)["input"]
    np.testing.assert_array_equal(rows, [[1, 2], [3, np.nan]])


def test_rows_without_names_are_those_of_all_columns() -> None:
    inputs = example_inputs([[51, "Bern", 1.5]], COLUMNS)
    assert lists(inputs) == {"age": [[51]], "city": [[b"Bern"]], "height": [[1.5]]}


def test_one_row_without_its_axis() -> None:
    assert lists(example_inputs([1, 2], MATRIX)) == {"input": [[1, 2]]}


@pytest.mark.parametrize("example", ["a text", ["a text"], {"text": "a text"}, {"text": ["a text"]}])
def test_texts(example: Any) -> None:
    assert lists(example_inputs(example, TEXT)) == {"text": [b"a text"]}


def test_a_model_of_one_row_gets_one() -> None:
    signature = Signature((TensorSpec("x", "FP32", (1, 2)),), ())
    assert lists(example_inputs([[1, 2], [3, 4]], signature)) == {"x": [[1, 2]]}


@pytest.mark.parametrize(
    ("example", "signature", "reason"),
    [
        ([{"age": 51}], COLUMNS, "it has no 'city'"),
        ([{"age": 51, "city": "Bern", "x": 1}], COLUMNS, "the model takes no 'x'"),
        ([{"age": 51.5, "city": "Bern"}], COLUMNS, "51.5 of FP64 is none"),
        ([{"age": None, "city": "Bern"}], COLUMNS, "'age'"),
        ([{"age": "old", "city": "Bern"}], COLUMNS, "'age'"),
        ([[51]], COLUMNS, "its rows have no value for each of"),
        ([[1, 2], [3]], MATRIX, "does not fit"),
        ([["a", "b"]], MATRIX, "does not fit"),
        ({"columns": ["a"], "data": [1]}, MATRIX, "does not fit"),
        ({"columns": ["a", "b"], "data": [[1]]}, MATRIX, "does not fit"),
        ({"a": [1, 2], "b": [1]}, MATRIX, "does not fit"),
        ([None], TEXT, "'text' has no missing values"),
        ({"inputs": [{"name": "x", "data": 1}]}, COLUMNS, "it has no"),
        ([], COLUMNS, "does not fit"),
        ({}, COLUMNS, "it has no"),
    ],
)
def test_what_does_not_fit_is_told(example: Any, signature: Signature, reason: str) -> None:
    with pytest.raises(KitError, match=reason):
        example_inputs(example, signature)


def test_long_examples_are_shown_by_their_first_row_or_not_at_all() -> None:
    rows = example_inputs([[number / 7, 1.0] for number in range(5_000)], MATRIX)
    assert json.loads(example_text(rows))["inputs"][0]["shape"] == [1, 2]
    wide = Signature((TensorSpec("x", "FP64", (-1, -1)),), ())
    assert example_text(example_inputs([[number / 7 for number in range(MAX_TEXT_BYTES)]], wide)) == ""
    assert example_text({"x": np.array([b"\xff"], object)}) == ""

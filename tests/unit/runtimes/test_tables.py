"""The rows of a call become the columns of a model, with no value changed on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtimes.base import Array, Datatype
from runtimes.errors import InputError
from runtimes.tables import Table, cast, column

FP32, FP64, INT64, BYTES = (d.numpy for d in (Datatype.FP32, Datatype.FP64, Datatype.INT64, Datatype.BYTES))
PEOPLE = Table.of_columns([column("age"), column("children", Datatype.INT64)])
MIXED = Table.of_columns([column("age"), column("city", Datatype.BYTES)])


def strings(*values: bytes | None) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_columns_come_in_the_models_order(shape: tuple[int, ...]) -> None:
    inputs = {"children": np.array([2, 0]).reshape(shape), "age": np.array([51.5, 30.0]).reshape(shape)}
    np.testing.assert_array_equal(PEOPLE.matrix(inputs, FP64), [[51.5, 2], [30, 0]])


def test_a_matrix_stands_for_all_columns() -> None:
    columns = PEOPLE.columns({"input": np.array([[51.5, 2.0]])})
    assert [(name, values.dtype, values.tolist()) for name, values in columns.items()] == [
        ("age", FP64, [51.5]),
        ("children", INT64, [2]),
    ]


def test_strings_may_be_missing() -> None:
    city = strings(b"Oslo", None)
    columns = MIXED.columns({"age": np.array([1.0, np.nan]), "city": city})
    assert columns["city"].tolist() == [b"Oslo", None]


@pytest.mark.parametrize(
    ("table", "inputs", "message"),
    [
        (PEOPLE, {"age": np.zeros(2)}, "input 'children' is missing"),
        (PEOPLE, {"age": np.zeros(2), "children": np.zeros(2), "sex": np.zeros(2)}, "unknown input 'sex'"),
        (PEOPLE, {"age": np.zeros(2), "children": np.zeros(3)}, "'age' and 'children' have 2 and 3 rows"),
        (PEOPLE, {"age": np.zeros((2, 2)), "children": np.zeros(2)}, r"'age' must have shape \[-1, 1\]"),
        (PEOPLE, {"age": np.zeros(1), "children": np.array([0.5])}, "'children' must be INT64: 0.5 of FP64"),
        (PEOPLE, {"age": strings(b"1"), "children": np.zeros(1)}, "'age' must be FP64, not BYTES"),
        (PEOPLE, {"input": np.zeros((2, 3))}, r"'input' must have shape \[-1, 2\]"),
        (MIXED, {"input": np.zeros((2, 2))}, "unknown input 'input'"),
        (Table.of_matrix(2), {"input": np.zeros(2)}, r"shape \[-1, 2\]"),
        (Table.of_matrix(2), {"rows": np.zeros((1, 2))}, "unknown input 'rows'"),
        (Table.of_matrix(2), {"input": np.zeros((1, 2)), "rows": np.zeros((1, 2))}, "unknown input 'rows'"),
    ],
)
def test_rows_that_do_not_fit_are_named(table: Table, inputs: dict[str, Array], message: str) -> None:
    rows = table.columns if table is MIXED else lambda inputs: table.matrix(inputs, FP64)
    with pytest.raises(InputError, match=message):
        rows(inputs)


@pytest.mark.parametrize(
    ("values", "dtype", "is_changed"),
    [
        (np.array([2**53]), FP64, False),
        (np.array([2**53 + 1]), FP64, True),
        (np.array([0.1], FP32), FP64, False),
        (np.array([0.1]), FP32, False),
        (np.array([2**24 + 1]), FP32, True),
        (np.array([3.0]), INT64, False),
        (np.array([np.nan]), INT64, True),
        (np.array([2**63], np.uint64), INT64, True),
        (np.array([True]), FP64, False),
        (np.array([2]), np.dtype(bool), True),
    ],
)
def test_numbers_are_cast_where_none_is_changed(
    values: Array, dtype: np.dtype[Any], is_changed: bool
) -> None:
    if is_changed:
        with pytest.raises(InputError, match="'x' must be"):
            cast("x", values, dtype)
    else:
        assert cast("x", values, dtype).dtype == dtype

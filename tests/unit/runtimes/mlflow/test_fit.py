"""A signature of MLflow makes that of a file narrower, names its columns, and never makes it unusable."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from runtimes.base import ANY, Array, Datatype, LabelledModel, Signature, TensorSpec
from runtimes.errors import InputError, LoadError
from runtimes.mlflow.fit import Fit, fit
from runtimes.mlflow.model import with_fit
from runtimes.mlflow.schema import read_schema
from runtimes.tables import MATRIX, Table, column


class Echo:
    """A model that gives its inputs back."""

    platform = "test_echo"
    device = "cpu"
    labels: Mapping[str, tuple[str, ...]] = {"predict": ("a", "b")}

    def __init__(self, *inputs: TensorSpec) -> None:
        self.signature = Signature(inputs, ())

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        return dict(inputs)

    def close(self) -> None:
        pass


def fitted(inputs: Sequence[TensorSpec] | None, *columns: dict[str, Any]) -> Fit:
    signature = None if inputs is None else Signature(tuple(inputs), ())
    return fit(signature, read_schema(json.dumps(columns)))


def col(name: str, type_: str = "double", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type_, **more}


def tensor(dtype: str, shape: list[int], **more: Any) -> dict[str, Any]:
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}, **more}


AGE, CITY = column("age"), column("city", Datatype.BYTES)


@pytest.mark.parametrize(
    ("type_", "datatype"),
    [
        ("long", "INT64"),
        ("integer", "INT32"),
        ("boolean", "BOOL"),
        ("double", "FP64"),
        # Whether fractions have 32 bits is up to the model.
        ("float", "FP64"),
    ],
)
def test_columns_become_narrower(type_: str, datatype: str) -> None:
    result = fitted([AGE, CITY], col("age", type_), col("city", "string"))
    assert [spec.datatype for spec in result.signature.inputs] == [datatype, "BYTES"]
    assert result.notes == ()


@pytest.mark.parametrize(
    ("columns", "note"),
    [
        (
            [col("age", "string"), col("city", "string")],
            "'age' is of type string in it, and FP64 in the model",
        ),
        ([col("age"), col("city", "long")], "'city' is of type long in it, and BYTES in the model"),
        ([col("age"), col("city", "string"), col("x")], "the model does not take 'x'"),
        ([col("a"), col("b")], "it names 'a', 'b', and the model takes 'age', 'city'"),
        ([tensor("int64", [-1, 3])], "it has 'a tensor without a name', and the model takes 'age', 'city'"),
    ],
)
def test_where_it_contradicts_the_file_that_counts(columns: list[dict[str, Any]], note: str) -> None:
    result = fitted([AGE, CITY], *columns)
    assert result.signature == Signature((AGE, CITY), ())
    assert result.notes == (note,)


@pytest.mark.parametrize("type_", ["datetime", "any", "something new"])
def test_a_type_that_has_no_datatype_leaves_the_files(type_: str) -> None:
    assert fitted([AGE, CITY], col("age", type_), col("city", "string")) == Fit(
        Signature((AGE, CITY), ()), columns=("age", "city")
    )


def test_integers_are_cast_to_what_the_library_takes() -> None:
    model = with_fit(Echo(AGE), fitted([AGE], col("age", "long")))
    assert model.signature.inputs == (TensorSpec("age", "INT64", (-1, 1)),)
    given = model.infer({"age": np.array([[51.0], [35.0]])})["age"]
    assert given.dtype == np.float64
    assert given.tolist() == [[51], [35]]
    with pytest.raises(InputError, match="input 'age' must be INT64"):
        model.infer({"age": np.array([51.5])})
    assert isinstance(model, LabelledModel)
    assert model.labels == Echo.labels


def test_columns_that_are_not_required_may_be_left_out() -> None:
    columns = (col("age", "long"), col("height", required=False), col("city", "string", required=False))
    own = (AGE, column("height", Datatype.FP32), CITY)
    model = with_fit(Echo(*own), fitted(own, *columns))
    assert [spec.name for spec in model.signature.optional] == ["height", "city"]
    given = model.infer({"age": np.array([51, 35])})
    assert np.isnan(given["height"]).all()
    assert given["height"].dtype == np.float32
    assert given["city"].tolist() == [[None], [None]]
    given = model.infer({"age": np.array([51]), "height": np.array([1.75]), "city": np.array([b"x"], object)})
    assert (given["height"].item(), given["city"].item()) == (1.75, b"x")
    with pytest.raises(InputError, match="input 'age' is missing"):
        model.infer({"height": np.array([1.75])})


def test_what_cannot_be_missing_stays_required() -> None:
    ids = column("id", Datatype.INT64)
    result = fitted([ids, AGE], col("id", "long", required=False), col("age"))
    assert result.signature.inputs == (ids, AGE)
    assert result.notes == ("'id' may be left out, but the model knows no missing values in it",)


def test_a_call_without_any_column_is_refused() -> None:
    model = with_fit(Echo(AGE), fitted([AGE], col("age", required=False)))
    with pytest.raises(InputError, match="needs one input at least; the model takes 'age'"):
        model.infer({})


@pytest.mark.parametrize("name", ["input", "X"])
@pytest.mark.parametrize("datatype", [Datatype.FP32, Datatype.FP64])
def test_the_columns_of_one_matrix_get_names(name: str, datatype: Datatype) -> None:
    matrix = TensorSpec(name, datatype.value, (-1, 3))
    columns = (col("age", "long"), col("height"), col("weight", required=False))
    model = with_fit(Echo(matrix), fitted([matrix], *columns))
    assert model.signature == Signature(
        (TensorSpec("age", "INT64", (-1, 1)), TensorSpec("height", datatype.value, (-1, 1))),
        (),
        (TensorSpec("weight", datatype.value, (-1, 1)),),
    )
    given = model.infer({"height": np.array([1.5, 2.5]), "age": np.array([51, 35])})[name]
    assert given.dtype == datatype.numpy
    np.testing.assert_array_equal(given, [[51, 1.5, np.nan], [35, 2.5, np.nan]])
    for whole in {name, MATRIX}:
        rows = np.ones((2, 3), datatype.numpy)
        assert model.infer({whole: rows})[name] is rows
    with pytest.raises(InputError, match="unknown input 'size'"):
        model.infer({"age": np.array([1]), "height": np.array([1.0]), "size": np.array([1.0])})


def test_columns_and_matrix_of_real_tables() -> None:
    class Sums(Echo):
        def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
            return {"predict": Table.of_matrix(2).matrix(inputs, np.dtype(np.float64)).sum(axis=1)}

    matrix = TensorSpec(MATRIX, "FP64", (-1, 2))
    model = with_fit(Sums(matrix), fitted([matrix], col("a", "integer"), col("b")))
    assert model.infer({"b": np.array([2.0]), "a": np.array([1], np.int32)})["predict"].tolist() == [3]
    assert model.infer({MATRIX: np.array([[1, 2]])})["predict"].tolist() == [3]


@pytest.mark.parametrize(
    ("spec", "columns", "note"),
    [
        (TensorSpec("input", "FP64", (-1, 3)), [col("a")], "it names 1 column, and the model takes 3"),
        (
            TensorSpec("input", "FP64", (-1, 2)),
            [col("a"), col("b", "string")],
            "its columns, such as 'b' of type string, are not those of the model's matrix 'input'",
        ),
        (
            TensorSpec("input", "FP64", (-1, 2)),
            [col("a"), col("b", "datetime")],
            "its columns, such as 'b' of type datetime, are not those of the model's matrix 'input'",
        ),
        (
            TensorSpec("pixels", "FP32", (-1, 3, 8, 8)),
            [col("a")],
            "it names 'a', and the model takes 'pixels'",
        ),
        (TensorSpec("pixels", ANY), [col("a")], "it names 'a', and the model takes 'pixels'"),
    ],
)
def test_a_matrix_of_other_columns_stays(spec: TensorSpec, columns: list[dict[str, Any]], note: str) -> None:
    result = fitted([spec], *columns)
    assert result.signature == Signature((spec,), ())
    assert result.notes == (note,)


def test_a_tensor_gets_the_sizes_that_the_file_leaves_open() -> None:
    spec = TensorSpec("x", "FP32", (-1, -1))
    assert fitted([spec], tensor("float32", [-1, 8])) == Fit(
        Signature((TensorSpec("x", "FP32", (-1, 8)),), ())
    )
    # The number of rows of an example is none of other calls.
    assert fitted([spec], tensor("float32", [2, 8])).signature.inputs[0].shape == (-1, 8)


def test_of_what_the_file_does_not_say_it_is_only_likely() -> None:
    result = fitted([TensorSpec("x", ANY)], tensor("float64", [-1, 8]))
    assert result.signature.inputs == (TensorSpec("x", ANY, None, "FP64", (-1, 8)),)
    likely = TensorSpec("x", ANY, None, "FP32", (-1, 4))
    assert fitted([likely], tensor("float64", [-1, 8])).signature.inputs == (likely,)


@pytest.mark.parametrize(
    ("stated", "note"),
    [
        (tensor("float64", [-1, 4]), "'x' is FP64 in it, and FP32 in the model"),
        (tensor("float32", [-1, 5]), "'x' has shape [-1, 5] in it, and [-1, 4] in the model"),
        (tensor("float32", [4]), "'x' has shape [4] in it, and [-1, 4] in the model"),
    ],
)
def test_a_tensor_that_is_another_in_the_file_stays(stated: dict[str, Any], note: str) -> None:
    spec = TensorSpec("x", "FP32", (-1, 4))
    assert fitted([spec], stated) == Fit(Signature((spec,), ()), notes=(note,))


def test_tensors_with_names_are_found_by_them() -> None:
    own = (TensorSpec("a", "FP32", (-1, -1)), TensorSpec("b", "INT64", (-1,)))
    result = fitted(own, tensor("float32", [-1, 3], name="a"), tensor("int64", [-1], name="c"))
    assert result.signature.inputs == (TensorSpec("a", "FP32", (-1, 3)), own[1])
    assert result.notes == ("it has 'c', and the model takes 'a', 'b'",)


def test_columns_of_a_file_are_a_matrix_as_well() -> None:
    own = (AGE, column("height"))
    assert fitted(own, tensor("float64", [-1, 2])) == Fit(Signature(own, ()))


def test_before_the_file_is_loaded_its_columns_are_those_of_mlflow() -> None:
    assert fitted(None, col("age", "long"), col("city", "string", required=False)).signature == Signature(
        (TensorSpec("age", "INT64", (-1, 1)),), (), (TensorSpec("city", "BYTES", (-1, 1)),)
    )
    for columns in ([], [tensor("float64", [-1, 2])], [{"type": "double"}], [col("day", "datetime")]):
        assert fitted(None, *columns).signature == Signature((), ())


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        "[1]",
        "null",
        '[{"name": "a", "type": "long"}, {"name": "a", "type": "long"}]',
        '[{"type": "tensor"}]',
        '[{"type": "tensor", "tensor-spec": 1}]',
        '[{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [1.5]}}]',
        '[{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-2]}}]',
        '[{"name": "a", "type": "long"}, {"type": "tensor", "tensor-spec": {"dtype": "x", "shape": []}}]',
        "[" * 5_000,
    ],
)
def test_a_signature_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(LoadError):
        read_schema(text)

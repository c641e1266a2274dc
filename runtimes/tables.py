"""The inputs of models of rows: one tensor for each named column, or one matrix of all of them.

A model that was fitted on named columns has an input of shape [-1, 1] for each; a column of shape [-1] is
taken, too, and where all columns are numbers, so is one matrix `input` with the columns in their order. A
model that was fitted on bare numbers has that matrix alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.errors import InputError
from runtimes.input_check import InputCheck, datatype_name

MATRIX = "input"
"""The name of the input that has all columns."""


def column(name: str, datatype: Datatype = Datatype.FP64) -> TensorSpec:
    """Return the input for a named column; strings may be missing in it, as floats may be NaN."""
    return TensorSpec(name, datatype.value, (-1, 1), may_be_missing=datatype is Datatype.BYTES)


class Table:
    """Reads the rows of a call. `inputs` are what a signature says of them.

    Numbers of another datatype than a column's are cast where no value is changed by that. Fractions are
    rounded to the column's precision, as the libraries do it.
    """

    def __init__(self, inputs: tuple[TensorSpec, ...], width: int) -> None:
        self.inputs = inputs
        self.width = width
        """How many columns there are."""
        self._datatypes = {spec.name: Datatype(spec.datatype) for spec in inputs}
        self._names = tuple(self._datatypes)
        self._is_matrix = self._names == (MATRIX,) and inputs[0].shape == (-1, width)
        numbers = all(datatype is not Datatype.BYTES for datatype in self._datatypes.values())
        self._takes_matrix = self._is_matrix or (numbers and MATRIX not in self._datatypes)
        self._check = InputCheck(Signature(inputs, ()))

    @classmethod
    def of_matrix(cls, width: int, datatype: Datatype = Datatype.FP64) -> Table:
        """Return the table of a model that takes `width` numbers a row."""
        return cls((TensorSpec(MATRIX, datatype.value, (-1, width)),), width)

    @classmethod
    def of_columns(cls, columns: Sequence[TensorSpec]) -> Table:
        """Return the table of a model that takes these columns, each made by `column`."""
        return cls(tuple(columns), len(columns))

    @property
    def is_named(self) -> bool:
        """Whether the columns have names."""
        return not self._is_matrix

    def matrix(self, inputs: Mapping[str, Array], dtype: np.dtype[np.generic]) -> Array:
        """Return the rows as numbers, [rows, columns] of `dtype`, for a table without strings.

        Raises:
            InputError: naming the input that is missing, unknown, of another length, or changed by a cast.
        """
        if self._takes_matrix and len(inputs) == 1 and (whole := inputs.get(MATRIX)) is not None:
            return cast(MATRIX, self._whole(whole), dtype)
        if self._is_matrix:
            self._check.check_names(inputs)
        columns = self.columns(inputs)
        rows = np.empty((len(next(iter(columns.values()))), self.width), dtype)
        for position, (name, values) in enumerate(columns.items()):
            rows[:, position] = cast(name, values, dtype)
        return rows

    def columns(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return each column in the model's order, [rows] of its datatype; strings are `bytes`, or None.

        A table without names has no columns.

        Raises:
            InputError: as `matrix` does.
        """
        if self.is_named and self._takes_matrix and len(inputs) == 1 and MATRIX in inputs:
            whole = self._whole(inputs[MATRIX])
            return {
                name: cast(name, whole[:, position], datatype.numpy)
                for position, (name, datatype) in enumerate(self._datatypes.items())
            }
        columns: dict[str, Array] = {}
        for name, datatype in self._datatypes.items():
            values = inputs.get(name)
            if values is None:
                break
            if values.ndim == 2 and values.shape[1] == 1:
                values = values[:, 0]
            if values.ndim != 1:
                shape = list(values.shape)
                raise InputError(f"input {name!r} must have shape [-1, 1] (-1: any length), not {shape}")
            columns[name] = cast(name, values, datatype.numpy)
        if len(columns) < self.width or len(inputs) > self.width:
            self._check.check_names(inputs)
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            name, length = next(iter(lengths.items()))
            other = next(other for other, rows in lengths.items() if rows != length)
            raise InputError(
                f"inputs {name!r} and {other!r} have {length} and {lengths[other]} rows; "
                "each column must have one value for each row"
            )
        return columns

    def _whole(self, rows: Array) -> Array:
        """Return the matrix of a call. Raises InputError where it is none of this width."""
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise InputError(
                f"input {MATRIX!r} must have shape [-1, {self.width}] (-1: any length), "
                f"not {list(rows.shape)}"
            )
        return rows


def cast(name: str, values: Array, dtype: np.dtype[np.generic]) -> Array:
    """Return the values as `dtype`. Raises InputError, which names the input, where that changes one."""
    source = values.dtype
    if source == dtype:
        return values
    if dtype.kind == "O":
        if source.kind in "OSU":
            return values.astype(object)
        raise InputError(f"input {name!r} must be BYTES, not {datatype_name(source)}")
    if source.kind not in "biufV" or (source.kind == "V" and source != Datatype.BF16.numpy):
        raise InputError(f"input {name!r} must be {datatype_name(dtype)}, not {datatype_name(source)}")
    with np.errstate(invalid="ignore", over="ignore"):
        result = values.astype(dtype)
    if not (source.kind in "fV" and dtype.kind == "f") and not _is_exact(source, dtype):
        changed = np.flatnonzero((result.astype(source) != values) | ((result < 0) != (values < 0)))
        if changed.size:
            first = values.reshape(-1)[changed[0]]
            raise InputError(
                f"input {name!r} must be {datatype_name(dtype)}: {first} of {datatype_name(source)} is none; "
                f"send {datatype_name(dtype)}"
            )
    return result


def _is_exact(source: np.dtype[np.generic], dtype: np.dtype[np.generic]) -> bool:
    """Tell whether a cast changes no value; numpy calls that of large integers to FP64 safe, too."""
    is_large = source.kind in "iu" and source.itemsize == dtype.itemsize
    return np.can_cast(source, dtype, "safe") and not (is_large and dtype.kind == "f")

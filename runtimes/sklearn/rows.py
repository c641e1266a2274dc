"""The rows of a call in the form that an estimator takes: an array, a pandas frame, or a list of texts.

A frame is made only for a model that needs one, as it chooses columns by name or has strings: it takes a
tenth of a millisecond and more, and scikit-learn takes still longer to read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from runtimes.base import ANY, Array, Datatype, TensorSpec
from runtimes.errors import InputError
from runtimes.extras import missing_library
from runtimes.sklearn.columns import Column, Columns
from runtimes.tables import Table, column

Read = Callable[[Mapping[str, Array]], Any]
"""Makes of the inputs of a call what an estimator takes. Raises InputError."""

_FP64 = Datatype.FP64.numpy


class Rows:
    """The rows of an estimator's calls; `inputs` are what a signature says of them."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        read = [column for column in columns.columns if column.is_read]
        self._read = {column.name: column for column in read}
        self._is_table = columns.is_named or columns.has_strings
        self._table = (
            Table.of_columns([column(each.name, each.datatype) for each in read])
            if self._is_table
            else Table.of_matrix(len(columns.columns))
        )
        self.ignored = tuple(
            TensorSpec(each.name, ANY, (-1, 1)) for each in columns.columns if not each.is_read
        )
        """The columns that the model does not read."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that every call must have."""
        if self.columns.is_text:
            return (TensorSpec(self.columns.columns[0].name, Datatype.BYTES.value, (-1,)),)
        return self._table.inputs

    def matrix(self, inputs: Mapping[str, Array]) -> Array:
        """Return the rows as floats, [rows, columns]; one that is not read is 0."""
        rows = self._table.matrix(self._without_ignored(inputs), _FP64)
        if not self.ignored:
            return rows
        whole = np.zeros((len(rows), len(self.columns.columns)))
        whole[:, [each.is_read for each in self.columns.columns]] = rows
        return whole

    def objects(self, inputs: Mapping[str, Array]) -> Array:
        """Return the rows as objects, [rows, columns]."""
        columns = self._table.columns(self._without_ignored(inputs))
        rows = np.empty((len(next(iter(columns.values()))), len(columns)), dtype=object)
        for position, (name, values) in enumerate(columns.items()):
            rows[:, position] = _plain(self._read[name], values)
        return rows

    def texts(self, inputs: Mapping[str, Array]) -> list[str]:
        """Return the texts of a model that takes nothing else; one that is missing is InputError."""
        (only,) = self._read.values()
        texts: list[Any] = _plain(only, self._table.columns(inputs)[only.name]).tolist()
        if None in texts:
            raise InputError(
                f"input {only.name!r}: row {texts.index(None)} is missing; the model needs a text"
            )
        return texts

    def frame_reader(self, source: object) -> Read:
        """Return what makes a frame of the inputs. Raises LoadError where pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            subject = f"{source} takes columns by name or strings, which"
            raise missing_library(subject, "pandas", "sklearn", error) from error
        codes = {
            name: (
                {value: code for code, value in enumerate(each.categories)},
                pandas.CategoricalDtype(each.categories),
            )
            for name, each in self._read.items()
            if each.categories is not None
        }

        def series(name: str, values: Array) -> Any:
            values = _plain(self._read[name], values)
            if name in codes:
                code_of, dtype = codes[name]
                return pandas.Categorical.from_codes(
                    [code_of.get(value, -1) for value in values.tolist()], dtype=dtype
                )
            return pandas.Series(values, dtype=object, copy=False) if values.dtype == object else values

        def frame(inputs: Mapping[str, Array]) -> Any:
            columns = self._table.columns(self._without_ignored(inputs))
            return pandas.DataFrame(
                {name: series(name, values) for name, values in columns.items()}, copy=False
            )

        return frame

    def examples(self, count: int, fill: Callable[[int], Array]) -> dict[str, Array]:
        """Return inputs of `count` made-up rows: values that columns know, else numbers of `fill(count)`."""
        if not self._is_table:
            numbers = [fill(count) for _ in self.columns.columns]
            return {self._table.inputs[0].name: np.stack(numbers, axis=1)}
        return {name: _example(each, count, fill) for name, each in self._read.items()}

    def _without_ignored(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the inputs without the columns that the model does not read."""
        if not self.ignored:
            return inputs
        ignored = {spec.name for spec in self.ignored}
        return {name: values for name, values in inputs.items() if name not in ignored}


def _example(each: Column, count: int, fill: Callable[[int], Array]) -> Array:
    choices = each.values or (("0",) if each.datatype is Datatype.BYTES else ())
    if not choices:
        return fill(count).astype(each.datatype.numpy).reshape(count, 1)
    values: Sequence[Any] = [choices[row % len(choices)] for row in range(count)]
    array = np.empty((count, 1), each.datatype.numpy)
    array[:, 0] = [value.encode() if isinstance(value, str) else value for value in values]
    return array


def _plain(each: Column, values: Array) -> Array:
    """Return a column with its bytes as strings, and what stands for a missing one in place of None."""
    if each.datatype is not Datatype.BYTES:
        return values
    texts = np.empty(len(values), dtype=object)
    missing = each.missing
    try:
        texts[:] = [
            missing if value is None else value.decode() if isinstance(value, bytes) else value
            for value in values.tolist()
        ]
    except UnicodeDecodeError:
        raise _no_utf8(each.name, values) from None
    return texts


def _no_utf8(name: str, values: Array) -> InputError:
    """Return the error for the first string of a column that is not UTF-8."""
    for row, value in enumerate(values.tolist()):
        try:
            value.decode() if isinstance(value, bytes) else None
        except UnicodeDecodeError as error:
            return InputError(f"input {name!r}: row {row} is not UTF-8: {error.reason} at byte {error.start}")
    return InputError(f"input {name!r} is not UTF-8")

"""Columns of categories: the values that callers send become the codes that a model was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from runtimes.base import Array, Datatype, TensorSpec
from runtimes.errors import InputError
from runtimes.tables import Table, column


class CategoryColumn:
    """The codes of a column's values, which are all strings or all numbers."""

    def __init__(self, name: str, values: Sequence[object], *, may_be_unknown: bool) -> None:
        """Raises ValueError where the values are neither.

        Args:
            name: the column's.
            values: in the order of their codes.
            may_be_unknown: whether a value that is none of them is missing; else it is an InputError.
        """
        self.name = name
        self.is_text = bool(values) and all(isinstance(value, str) for value in values)
        if not self.is_text and not all(isinstance(value, int | float) for value in values):
            raise ValueError(f"the categories of {name!r} are neither all strings nor all numbers")
        self._codes: dict[object, float] = {
            value.encode() if isinstance(value, str) else value: float(code)
            for code, value in enumerate(values)
        }
        self._may_be_unknown = may_be_unknown

    @property
    def spec(self) -> TensorSpec:
        """The input for the column."""
        return column(self.name, Datatype.BYTES if self.is_text else Datatype.FP64)

    def encode(self, values: Array) -> list[float]:
        """Return the codes, NaN for a missing value. Raises InputError for a value that is no category."""
        return [self._code(value) for value in values.tolist()]

    def _code(self, value: object) -> float:
        if value is None or value != value:
            return float("nan")
        code = self._codes.get(value.encode() if isinstance(value, str) else value)
        if code is None:
            if self._may_be_unknown:
                return float("nan")
            raise InputError(
                f"input {self.name!r} has the value {value!r}, which the model was not trained with"
            )
        return code


class Rows:
    """Makes the matrix that an engine takes of the inputs of a call."""

    def __init__(
        self,
        names: Sequence[str],
        has_names: bool,
        categories: Mapping[int, CategoryColumn],
        datatype: Datatype,
    ) -> None:
        self._columns = {categories[position].name: categories[position] for position in categories}
        self._dtype = datatype.numpy
        if has_names or self._columns:
            specs = [
                categories[position].spec if position in categories else column(name, datatype)
                for position, name in enumerate(names)
            ]
            self.table = Table.of_columns(specs)
        else:
            self.table = Table.of_matrix(len(names), datatype)

    def matrix(self, inputs: Mapping[str, Array]) -> Array:
        """Return [rows, columns], codes in place of categories. Raises InputError."""
        if not self._columns:
            return self.table.matrix(inputs, self._dtype)
        columns = self.table.columns(inputs)
        rows = np.empty((len(next(iter(columns.values()))), self.table.width), self._dtype)
        for position, (name, values) in enumerate(columns.items()):
            coded = self._columns.get(name)
            rows[:, position] = values if coded is None else coded.encode(values)
        return rows

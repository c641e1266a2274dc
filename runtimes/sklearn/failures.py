"""Who is to blame where an estimator fails: the caller's rows, or the model.

The libraries raise ValueError for rows that they refuse: NaN where none may be, an unknown category, a
negative count. They raise it for a broken model, too. So it is the caller's where the model has answered
made-up rows when it was loaded, or where the sentence is one that is about rows alone. CatBoost's own error
is the caller's where it is about the type of a value. All else is the model's: errors of other types, and
numbers on which an algorithm fails (LinAlgError).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from runtimes.base import Array
from runtimes.errors import ExecutionError, InputError, ModelError
from runtimes.sklearn.columns import Column, Columns

_ABOUT_ROWS = ("Input ", "Found array ", "Found unknown categories", "Negative values in data")
_MAX_LENGTH = 400


def error_of(error: Exception, columns: Columns, inputs: Mapping[str, Array], is_proven: bool) -> ModelError:
    """Return what to raise for an estimator's error; `is_proven` tells that it has answered a row."""
    if isinstance(error, ModelError):
        return error
    sentence = _sentence(error)
    if not _is_about_rows(error, sentence, is_proven):
        return ExecutionError(f"the model failed: {sentence}")
    names = list(inputs) if len(inputs) == 1 else [*_to_blame(sentence, columns, inputs)]
    if not names:
        return InputError(f"the model cannot take these rows: {sentence}")
    listed = ", ".join(map(repr, names))
    return InputError(f"input{'s' if len(names) > 1 else ''} {listed}: {sentence}")


def _is_about_rows(error: Exception, sentence: str, is_proven: bool) -> bool:
    if type(error).__name__ == "CatBoostError":
        return "Invalid type for" in sentence or "cannot convert" in sentence.lower()
    if not isinstance(error, ValueError) or isinstance(error, np.linalg.LinAlgError):
        return False
    return is_proven or sentence.startswith(_ABOUT_ROWS)


def _sentence(error: Exception) -> str:
    """Return what an error says, without the advice on training that follows in further lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:_MAX_LENGTH]


def _to_blame(sentence: str, columns: Columns, inputs: Mapping[str, Array]) -> Iterator[str]:
    """Yield the columns that have what the sentence is about."""
    for column in columns.columns:
        values = inputs.get(column.name)
        if values is None:
            continue
        if "unknown categories" in sentence:
            if column.is_closed and any(
                not _is_known(value, column) for value in values.reshape(-1).tolist()
            ):
                yield column.name
        elif (
            "NaN" in sentence or "infinity" in sentence or "missing" in sentence.lower()
        ) and _has_no_number(values):
            yield column.name


def _is_known(value: object, column: Column) -> bool:
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else value) in column.values


def _has_no_number(values: Array) -> bool:
    if values.dtype.kind == "f":
        return not bool(np.isfinite(values).all())
    return values.dtype.kind == "O" and any(value is None for value in values.reshape(-1).tolist())

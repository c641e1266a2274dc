"""The columns that an estimator takes: their names, their datatypes, and values that it knows.

Estimators do not record the datatypes of what they were fitted on. But the step that reads a column shows
most of them: an encoder has the column's categories, a vectoriser takes text, an imputer of strings has a
string to put in. A column of which nothing shows otherwise is one of floats.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from runtimes.base import Array, Datatype
from runtimes.errors import LoadError
from runtimes.sklearn.boosted import boosted_columns
from runtimes.sklearn.nested import attribute, first_of, fitted_parts, is_estimator, steps_of

_KEEPS_COLUMNS = frozenset({"SimpleImputer", "FunctionTransformer", "FrozenEstimator"})
_MAX_WIDTH = 1 << 20
_TAKES_NO_TABLE = {
    "DictVectorizer": "takes dictionaries",
    "FeatureHasher": "takes dictionaries or lists of strings",
    "LabelEncoder": "takes labels",
    "LabelBinarizer": "takes labels",
    "MultiLabelBinarizer": "takes sets of labels",
    "PatchExtractor": "takes images",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a model's table."""

    name: str
    datatype: Datatype = Datatype.FP64
    missing: float | None = np.nan
    """What stands for a missing string in what the model was fitted on: NaN or None."""
    values: tuple[Any, ...] = ()
    """Values that the model knows; empty where it tells of none."""
    is_closed: bool = False
    """Whether an encoder has a list of all values, which are then `values`."""
    categories: tuple[Any, ...] | None = None
    """The categories of a pandas column of dtype `category`, in their order; None for another column."""
    is_guess: bool = False
    """Whether it is one of strings only because a function before an encoder of strings reads it."""
    is_read: bool = True
    """Whether the model does anything with the column; where it does not, callers may leave it out."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a model's table, in its order."""

    columns: tuple[Column, ...]
    is_named: bool
    """Whether the names are the model's own; those of an array of strings are made up: x0, x1, …"""
    is_text: bool = False
    """Whether it is one column of texts, which the model takes as a list."""

    @property
    def has_strings(self) -> bool:
        """Whether a column is one of strings."""
        return any(column.datatype is Datatype.BYTES for column in self.columns)


TEXT = "text"
"""The name of the input of a model that takes texts alone."""


def columns_of(estimator: Any, source: object) -> Columns:
    """Return what columns an estimator takes. Raises LoadError, which names `source`, where it has none."""
    try:
        return _columns_of(estimator)
    except _Refusal as refusal:
        raise LoadError(f"{source}: {refusal}") from None


class _Refusal(Exception):
    """An estimator takes what no call can have; the message says what."""


def _columns_of(estimator: Any) -> Columns:
    width = first_of(estimator, "n_features_in_") or len(first_of(estimator, "feature_names_") or ()) or None
    if not isinstance(width, (int, np.integer)):
        text = Column(TEXT, Datatype.BYTES, None, ("text",))
        if _takes_text(estimator):
            return Columns((text,), is_named=True, is_text=True)
        raise _Refusal(
            f"its {type(estimator).__name__} does not say how many numbers it takes (n_features_in_); fit it "
            "on a table of numbers, or export it to ONNX"
        )
    if not 0 < width <= _MAX_WIDTH:
        raise _Refusal(f"its model takes {width} numbers; at most {_MAX_WIDTH} are served")
    names = _names(estimator, int(width))
    finder = _Finder(names or [f"x{position}" for position in range(width)])
    finder.visit(estimator, list(range(width)))
    return Columns(tuple(finder.columns()), names is not None)


def _names(estimator: Any, width: int) -> list[str] | None:
    """Return the names of the columns that an estimator was fitted on, None where they had none."""
    names = first_of(estimator, "feature_names_in_")
    if names is None:
        names = first_of(estimator, "feature_names_")  # CatBoost's, which numbers columns without names
        if names is None or list(names) == [str(position) for position in range(width)]:
            return None
    listed = [str(name) for name in names]
    return listed if len(set(listed)) == len(listed) == width else None


def _takes_text(estimator: Any) -> bool:
    """Whether an estimator takes a list of texts: a vectoriser of them does, and what begins with one."""
    name = type(estimator).__name__
    if name in _TAKES_NO_TABLE:
        raise _Refusal(f"its {name} {_TAKES_NO_TABLE[name]}, and calls have tables")
    if hasattr(estimator, "build_analyzer"):
        _check_text(estimator)
        return True
    steps = steps_of(estimator)
    if steps is not None:
        return bool(steps) and _takes_text(steps[0])
    union = attribute(estimator, "transformer_list")
    parts = [part for _, part in union if is_estimator(part)] if union else fitted_parts(estimator)
    return bool(parts) and all(_takes_text(part) for part in parts)


def _check_text(vectorizer: Any) -> None:
    """Refuse a vectoriser that takes the names of files, as it would read any file that callers name."""
    kind = attribute(vectorizer, "input")
    if kind != "content":
        name = type(vectorizer).__name__
        raise _Refusal(f"its {name} takes files (input={kind!r}); set input='content' and save it again")


class _Finder:
    """Follows the columns through an estimator; positions are those in the model's own table."""

    def __init__(self, names: Sequence[str]) -> None:
        self._columns = [Column(name, is_read=False) for name in names]
        self._names = list(names)
        self._is_guessing = False

    def columns(self) -> Iterable[Column]:
        """Return what is known by now."""
        return self._columns

    def visit(self, estimator: Any, positions: list[int]) -> list[int] | None:
        """Learn from an estimator that takes these columns; return them where its output has the same."""
        steps = steps_of(estimator)
        if steps is not None:
            return self._visit_steps(steps, positions)
        if (transformers := attribute(estimator, "transformers_")) is not None:
            self._visit_transformers(estimator, transformers, positions)
            return None
        if union := attribute(estimator, "transformer_list"):
            for _, part in union:
                if is_estimator(part):
                    self.visit(part, list(positions))
            return None
        parts = fitted_parts(estimator)
        if parts and attribute(estimator, "categories_") is None:
            for part in parts:
                if first_of(part, "n_features_in_") in (None, len(positions)):
                    self.visit(part, list(positions))
            self._read(positions)
            return None
        self._read(positions)
        return positions if self._learn(estimator, positions) else None

    def _visit_steps(self, steps: Sequence[Any], positions: list[int]) -> list[int] | None:
        was_guessing = self._is_guessing
        current: list[int] | None = positions
        for step in steps:
            is_other = self._is_guessing and first_of(step, "n_features_in_") != len(current or ())
            if current is None or is_other:
                break
            following = self.visit(step, current)
            # What is behind a function of its own shows only what that makes, which is most often the same.
            self._is_guessing |= type(step).__name__ == "FunctionTransformer" and following is None
            current = current if self._is_guessing else following
        if current is not None:
            self._read(positions)
        is_known, self._is_guessing = not self._is_guessing, was_guessing
        return current if is_known else None

    def _visit_transformers(self, estimator: Any, transformers: Any, positions: list[int]) -> None:
        names = attribute(estimator, "feature_names_in_")
        listed = self._names if names is None else [str(name) for name in names]
        for _, part, chosen in transformers:
            inner = [positions[index] for index in positions_of(chosen, listed)]
            if isinstance(part, str):
                if part != "drop":
                    self._read(inner)
            elif inner:
                self.visit(part, inner)

    def _learn(self, estimator: Any, positions: list[int]) -> bool:
        """Learn from an estimator that holds no others; return whether its output has the same columns."""
        name = type(estimator).__name__
        if name in _TAKES_NO_TABLE:
            raise _Refusal(f"its {name} {_TAKES_NO_TABLE[name]}, and calls have tables")
        if hasattr(estimator, "build_analyzer"):
            _check_text(estimator)
            for position in positions:
                self._note(position, datatype=Datatype.BYTES, values=("text",))
            return False
        if (columns := boosted_columns(estimator)) is not None:
            for position, changes in zip(positions, columns, strict=False):
                values = changes.get("categories")
                kind = {} if values is None else {"datatype": datatype_of(values), "values": values}
                self._note(position, **{**changes, **kind})
            return False
        categories = attribute(estimator, "categories_")
        if categories is not None and len(categories) == len(positions):
            for position, values in zip(positions, categories, strict=True):
                self._note_categories(position, values)
            return False
        preprocessor = attribute(estimator, "_preprocessor")  # of HistGradientBoosting with categories
        if preprocessor is not None and attribute(preprocessor, "transformers_") is not None:
            self.visit(preprocessor, positions)
            return False
        fills = attribute(estimator, "statistics_")
        if name == "SimpleImputer" and fills is not None:
            for position, fill in zip(positions, fills, strict=False):
                if isinstance(fill, str):
                    missing = None if attribute(estimator, "missing_values") is None else np.nan
                    self._note(position, datatype=Datatype.BYTES, missing=missing, values=(fill,))
            return not attribute(estimator, "add_indicator") and len(fills) == len(positions)
        return name in _KEEPS_COLUMNS and attribute(estimator, "func") is None

    def _note_categories(self, position: int, values: Array) -> None:
        # NaN is not equal to itself.
        present = [value for value in values.tolist() if value is not None and value == value]
        missing = None if any(value is None for value in values.tolist()) else np.nan
        column = self._columns[position]
        if column.datatype is Datatype.BYTES:
            # An imputer stands before the encoder, and says what is missing.
            missing = column.missing
        datatype = datatype_of(present)
        if datatype is Datatype.INT64 and (len(present) < len(values) or values.dtype.kind == "f"):
            datatype = Datatype.FP64
        self._note(position, datatype=datatype, missing=missing, values=tuple(present), is_closed=True)

    def _note(self, position: int, **changes: Any) -> None:
        column = self._columns[position]
        is_string = changes.get("datatype") is Datatype.BYTES
        if (column.datatype is Datatype.BYTES or self._is_guessing) and not is_string:
            return
        if self._is_guessing:
            changes = {**changes, "is_guess": True, "is_closed": False}
        self._columns[position] = replace(column, **changes)

    def _read(self, positions: Iterable[int]) -> None:
        for position in positions:
            self._columns[position] = replace(self._columns[position], is_read=True)


def datatype_of(values: Sequence[Any]) -> Datatype:
    """Return the datatype of a column with these categories."""
    if values and all(isinstance(value, (bool, np.bool_)) for value in values):
        return Datatype.BOOL
    if values and all(isinstance(value, (int, np.integer)) for value in values):
        return Datatype.INT64
    if any(isinstance(value, (str, bytes)) for value in values):
        return Datatype.BYTES
    return Datatype.FP64


def positions_of(chosen: Any, names: Sequence[str]) -> list[int]:
    """Return which columns a ColumnTransformer chose: by name, index, slice or mask, one or several.

    Raises LoadError for a name that is not there.
    """
    if isinstance(chosen, slice):
        start, stop = (
            names.index(end) + inclusive if isinstance(end, str) else end
            for end, inclusive in ((chosen.start, 0), (chosen.stop, 1))
        )
        return list(range(len(names)))[start : stop : chosen.step]
    if isinstance(chosen, (str, int, np.integer)):
        chosen = [chosen]
    listed = list(chosen)
    if listed and all(isinstance(item, (bool, np.bool_)) for item in listed):
        return [position for position, is_chosen in enumerate(listed) if is_chosen]
    try:
        return [
            list(names).index(item) if isinstance(item, str) else range(len(names))[int(item)]
            for item in listed
        ]
    except (ValueError, IndexError) as error:
        raise LoadError(
            f"a ColumnTransformer chooses a column that the model does not have: {error}"
        ) from error

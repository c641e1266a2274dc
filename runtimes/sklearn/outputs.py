"""What an estimator gives: which of its methods, as which tensors.

An output has the name of its method. One that gives several arrays has numbered outputs, as the
probabilities of a classifier with several targets: `predict_proba_0`, `predict_proba_1`, …
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runtimes.base import ANY, Array, Datatype, TensorSpec
from runtimes.errors import InputError, LoadError
from runtimes.sklearn.nested import attribute, first_of

METHODS = (
    "predict",
    "predict_proba",
    "decision_function",
    "transform",
    "score_samples",
    "predict_log_proba",
)
_NEIGHBOURS = ("distances", "indices")
_OF_CLASSES = ("predict_proba", "decision_function", "predict_log_proba")
_MAX_DENSE = 2**24
"""How many numbers an answer of a sparse matrix may have, zeros included."""
_MAX_COLUMNS = 2**16
"""How many columns a sparse output may have: one row of more is no answer that anybody reads."""

Result = Any


def methods_of(estimator: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the methods that answer a call which names no output, and the others."""
    if type(estimator).__name__ == "NearestNeighbors":
        # Those of a classifier or an outlier detector are an intermediate result.
        return ("kneighbors",), ()
    methods = [name for name in METHODS if attribute(estimator, name) is not None]
    kind = _kind_of(estimator)
    wanted: Sequence[str] = ("predict",)
    if kind == "classifier":
        wanted = ("predict", "predict_proba")
    elif kind == "outlier_detector":
        wanted = ("predict", "decision_function")
    default = tuple(name for name in methods if name in wanted) or tuple(methods[:1])
    return default, tuple(name for name in methods if name not in default)


def _kind_of(estimator: Any) -> str:
    """Return the estimator's kind by scikit-learn's own words, "" where it has none."""
    from sklearn.base import is_classifier, is_outlier_detector

    try:
        if is_classifier(estimator):
            return "classifier"
        return "outlier_detector" if is_outlier_detector(estimator) else ""
    except Exception:
        # CatBoost's say what they are in their class alone, as do those of older releases.
        return str(attribute(estimator, "_estimator_type") or "")


def arrays_of(method: str, result: Result) -> dict[str, Array]:
    """Return the arrays of what a method gave, by the names of their outputs; sparse ones are made dense.

    Raises:
        InputError: for a sparse result that is too large to be sent.
    """
    if method == "kneighbors":
        return {f"{method}_{name}": np.asarray(part) for name, part in zip(_NEIGHBOURS, result, strict=True)}
    if isinstance(result, (list, tuple)) and len(result) and hasattr(result[0], "shape"):
        return {f"{method}_{index}": np.asarray(part) for index, part in enumerate(result)}
    if hasattr(result, "toarray"):
        if result.shape[0] * result.shape[1] > _MAX_DENSE:
            raise InputError(
                f"the answer would have {result.shape[0]} rows of {result.shape[1]} numbers; send at most "
                f"{max(1, _MAX_DENSE // result.shape[1])} rows in a call"
            )
        result = result.toarray()
    return {method: np.asarray(result)}


def check_size(method: str, result: Result) -> None:
    """Raise LoadError for a sparse result of so many columns that it cannot be an output."""
    if hasattr(result, "toarray") and result.shape[1] > _MAX_COLUMNS:
        raise LoadError(
            f"its {method} gives {result.shape[1]} columns, more than the {_MAX_COLUMNS} that are answered"
        )


def spec_of(name: str, array: Array, rows: int) -> TensorSpec:
    """Return the output that the array for so many rows shows: its datatype, and its shape for any number."""
    has_rows = array.ndim > 0 and array.shape[0] == rows
    return TensorSpec(name, _datatype(array).value, (-1, *array.shape[1:]) if has_rows else None)


def unproven_specs(method: str, estimator: Any) -> tuple[TensorSpec, ...]:
    """Return the outputs of a method that answered no row, as far as the estimator says what they are."""
    classes = first_of(estimator, "classes_")
    if method == "predict" and isinstance(classes, np.ndarray):
        return (TensorSpec(method, _datatype(classes).value),)
    if method in ("predict_proba", "predict_log_proba") and isinstance(classes, np.ndarray):
        return (TensorSpec(method, Datatype.FP64.value, (-1, len(classes))),)
    is_number = method != "predict" or classes is None
    return (TensorSpec(method, Datatype.FP64.value if is_number else ANY),)


def _datatype(array: Array) -> Datatype:
    """Return the datatype for an array; integers of any size are INT64, as classes are."""
    kind = array.dtype.kind
    if kind == "O":
        items = [item for item in array.reshape(-1).tolist() if item is not None]
        for kinds, datatype in (
            ((bool, np.bool_), Datatype.BOOL),
            ((int, np.integer), Datatype.INT64),
            ((int, float, np.number), Datatype.FP64),
        ):
            if items and all(isinstance(item, kinds) for item in items):
                return datatype
    if kind == "f":
        return Datatype.FP32 if array.dtype.itemsize <= np.dtype(np.float32).itemsize else Datatype.FP64
    return {"i": Datatype.INT64, "u": Datatype.INT64, "b": Datatype.BOOL}.get(kind, Datatype.BYTES)


def typed(array: Array, datatype: str) -> Array:
    """Return an array as its output's datatype; what is no number is BYTES in UTF-8."""
    if datatype != Datatype.BYTES:
        return array if datatype == ANY else array.astype(Datatype(datatype).numpy, copy=False)
    texts = np.empty(array.size, dtype=object)
    texts[:] = [
        item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()
    ]
    return texts.reshape(array.shape)


def labels_of(estimator: Any, outputs: Sequence[TensorSpec]) -> Mapping[str, tuple[str, ...]]:
    """Return the names of the columns of outputs that have one for each class."""
    classes = first_of(estimator, "classes_")
    if classes is None:
        return {}
    several = isinstance(classes, (list, tuple)) and len(classes) > 0 and isinstance(classes[0], np.ndarray)
    labels = {}
    for spec in outputs:
        method, _, number = spec.name.rpartition("_")
        if several:
            if method not in _OF_CLASSES or not number.isdigit() or int(number) >= len(classes):
                continue
            names = classes[int(number)]
        elif spec.name in _OF_CLASSES:
            names = classes
        else:
            continue
        if spec.shape is not None and spec.shape[1:] == (len(names),):
            labels[spec.name] = tuple(_text(name) for name in np.asarray(names).tolist())
    return labels


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)

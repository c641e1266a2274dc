"""What an estimator takes and gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.errors import LoadError

PROBABILITIES = "probabilities"


def signature_of(estimator: Any, path: Path) -> Signature:
    """Return what the estimator takes and gives. Raises LoadError where it does not say."""
    from sklearn.base import is_regressor

    features = getattr(estimator, "n_features_in_", None)
    if not isinstance(features, int):
        raise LoadError(
            f"{path}: its {type(estimator).__name__} does not say how many numbers it takes "
            "(n_features_in_); fit it on a table of numbers, or export it to ONNX"
        )
    name, datatype = ("prediction", Datatype.FP64) if is_regressor(estimator) else ("label", Datatype.INT64)
    classes = getattr(estimator, "classes_", None)
    outputs = []
    if isinstance(classes, np.ndarray):
        datatype = _label_datatype(classes)
        if hasattr(estimator, "predict_proba"):
            outputs.append(TensorSpec(PROBABILITIES, Datatype.FP64.value, (-1, len(classes))))
    try:
        row = np.asarray(estimator.predict(np.zeros((1, features))))
    except ValueError:
        # The model may refuse zeros; then the shape is not known.
        shape = None
    else:
        shape = (-1, *row.shape[1:])
    outputs.insert(0, TensorSpec(name, datatype.value, shape))
    return Signature((TensorSpec("input", Datatype.FP64.value, (-1, features)),), tuple(outputs))


def _label_datatype(classes: Array) -> Datatype:
    kinds = {"i": Datatype.INT64, "u": Datatype.INT64, "b": Datatype.BOOL, "f": Datatype.FP64}
    return kinds.get(classes.dtype.kind, Datatype.BYTES)

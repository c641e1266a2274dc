"""Estimators as models, and frames as the inputs of their calls."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from runtimes.base import Array, Resources, TensorModel
from runtimes.sklearn.runtime import model_of


def model_from(estimator: Any, threads: int = 1) -> TensorModel:
    """Return the model of an estimator that was saved and loaded."""
    copy = pickle.loads(pickle.dumps(estimator))
    return model_of(copy, Path("model.pkl"), Resources(cpus=threads), "made here")


def inputs_of(frame: pd.DataFrame) -> dict[str, Array]:
    """Return a frame's columns as a call has them."""
    columns = {}
    for name in frame:
        values = frame[name].to_numpy()
        if values.dtype.kind == "O" or isinstance(frame[name].dtype, pd.StringDtype):
            array = np.empty((len(values), 1), object)
            array[:, 0] = [value.encode() if isinstance(value, str) else None for value in values.tolist()]
            columns[name] = array
        else:
            columns[name] = values.reshape(-1, 1)
    return columns


def name_of(value: object) -> str:
    return type(value).__name__

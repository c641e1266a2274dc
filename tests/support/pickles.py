"""Pickles of models for tests: one that only runs where code is allowed, and a kit of it."""

from __future__ import annotations

import io
import operator
from functools import cache
from pathlib import Path

import joblib
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from tests.support.artifacts import LayoutBuilder
from tests.support.kitops import pack_kit

CODE_IMPORTS = "it imports joblib.numpy_pickle, numpy, numpy._core, sklearn.ensemble, sklearn.pipeline, "
"""How a refusal of `code_pickle` begins to list what it imports."""


@cache
def code_pickle() -> bytes:
    """Return a joblib file of a classifier of irises that calls a function that is not on the list."""
    rows, classes = load_iris(return_X_y=True)
    forest = RandomForestClassifier(10, max_depth=3, random_state=0)
    model = make_pipeline(FunctionTransformer(operator.pos), forest).fit(rows, classes)
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    return buffer.getvalue()


def code_kit(directory: Path) -> str:
    """Pack a kit of `code_pickle` into a layout at `directory`, once; return its reference."""
    if not directory.exists():
        model = ("model", "model/iris.joblib", {"model/iris.joblib": code_pickle()})
        pack_kit(LayoutBuilder(directory), "code:v1", model)
    return f"oci-layout:{directory}:code:v1"

"""The classic models of a measurement, as files that each library wrote, and the libraries alone.

Run as `python -m loadtests.classic_models NAME FILE SECONDS`, it calls the library in a loop.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.models import Array

XGBOOST, PIPELINE = "xgboost", "pipeline"
_TREES = 100
_XGBOOST_FEATURES = 50
_PIPELINE_FEATURES = 20
_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class ClassicModel:
    """A model. `load` reads `file` and returns the library's own `predict`, on one thread."""

    name: str
    title: str
    file: str
    datatype: str
    features: int
    make: Callable[[Path], None]
    load: Callable[[Path], Callable[[Array], Any]]

    def row(self) -> Array:
        """Return the row that every call has, [1, features]; four decimals, as a person would write them."""
        dtype = np.float32 if self.datatype == "FP32" else np.float64
        return _rows(self.features)[:1].round(4).astype(dtype)


def _rows(features: int) -> Array:
    return np.random.default_rng(7).normal(size=(_ROWS, features))


def _classes(rows: Array) -> Array:
    labels: Array = (rows[:, 0] + rows[:, 1] * rows[:, 2] > 0).astype(int)
    return labels


def _make_xgboost(path: Path) -> None:
    from xgboost import XGBClassifier

    rows = _rows(_XGBOOST_FEATURES).astype(np.float32)
    model = XGBClassifier(n_estimators=_TREES, max_depth=6, n_jobs=1, random_state=0)
    model.fit(rows, _classes(rows)).save_model(path)


def _load_xgboost(path: Path) -> Callable[[Array], Any]:
    from xgboost import XGBClassifier

    model = XGBClassifier(n_jobs=1)
    model.load_model(path)
    predict: Callable[[Array], Any] = model.predict
    return predict


def _make_pipeline(path: Path) -> None:
    import joblib
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = _rows(_PIPELINE_FEATURES)
    joblib.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, _classes(rows)), path)


def _load_pipeline(path: Path) -> Callable[[Array], Any]:
    import joblib

    predict: Callable[[Array], Any] = joblib.load(path).predict
    return predict


MODELS = {
    XGBOOST: ClassicModel(
        XGBOOST,
        f"XGBoost, {_TREES} trees, {_XGBOOST_FEATURES} features",
        "model.json",
        "FP32",
        _XGBOOST_FEATURES,
        _make_xgboost,
        _load_xgboost,
    ),
    PIPELINE: ClassicModel(
        PIPELINE,
        f"scikit-learn, StandardScaler and LogisticRegression, {_PIPELINE_FEATURES} features",
        "model.joblib",
        "FP64",
        _PIPELINE_FEATURES,
        _make_pipeline,
        _load_pipeline,
    ),
}

if __name__ == "__main__":
    model = MODELS[sys.argv[1]]
    predict, row = model.load(Path(sys.argv[2])), model.row()
    for _ in range(100):
        predict(row)
    seconds: list[float] = []
    begun = before = time.perf_counter()
    while before - begun < float(sys.argv[3]):
        predict(row)
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    figures = {
        "requests": len(seconds),
        "seconds": before - begun,
        "p50_ms": p50,
        "p99_ms": p99,
        "errors": 0,
    }
    print(json.dumps(figures))

"""Small models of XGBoost, LightGBM and CatBoost, in the files that these write."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import pandas as pd
import xgboost

from runtimes.base import Array, Resources, Runtime, TensorModel
from runtimes.boosters.lightgbm import LightgbmRuntime
from runtimes.boosters.xgboost import XgboostRuntime
from runtimes.errors import ExecutionError, InputError

_RANDOM = np.random.default_rng(0)
ROWS = _RANDOM.normal(size=(200, 4)).astype(np.float32)
BINARY = (ROWS[:, 0] > 0).astype(int)
CLASSES = np.digitize(ROWS[:, 1], [-0.5, 0.5])
FRAME = pd.DataFrame(ROWS, columns=["age", "pay", "town", "floor"]).astype(np.float64)
FRAME["town"] = pd.Categorical(np.where(ROWS[:, 2] > 0, "Ulm", np.where(ROWS[:, 2] < -1, "Bonn", "Kiel")))
FRAME["floor"] = pd.Categorical((ROWS[:, 3] * 2).astype(int))


def xgboost_model(path: Path, rows: Any = ROWS, target: Array = CLASSES, **options: Any) -> Any:
    """Train a classifier, save it, and return it."""
    options = {"n_estimators": 3, "max_depth": 3, "n_jobs": 1, "enable_categorical": True} | options
    model = xgboost.XGBClassifier(**options).fit(rows, target)
    model.save_model(path)
    return model


def lightgbm_model(path: Path, rows: Any = ROWS, target: Array = CLASSES, **options: Any) -> Any:
    """Train a classifier, save it, and return it."""
    options = {"n_estimators": 3, "num_leaves": 5, "n_jobs": 1, "verbose": -1} | options
    model = lightgbm.LGBMClassifier(**options).fit(rows, target)
    model.booster_.save_model(path)
    return model


def catboost_model(path: Path, rows: Any = ROWS, target: Array = CLASSES, **options: Any) -> Any:
    """Train a classifier, save it as the suffix says, and return it."""
    options = {"iterations": 3, "depth": 2, "verbose": 0, "thread_count": 1} | options
    options["allow_writing_files"] = False
    model = catboost.CatBoostClassifier(**options)
    texts = ["town", "floor"] if isinstance(rows, pd.DataFrame) else None
    if texts:
        rows = rows.astype(dict.fromkeys(texts, str))
    pool = catboost.Pool(rows, target, cat_features=texts, thread_count=1)
    model.fit(pool)
    model.save_model(str(path), format=path.suffix[1:], pool=pool if path.suffix == ".json" else None)
    return model


def columns(frame: pd.DataFrame, datatypes: Mapping[str, Any]) -> dict[str, Array]:
    """Return the columns of a frame as tensors [rows, 1]; strings as bytes, which is `object` here."""
    inputs = {}
    for name, dtype in datatypes.items():
        values = frame[name].tolist()
        if dtype is object:
            values = [str(value).encode() for value in values]
        inputs[name] = np.array(values, dtype).reshape(-1, 1)
    return inputs


def rehearse_xgboost(path: Path) -> None:
    """Load the file and ask the model, for a trial; LoadError passes."""
    _rehearse(XgboostRuntime(), path)


def rehearse_lightgbm(path: Path) -> None:
    """Load the file and ask the model, for a trial; LoadError passes."""
    _rehearse(LightgbmRuntime(), path)


def rehearse_a_crash(path: Path) -> None:
    """End the process."""
    os.kill(os.getpid(), signal.SIGSEGV)


def _rehearse(runtime: Runtime, path: Path) -> None:
    model = runtime.load(path, Resources())
    assert isinstance(model, TensorModel)
    width = sum((spec.shape or (1,))[-1] for spec in model.signature.inputs)
    if width > 1_000:
        return
    rows = np.random.default_rng(0).normal(0, 3, size=(64, 1))
    rows[0], rows[1], rows[2] = np.nan, np.inf, -1e30
    inputs = {
        spec.name: np.full((64, 1), None, object)
        if spec.datatype == "BYTES"
        else np.repeat(rows, (spec.shape or (1,))[-1], axis=1)
        for spec in model.signature.inputs
    }
    if "floor" in inputs:
        inputs["floor"] = np.arange(64).reshape(-1, 1) % 3 * 1.0
    try:
        model.infer(inputs, [spec.name for spec in model.signature.all_outputs])
    except (ExecutionError, InputError):
        return
    finally:
        model.close()

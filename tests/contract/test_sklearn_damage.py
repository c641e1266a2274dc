"""Damaged pickles of estimators whose compiled code follows indexes in the file: none costs a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from runtimes.sklearn.runtime import SklearnRuntime
from runtimes.testing.child import Job
from runtimes.testing.process import assert_no_faults

ROWS = np.random.default_rng(0).normal(size=(60, 4))
CLASSES = np.arange(60) % 3
SEEDS = 60


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(5, random_state=0),
        GradientBoostingRegressor(n_estimators=5, random_state=0),
        HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=3, random_state=0),
        IsolationForest(n_estimators=5, random_state=0),
        KNeighborsClassifier(algorithm="kd_tree"),
        SVC(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_damaged_pickles_are_refused_or_served(
    estimator: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path / "model.joblib"
    joblib.dump(estimator.fit(ROWS, CLASSES), path)
    scratch = tmp_path_factory.mktemp("child")
    runtime = (SklearnRuntime.__module__, SklearnRuntime.__name__)
    job = Job("damage", runtime, path, path, {"input": ROWS[:5]}, scratch / "report", scratch)
    assert_no_faults(job, range(-1, SEEDS))

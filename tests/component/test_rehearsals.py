"""Files with boosters are loaded by a child process first, as their engines may end it."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from catboost import CatBoostClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from runtimes.base import Resources
from runtimes.errors import LoadError
from runtimes.sklearn import rehearsal
from runtimes.sklearn.rehearsal import try_first
from runtimes.sklearn.runtime import SklearnRuntime
from runtimes.skops.runtime import SkopsRuntime
from runtimes.trial import Trial

ROWS = np.random.default_rng(0).normal(size=(40, 3))
CLASSES = (ROWS[:, 0] > 0).astype(int)
CATBOOST = CatBoostClassifier(iterations=2, verbose=0, allow_writing_files=False, thread_count=1)
BOOSTERS = {
    "model.pkl": make_pipeline(StandardScaler(), CATBOOST),
    "model.skops": make_pipeline(StandardScaler(), XGBClassifier(n_estimators=2, n_jobs=1)),
}


def crash(_path: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def written(estimator: Any, path: Path) -> Path:
    estimator.fit(ROWS, CLASSES)
    if path.suffix == ".skops":
        skops.io.dump(estimator, path)
    else:
        path.write_bytes(pickle.dumps(estimator))
    return path


@pytest.mark.parametrize("name", BOOSTERS)
def test_boosters_are_tried_and_answer(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    class Counted(Trial):
        def check(self, path: Path) -> None:
            tried.append(path.name)
            super().check(path)

    monkeypatch.setattr(rehearsal, "Trial", Counted)
    path = written(BOOSTERS[name], tmp_path / name)
    runtime = SkopsRuntime() if path.suffix == ".skops" else SklearnRuntime()
    model = runtime.load(path, Resources())
    assert tried == [name]
    answer = model.infer({"input": ROWS}, ["predict"])["predict"]
    assert answer.tolist() == BOOSTERS[name].predict(ROWS).tolist()


def test_other_estimators_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(rehearsal, "Trial")
    path = written(LogisticRegression(), tmp_path / "model.pkl")
    assert len(SklearnRuntime().load(path, Resources()).infer({"input": ROWS})["predict"]) == len(ROWS)


def test_a_crash_is_told_with_the_file_and_the_engine(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"")
    with pytest.raises(LoadError, match=r"CatBoost crashed \(SIGSEGV\) when it loaded .*model\.pkl"):
        try_first(path, ["catboost.core.CatBoost"], ("catboost",), f"{__name__}:crash")

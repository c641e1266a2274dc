"""A directory of MLflow keeps the contract by the runtime of the file that it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from runtimes.base import Array
from runtimes.select import choose
from runtimes.skops.runtime import SkopsRuntime
from runtimes.testing import LabelledContract, TableContract, TensorContract
from tests.support.estimators import inputs_of

MLMODEL = """flavors:
  sklearn: {pickled_model: model.skops, serialization_format: skops, sklearn_version: 1.9.1}
  python_function: {loader_module: mlflow.sklearn}
"""
_RANDOM = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {"age": _RANDOM.normal(size=60), "town": np.array(["Oslo", "Rome", "Łódź"], object)[np.arange(60) % 3]}
)
CLASSES = np.where(FRAME["age"] > 0, "yes", "no")


@pytest.fixture(scope="module")
def estimator() -> Any:
    columns = ColumnTransformer(
        [("numbers", StandardScaler(), ["age"]), ("words", OneHotEncoder(), ["town"])]
    )
    return make_pipeline(columns, LogisticRegression()).fit(FRAME, CLASSES)


@pytest.fixture(scope="module")
def directory(estimator: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mlflow")
    (directory / "MLmodel").write_text(MLMODEL)
    skops.io.dump(estimator, directory / "model.skops")
    return directory


class TestMlflow(TensorContract, TableContract, LabelledContract):
    """A classifier on columns of numbers and strings, as MLflow saves it with skops."""

    engine = "skops"
    tolerance = 1e-6

    @pytest.fixture
    def runtime(self) -> SkopsRuntime:
        return SkopsRuntime()

    @pytest.fixture
    def model_path(self, directory: Path) -> Path:
        return choose(directory).path

    @pytest.fixture
    def inputs(self) -> dict[str, Array]:
        return inputs_of(FRAME[:4])

    @pytest.fixture
    def expected(self, estimator: Any) -> dict[str, Array]:
        labels = np.array([label.encode() for label in estimator.predict(FRAME[:4])], object)
        return {"predict": labels, "predict_proba": estimator.predict_proba(FRAME[:4])}

    @pytest.fixture
    def labels(self) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(("predict_proba", "predict_log_proba"), ("no", "yes"))

    def test_is_chosen(self, directory: Path) -> None:
        assert choose(directory).runtime.name == "skops"

"""The runtime of scikit-learn keeps the contract, on the sample classifier and on others."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

from runtimes.base import Array, Resources, TensorModel, TensorSpec
from runtimes.errors import ExecutionError, InputError, LoadError
from runtimes.select import choose
from runtimes.sklearn.runtime import SklearnRuntime
from runtimes.testing import ProcessContract, TensorContract

ROWS = np.random.default_rng(0).normal(size=(40, 3))
CLASSES = np.arange(40) % 3


class TestSample(TensorContract, ProcessContract):
    engine = "sklearn"
    # More are tried in test_sklearn_damage.py.
    damages = 20

    @pytest.fixture
    def runtime(self) -> SklearnRuntime:
        return SklearnRuntime()

    @pytest.fixture
    def model_path(self, sample: Callable[[str], Path]) -> Path:
        return sample("/iris-pickle:v1") / "model" / "iris.joblib"

    @pytest.fixture
    def inputs(self, flowers: Array) -> dict[str, Array]:
        return {"input": flowers.astype(np.float64)}

    @pytest.fixture
    def expected(self) -> dict[str, Array]:
        return {
            "predict": np.array([0, 2, 1]),
            "predict_proba": np.array([[1, 0, 0], [0, 0.1, 0.9], [0, 1, 0]]),
        }

    def test_is_chosen_where_code_is_allowed(self, sample: Callable[[str], Path]) -> None:
        choice = choose(sample("/iris-pickle:v1"), allow_code=True)
        assert (choice.runtime.name, choice.path.name) == ("sklearn", "iris.joblib")

    def test_importing_it_imports_no_joblib(self) -> None:
        program = "import sys, runtimes.sklearn.runtime; sys.exit('joblib' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


class TestPipelineOfText(TensorContract):
    """Classes that are strings, a pickle of the standard library, and columns chosen by number."""

    engine = "sklearn"

    @pytest.fixture
    def estimator(self) -> Any:
        columns = ColumnTransformer([("scaled", StandardScaler(), [0, 2])], remainder="passthrough")
        return make_pipeline(columns, LogisticRegression()).fit(
            ROWS, np.array(["rose", "lily", "øre"])[CLASSES]
        )

    @pytest.fixture
    def runtime(self) -> SklearnRuntime:
        return SklearnRuntime()

    @pytest.fixture
    def model_path(self, estimator: Any, tmp_path: Path) -> Path:
        path = tmp_path / "model.pkl"
        path.write_bytes(pickle.dumps(estimator))
        return path

    @pytest.fixture
    def inputs(self) -> dict[str, Array]:
        return {"input": ROWS[:5].copy()}

    @pytest.fixture
    def expected(self, estimator: Any) -> dict[str, Array]:
        labels = [label.encode() for label in estimator.predict(ROWS[:5])]
        return {"predict": np.array(labels, dtype=object), "predict_proba": estimator.predict_proba(ROWS[:5])}

    def assert_same(self, actual: dict[str, Array], expected: dict[str, Array]) -> None:
        for name, array in expected.items():
            if name == "predict":
                assert actual.pop(name).tolist() == array.tolist()
        super().assert_same(actual, {name: array for name, array in expected.items() if name != "predict"})


def load(estimator: object, path: Path, compress: Any = 0, cpus: float = 1) -> TensorModel:
    joblib.dump(estimator, path / "model.joblib", compress=compress)
    return SklearnRuntime().load(path / "model.joblib", Resources(cpus=cpus))


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize(
    ("estimator", "outputs"),
    [
        (LinearRegression().fit(ROWS, CLASSES), [("predict", "FP64", (-1,))]),
        (LinearRegression().fit(ROWS, ROWS[:, :2]), [("predict", "FP64", (-1, 2))]),
        (LinearSVC().fit(ROWS, CLASSES), [("predict", "INT64", (-1,))]),
        (KMeans(2, n_init=1, random_state=0).fit(ROWS), [("predict", "INT64", (-1,))]),
        (
            IsolationForest(n_estimators=5, random_state=0).fit(ROWS),
            [("predict", "INT64", (-1,)), ("decision_function", "FP64", (-1,))],
        ),
        (
            LogisticRegression().fit(ROWS, CLASSES > 0),
            [("predict", "BOOL", (-1,)), ("predict_proba", "FP64", (-1, 2))],
        ),
        (
            KNeighborsClassifier().fit(ROWS, CLASSES * 1.0),
            [("predict", "FP64", (-1,)), ("predict_proba", "FP64", (-1, 3))],
        ),
        (
            KNeighborsClassifier().fit(ROWS, np.stack([CLASSES] * 2, 1)),
            [
                ("predict", "INT64", (-1, 2)),
                ("predict_proba_0", "FP64", (-1, 3)),
                ("predict_proba_1", "FP64", (-1, 3)),
            ],
        ),
        (
            GridSearchCV(LogisticRegression(), {"C": [1, 2]}, cv=2).fit(ROWS, CLASSES),
            [("predict", "INT64", (-1,)), ("predict_proba", "FP64", (-1, 3))],
        ),
        (
            make_pipeline(FunctionTransformer(np.log), LinearRegression()).fit(np.abs(ROWS), CLASSES),
            [("predict", "FP64", (-1,))],
        ),
    ],
)
def test_signatures_and_answers(
    tmp_path: Path, estimator: Any, outputs: list[tuple[str, str, tuple[int, ...] | None]]
) -> None:
    model = load(estimator, tmp_path)
    assert model.signature.inputs == (TensorSpec("input", "FP64", (-1, 3)),)
    assert model.signature.outputs == tuple(TensorSpec(*output) for output in outputs)
    results = model.infer({"input": np.abs(ROWS[:4])})
    assert list(results) == [name for name, _, _ in outputs]
    np.testing.assert_allclose(
        results[outputs[0][0]].astype(float), estimator.predict(np.abs(ROWS[:4])).astype(float)
    )


@pytest.mark.parametrize("compress", [3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_compressed_files(tmp_path: Path, compress: Any) -> None:
    estimator = LogisticRegression().fit(ROWS, CLASSES)
    results = load(estimator, tmp_path, compress).infer({"input": ROWS})
    np.testing.assert_array_equal(results["predict"], estimator.predict(ROWS))


@pytest.mark.parametrize("rows", [np.full((1, 3), np.nan), np.full((1, 3), np.inf), np.empty((0, 3))])
def test_rows_that_no_model_takes_are_the_callers_fault(tmp_path: Path, rows: Array) -> None:
    model = load(LogisticRegression().fit(ROWS, CLASSES), tmp_path)
    with pytest.raises(InputError, match="'input'"):
        model.infer({"input": rows})


def test_a_model_that_fails(tmp_path: Path) -> None:
    estimator = make_pipeline(FunctionTransformer(np.negative), LinearRegression()).fit(ROWS, CLASSES)
    model = load(estimator, tmp_path)
    model._prepared.program._methods["predict"] = lambda _: 1 / 0  # type: ignore[attr-defined]
    with pytest.raises(ExecutionError, match="division by zero"):
        model.infer({"input": ROWS})


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        ({"a": 1}, "holds a dict, not an estimator"),
        (LocalOutlierFactor().fit(ROWS), "holds a LocalOutlierFactor, not an estimator that has a method"),
        (LogisticRegression, r"holds the class or function sklearn\..*LogisticRegression"),
        (LogisticRegression(), r"LogisticRegression does not say how many numbers .*export it to ONNX"),
    ],
)
def test_what_does_not_predict_is_refused(tmp_path: Path, thing: object, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        load(thing, tmp_path)


def test_a_broken_estimator_fails_when_it_is_loaded(tmp_path: Path) -> None:
    estimator = LogisticRegression().fit(ROWS, CLASSES)
    del estimator.coef_
    with pytest.raises(LoadError, match=r"model\.joblib was made with scikit-learn .* does not work"):
        load(estimator, tmp_path)


def test_a_missing_class_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x04\x8c\x0eno_such_module\x8c\x05Thing\x93.")
    with pytest.raises(LoadError, match="no_such_module"):
        SklearnRuntime().load(path, Resources())


@pytest.fixture
def of_another_version(tmp_path: Path) -> Path:
    """A pickle that says that an older scikit-learn made it."""
    path = tmp_path / "old.pkl"
    import sklearn

    data = pickle.dumps(LogisticRegression().fit(ROWS, CLASSES))
    version = sklearn.__version__.encode()
    assert version in data
    path.write_bytes(data.replace(version, b"0" * (len(version) - 2) + b".1"))
    return path


def test_a_file_of_another_version_is_loaded_and_that_is_logged(
    of_another_version: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    with caplog.at_level(logging.WARNING):
        model = SklearnRuntime().load(of_another_version, Resources())
    assert len(model.infer({"input": ROWS})["predict"]) == 40
    (record,) = caplog.records
    assert record.getMessage() == "made with another scikit-learn"
    assert vars(record)["made_with"].endswith(".1")
    assert not [warning for warning in recwarn if "sklearn" in str(warning.category)]


def test_a_file_of_another_version_that_does_not_load_names_it(of_another_version: Path) -> None:
    data = of_another_version.read_bytes()
    of_another_version.write_bytes(data[:-40])
    with pytest.raises(LoadError, match=r"cannot load .*old\.pkl"):
        SklearnRuntime().load(of_another_version, Resources())


def test_it_computes_with_the_threads_that_it_is_given(tmp_path: Path) -> None:
    forest = RandomForestClassifier(4, n_jobs=-1, random_state=0)
    model = load(make_pipeline(StandardScaler(), forest).fit(ROWS, CLASSES), tmp_path, cpus=2)
    forest = model._prepared.program._methods["predict"].__self__  # type: ignore[attr-defined]
    assert forest.get_params()["n_jobs"] == 2


def test_without_scikit_learn_it_says_what_to_install(tmp_path: Path) -> None:
    joblib.dump(LogisticRegression().fit(ROWS, CLASSES), tmp_path / "model.joblib")
    program = (
        "import sys; sys.modules['sklearn'] = None; sys.modules['joblib'] = None\n"
        "from pathlib import Path\nfrom runtimes.base import Resources\n"
        "from runtimes.errors import LoadError\n"
        "from runtimes.select import choose\n"
        f"choice = choose(Path({str(tmp_path)!r}), allow_code=True)\n"
        "try: choice.runtime.load(choice.path, Resources())\n"
        "except LoadError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "model.joblib needs scikit-learn: pip install 'kitserve[sklearn]'" in done.stdout

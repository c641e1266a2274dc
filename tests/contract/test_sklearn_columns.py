"""Estimators that were fitted on a frame take its columns by name, and answer as for the frame."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from catboost import CatBoostClassifier
from lightgbm import LGBMClassifier
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    StandardScaler,
)
from xgboost import XGBClassifier

from runtimes.base import Array, Resources, TensorModel
from runtimes.errors import ExecutionError, InputError
from runtimes.sklearn.runtime import SklearnRuntime, model_of
from runtimes.testing import LabelledContract, OnRequestContract, TableContract, TensorContract
from tests.support.estimators import inputs_of, model_from, name_of

RANDOM = np.random.default_rng(0)
ROWS = 60
CITIES = np.array(["Oslo", "Rome", "Łódź"], object)
NUMBERS = ["age", "fare", "weight"]
FRAME = pd.DataFrame(
    {
        "age": RANDOM.integers(1, 90, ROWS).astype(float),
        "fare": RANDOM.normal(size=ROWS),
        "weight": RANDOM.uniform(1, 2, ROWS),
        "city": CITIES[np.arange(ROWS) % 3],
        "grade": np.arange(ROWS) % 4,
        "is_member": np.arange(ROWS) % 2 == 0,
        "note": np.array(["good and cheap", "bad", "very good"], object)[np.arange(ROWS) % 3],
        "ticket": [f"t{row}" for row in range(ROWS)],
    }
)
CLASSES = np.array(["no", "yes"])[(FRAME["fare"] > 0).to_numpy().astype(int)]


def mixed() -> Any:
    """Return a pipeline of numbers, categories of each datatype, and text."""
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), NUMBERS),
            ("city", make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()), ["city"]),
            ("kinds", OneHotEncoder(), ["grade", "is_member"]),
            ("words", TfidfVectorizer(), "note"),
        ]
    )
    return make_pipeline(columns, LogisticRegression()).fit(FRAME, CLASSES)


@pytest.fixture(scope="module")
def estimator() -> Any:
    return mixed()


class TestMixedColumns(TensorContract, TableContract, OnRequestContract, LabelledContract):
    engine = "sklearn"
    used = FRAME.drop(columns=["ticket"])

    @pytest.fixture
    def runtime(self) -> SklearnRuntime:
        return SklearnRuntime()

    @pytest.fixture
    def model_path(self, estimator: Any, tmp_path: Path) -> Path:
        joblib.dump(estimator, tmp_path / "model.joblib")
        return tmp_path / "model.joblib"

    @pytest.fixture
    def inputs(self) -> dict[str, Array]:
        return inputs_of(self.used[:4])

    @pytest.fixture
    def expected(self, estimator: Any) -> dict[str, Array]:
        labels = np.empty(4, object)
        labels[:] = [label.encode() for label in estimator.predict(FRAME[:4])]
        return {"predict": labels, "predict_proba": estimator.predict_proba(FRAME[:4])}

    @pytest.fixture
    def on_request(self, estimator: Any) -> dict[str, Array]:
        return {
            "predict_log_proba": estimator.predict_log_proba(FRAME[:4]),
            "decision_function": estimator.decision_function(FRAME[:4]),
        }

    @pytest.fixture
    def labels(self) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(("predict_proba", "predict_log_proba"), ("no", "yes"))

    def test_each_column_has_its_datatype(self, model: TensorModel) -> None:
        assert {spec.name: (spec.datatype, spec.shape) for spec in model.signature.inputs} == {
            "age": ("FP64", (-1, 1)),
            "fare": ("FP64", (-1, 1)),
            "weight": ("FP64", (-1, 1)),
            "city": ("BYTES", (-1, 1)),
            "grade": ("INT64", (-1, 1)),
            "is_member": ("BOOL", (-1, 1)),
            "note": ("BYTES", (-1, 1)),
        }
        assert [spec.name for spec in model.signature.optional] == ["ticket"]

    def test_a_column_that_is_not_read_may_be_there_all_the_same(
        self, model: TensorModel, inputs: dict[str, Array], expected: dict[str, Array]
    ) -> None:
        ticket = np.array([[b"t1"]] * 4, object)
        self.assert_same(model.infer({**inputs, "ticket": ticket}), expected)

    def test_missing_values_are_what_the_model_was_fitted_with(
        self, model: TensorModel, estimator: Any
    ) -> None:
        frame = self.used[:3].copy()
        frame.loc[0, "age"] = np.nan
        frame.loc[1, "city"] = np.nan
        answer = model.infer(inputs_of(frame))
        np.testing.assert_allclose(answer["predict_proba"], estimator.predict_proba(frame), rtol=1e-9)

    def test_an_unknown_category_is_named(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        city = inputs["city"].copy()
        city[2, 0] = b"Paris"
        with pytest.raises(InputError, match=r"^input 'city': Found unknown categories \[.*Paris"):
            model.infer({**inputs, "city": city})

    def test_bytes_that_are_no_text_are_named(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        city = inputs["city"].copy()
        city[2, 0] = b"\xff"
        with pytest.raises(InputError, match="input 'city': row 2 is not UTF-8"):
            model.infer({**inputs, "city": city})

    def test_a_missing_text_is_the_callers_fault(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        note = inputs["note"].copy()
        note[0, 0] = None
        with pytest.raises((InputError, ExecutionError)) as caught:
            model.infer({**inputs, "note": note})
        assert isinstance(caught.value, InputError), caught.value


NUMERIC = [
    make_pipeline(StandardScaler(), LogisticRegression()),
    RandomForestClassifier(4, random_state=0),
    HistGradientBoostingClassifier(max_iter=3),
    make_pipeline(
        ColumnTransformer([("a", StandardScaler(), ["fare"]), ("b", MinMaxScaler(), ["weight", "age"])]),
        LogisticRegression(),
    ),
    make_pipeline(
        ColumnTransformer([("a", StandardScaler(), ["weight"])], remainder="passthrough"),
        RandomForestClassifier(3, random_state=0),
    ),
    make_pipeline(FunctionTransformer(np.square), LogisticRegression()),
    make_pipeline(StandardScaler().set_output(transform="pandas"), LogisticRegression()),
    GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {}, cv=2),
    XGBClassifier(n_estimators=3),
    LGBMClassifier(n_estimators=3, verbose=-1),
    CatBoostClassifier(iterations=3, verbose=0, allow_writing_files=False),
    make_pipeline(StandardScaler(), LGBMClassifier(n_estimators=3, verbose=-1)),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("estimator", NUMERIC, ids=name_of)
def test_numbers_with_names_are_taken_by_name_or_as_a_matrix_and_without_a_frame(estimator: Any) -> None:
    numbers = FRAME[NUMBERS]
    estimator.fit(numbers, CLASSES == "yes")
    model = model_from(estimator)
    assert [(spec.name, spec.datatype) for spec in model.signature.inputs] == [
        (name, "FP64") for name in NUMBERS
    ]
    expected = estimator.predict_proba(numbers[:5])
    for inputs in (
        inputs_of(numbers[:5]),
        dict(reversed(inputs_of(numbers[:5]).items())),
        {"input": numbers[:5].to_numpy()},
        {name: values[:, 0] for name, values in inputs_of(numbers[:5]).items()},
    ):
        answer = model.infer(inputs)
        np.testing.assert_allclose(answer["predict_proba"], expected, rtol=1e-9)
        np.testing.assert_array_equal(
            answer["predict"].astype(str), estimator.predict(numbers[:5]).astype(str)
        )
    assert model._prepared.read.__name__ == "matrix"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "function", [lambda frame: frame[["fare"]] * 2, lambda frame: frame.assign(more=frame["age"])]
)
def test_a_function_that_looks_for_names_gets_a_frame(function: Any) -> None:
    estimator = make_pipeline(FunctionTransformer(function), LogisticRegression())
    estimator.fit(FRAME[NUMBERS], CLASSES)
    model = model_of(estimator, Path("model.pkl"), Resources(), "made here")
    answer = model.infer(inputs_of(FRAME[NUMBERS][:5]))
    np.testing.assert_allclose(answer["predict_proba"], estimator.predict_proba(FRAME[NUMBERS][:5]))
    assert not model.pays_to_batch


def lowered(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.apply(lambda column: column.str.lower())


def aged(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"age": np.where(frame["age"] > 40, "old", "young")}, index=frame.index)


def widened(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(kind=np.where(frame["age"] > 40, "old", "young"))


def test_a_function_may_add_columns_that_the_next_step_chooses() -> None:
    chosen = ColumnTransformer([("kind", OneHotEncoder(), ["kind"])], remainder="passthrough")
    estimator = make_pipeline(FunctionTransformer(widened), chosen, LogisticRegression(max_iter=1000))
    estimator.fit(FRAME[NUMBERS], CLASSES)
    model = model_from(estimator)
    answer = model.infer(inputs_of(FRAME[NUMBERS]))
    np.testing.assert_allclose(answer["predict_proba"], estimator.predict_proba(FRAME[NUMBERS]))


def doubtful(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["age"].isin([3])["none"]]


@pytest.mark.parametrize(
    ("function", "name", "datatype"), [(lowered, "city", "BYTES"), (aged, "age", "FP64")]
)
def test_what_a_function_before_an_encoder_takes_is_tried(function: Any, name: str, datatype: str) -> None:
    columns = ColumnTransformer(
        [
            ("kinds", make_pipeline(FunctionTransformer(function), OneHotEncoder()), [name]),
            ("numbers", StandardScaler(), ["fare"]),
        ]
    )
    frame = FRAME[[name, "fare"]]
    estimator = make_pipeline(columns, LogisticRegression()).fit(frame, CLASSES)
    model = model_from(estimator)
    assert {spec.name: spec.datatype for spec in model.signature.inputs} == {name: datatype, "fare": "FP64"}
    answer = model.infer(inputs_of(frame))
    np.testing.assert_allclose(answer["predict_proba"], estimator.predict_proba(frame))


def test_a_function_that_fails_on_made_up_rows_is_served_all_the_same() -> None:
    estimator = make_pipeline(FunctionTransformer(None), LogisticRegression()).fit(FRAME[NUMBERS], CLASSES)
    estimator[0].func = doubtful
    model = model_from(estimator)
    assert [spec.name for spec in model.signature.outputs] == ["predict", "predict_proba"]
    with pytest.raises(ExecutionError, match="none"):
        model.infer(inputs_of(FRAME[NUMBERS][:2]))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    joblib.dump(mixed(), tmp_path / "strings.joblib")
    joblib.dump(NUMERIC[3].fit(FRAME[NUMBERS], CLASSES), tmp_path / "numbers.joblib")
    return tmp_path


def test_without_pandas_numbers_are_taken_and_strings_say_what_to_install(saved: Path) -> None:
    program = (
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] == 'pandas': raise ImportError('no pandas')\n"
        "sys.meta_path.insert(0, Without())\n"
        "from pathlib import Path\nimport numpy as np, pickle\n"
        "from runtimes.base import Resources\nfrom runtimes.errors import LoadError\n"
        "from runtimes.sklearn.runtime import SklearnRuntime\n"
        f"path = Path({str(saved)!r})\n"
        "model = SklearnRuntime().load(path / 'numbers.joblib', Resources())\n"
        "print(model.infer({'input': np.ones((1, 3))})['predict_proba'].shape)\n"
        "try: SklearnRuntime().load(path / 'strings.joblib', Resources())\n"
        "except LoadError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "(1, 2)" in done.stdout
    assert "pip install 'kitserve[sklearn]'" in done.stdout

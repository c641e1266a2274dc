"""Estimators that were fitted on a frame take its columns by name, and answer as for the frame."""

from __future__ import annotations

import pickle
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
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
    TargetEncoder,
)
from xgboost import XGBClassifier

from runtimes.base import Array, LabelledModel, Resources, TensorModel
from runtimes.errors import ExecutionError, InputError, LoadError
from runtimes.sklearn.runtime import SklearnRuntime, model_of
from runtimes.testing import TensorContract

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


def model_from(estimator: Any) -> TensorModel:
    copy = pickle.loads(pickle.dumps(estimator))
    return model_of(copy, Path("model.pkl"), Resources(), "made here")


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


class TestMixedColumns(TensorContract):
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


def name_of(value: object) -> str:
    return type(value).__name__


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


CATEGORIES = FRAME[["fare", "city", "grade"]].astype({"city": "category", "grade": "category"})


@pytest.mark.parametrize(
    "estimator",
    [
        XGBClassifier(n_estimators=3, enable_categorical=True),
        LGBMClassifier(n_estimators=3, verbose=-1, min_child_samples=2),
        HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=2),
    ],
    ids=name_of,
)
def test_categories_of_pandas_come_as_their_values(estimator: Any) -> None:
    estimator.fit(CATEGORIES, CLASSES == "yes")
    model = model_from(estimator)
    assert [(spec.name, spec.datatype) for spec in model.signature.inputs] == [
        ("fare", "FP64"),
        ("city", "BYTES"),
        ("grade", "INT64"),
    ]
    inputs = inputs_of(FRAME[["fare", "city", "grade"]])
    answer = model.infer(inputs)
    np.testing.assert_allclose(answer["predict_proba"], estimator.predict_proba(CATEGORIES), rtol=1e-6)
    single = model.infer({name: values[4:5] for name, values in inputs.items()})
    np.testing.assert_allclose(single["predict_proba"], answer["predict_proba"][4:5], rtol=1e-6)
    inputs["city"][0, 0] = None
    assert np.isfinite(model.infer(inputs)["predict_proba"]).all()


def test_categories_of_catboost_are_strings() -> None:
    frame = FRAME[["fare", "city", "grade"]]
    estimator = CatBoostClassifier(
        iterations=3, verbose=0, cat_features=["city", "grade"], allow_writing_files=False
    ).fit(frame, CLASSES)
    model = model_from(estimator)
    assert [spec.datatype for spec in model.signature.inputs] == ["FP64", "BYTES", "BYTES"]
    inputs = inputs_of(frame.astype({"grade": str}))
    answer = model.infer(inputs)
    np.testing.assert_allclose(answer["predict_proba"], estimator.predict_proba(frame))
    assert [label.decode() for label in answer["predict"].reshape(-1)] == estimator.predict(frame).tolist()
    assert isinstance(model, LabelledModel)
    assert model.labels == {"predict_proba": ("no", "yes"), "predict_log_proba": ("no", "yes")}
    inputs["city"][0, 0] = None
    with pytest.raises(InputError, match=r"^input 'city': "):
        model.infer(inputs)


@pytest.mark.parametrize("missing", [None, np.nan])
@pytest.mark.parametrize(
    "encoder", [OneHotEncoder(), OrdinalEncoder(encoded_missing_value=9), TargetEncoder(cv=2)], ids=name_of
)
def test_a_missing_string_is_the_one_that_the_encoder_knows(encoder: Any, missing: Any) -> None:
    frame = pd.DataFrame({"city": pd.Series([missing, *["Oslo", "Rome"] * 20], dtype=object)})
    estimator = make_pipeline(encoder, LogisticRegression()).fit(frame, CLASSES[:41])
    answer = model_from(estimator).infer(inputs_of(frame))
    np.testing.assert_allclose(answer["predict_proba"], estimator.predict_proba(frame))


@pytest.mark.parametrize("dtype", ["str", "object", "string"])
def test_strings_are_the_same_in_each_dtype_of_pandas(dtype: str) -> None:
    frame = FRAME[["city", "fare"]].astype({"city": dtype})
    encoder = ColumnTransformer(
        [("city", OneHotEncoder(), make_column_selector(dtype_exclude="number"))], remainder="passthrough"
    )
    estimator = make_pipeline(encoder, LogisticRegression()).fit(frame, CLASSES)
    answer = model_from(estimator).infer(inputs_of(FRAME[["city", "fare"]]))
    np.testing.assert_allclose(answer["predict_proba"], estimator.predict_proba(frame))


def test_integers_with_missing_values_are_floats() -> None:
    frame = pd.DataFrame({"grade": [1.0, 2.0, np.nan] * 20})
    estimator = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(frame, CLASSES)
    model = model_from(estimator)
    assert model.signature.inputs[0].datatype == "FP64"
    answer = model.infer(inputs_of(frame))
    np.testing.assert_allclose(answer["predict_proba"], estimator.predict_proba(frame))


@pytest.mark.parametrize("names", [["x0", "x1"]])
def test_strings_in_an_array_have_names_by_their_place(names: list[str]) -> None:
    rows = FRAME[["city", "note"]].to_numpy(object)
    estimator = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(rows, CLASSES)
    model = model_from(estimator)
    assert [(spec.name, spec.datatype) for spec in model.signature.inputs] == [
        (name, "BYTES") for name in names
    ]
    answer = model.infer(inputs_of(FRAME[["city", "note"]].set_axis(names, axis=1)))
    np.testing.assert_allclose(answer["predict_proba"], estimator.predict_proba(rows))


TEXTS = FRAME["note"].tolist()


@pytest.mark.parametrize(
    "first",
    [
        TfidfVectorizer(),
        CountVectorizer(binary=True),
        FeatureUnion([("words", CountVectorizer()), ("letters", TfidfVectorizer(analyzer="char"))]),
        HashingVectorizer(n_features=64, alternate_sign=False),
    ],
    ids=name_of,
)
def test_a_model_of_texts_takes_one_tensor_of_them(first: Any) -> None:
    estimator = make_pipeline(first, MultinomialNB()).fit(TEXTS, CLASSES)
    model = model_from(estimator)
    assert [(spec.name, spec.datatype, spec.shape) for spec in model.signature.inputs] == [
        ("text", "BYTES", (-1,))
    ]
    texts = np.array([text.encode() for text in TEXTS[:3]], object)
    for shape in ((3,), (3, 1)):
        answer = model.infer({"text": texts.reshape(shape)})
        np.testing.assert_allclose(answer["predict_proba"], estimator.predict_proba(TEXTS[:3]))
    with pytest.raises(InputError, match="input 'text': row 1 is missing"):
        model.infer({"text": np.array([b"good", None], object)})


def test_a_vectoriser_alone_gives_a_dense_answer() -> None:
    estimator = TfidfVectorizer().fit(TEXTS)
    answer = model_from(estimator).infer({"text": np.array([b"good and bad"], object)})
    np.testing.assert_allclose(answer["transform"], estimator.transform(["good and bad"]).toarray())


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (CountVectorizer(input="filename"), r"takes files \(input='filename'\)"),
        (make_pipeline(DictVectorizer(), LogisticRegression()), "DictVectorizer takes dictionaries"),
    ],
    ids=name_of,
)
def test_what_no_call_can_have_is_refused(estimator: Any, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        model_from(estimator)


def test_a_vectoriser_that_would_read_files_is_refused_wherever_it_is() -> None:
    columns = ColumnTransformer([("words", CountVectorizer(), "note")]).fit(FRAME)
    columns.named_transformers_["words"].input = "filename"
    with pytest.raises(LoadError, match="takes files"):
        model_from(columns)


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

"""The runtimes of XGBoost, LightGBM and CatBoost keep the contract, and answer as these libraries do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import catboost
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost

from runtimes.base import Array, BatchedModel, LabelledModel, Resources, Runtime, TensorModel
from runtimes.boosters import xgboost_dense
from runtimes.boosters.catboost import CatboostRuntime
from runtimes.boosters.lightgbm import LightgbmRuntime
from runtimes.boosters.xgboost import XgboostRuntime
from runtimes.errors import InputError, LoadError
from runtimes.select import choose
from runtimes.testing import (
    LabelledContract,
    OnRequestContract,
    ProcessContract,
    TableContract,
    TensorContract,
)
from tests.support.boosters import (
    BINARY,
    CLASSES,
    FRAME,
    ROWS,
    catboost_model,
    columns,
    lightgbm_model,
    xgboost_model,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


class _Boosters(TensorContract, OnRequestContract):
    """A classifier of three classes on bare numbers."""

    tolerance = 1e-6
    file: ClassVar[str]
    make: ClassVar[Callable[..., Any]]
    of: ClassVar[type]
    rows: ClassVar[Any] = ROWS
    dtype: ClassVar[type] = np.float32
    answers: ClassVar[type] = np.float32
    raw: ClassVar[dict[str, Any]]
    """What the library's own `predict` is given for scores that are no probabilities."""

    @pytest.fixture
    def runtime(self) -> Runtime:
        runtime: Runtime = self.of()
        return runtime

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
        path = tmp_path_factory.mktemp("booster") / cls.file
        return cls.make(path, cls.rows), path

    @pytest.fixture
    def estimator(self, made: tuple[Any, Path]) -> Any:
        return made[0]

    @pytest.fixture
    def model_path(self, made: tuple[Any, Path]) -> Path:
        return made[1]

    @pytest.fixture
    def inputs(self) -> dict[str, Array]:
        return {"input": ROWS[:5].astype(self.dtype)}

    @pytest.fixture
    def asked(self) -> Any:
        """Rows as the library itself takes them."""
        return self.rows[:5]

    @pytest.fixture
    def expected(self, estimator: Any, asked: Any) -> dict[str, Array]:
        return {
            "predict": np.asarray(estimator.predict(asked)).reshape(-1).astype(np.int64),
            "predict_proba": estimator.predict_proba(asked).astype(self.answers),
        }

    @pytest.fixture
    def on_request(self, estimator: Any, asked: Any) -> dict[str, Array]:
        return {"raw_score": estimator.predict(asked, **self.raw).astype(self.answers)}

    def test_is_chosen(self, model_path: Path) -> None:
        assert type(choose(model_path).runtime) is self.of


class _Xgboost(_Boosters):
    engine, make, of = "xgboost", staticmethod(xgboost_model), XgboostRuntime
    raw: ClassVar = {"output_margin": True}


class _Lightgbm(_Boosters):
    engine, file, make, of = "lightgbm", "model.txt", staticmethod(lightgbm_model), LightgbmRuntime
    dtype = answers = np.float64
    raw: ClassVar = {"raw_score": True}


class _Catboost(_Boosters):
    engine, make, of = "catboost", staticmethod(catboost_model), CatboostRuntime
    answers = np.float64
    raw: ClassVar = {"prediction_type": "RawFormulaVal"}


# 200 damaged files of each format are tried in tests/component/test_booster_damage.py. What an engine does to
# its process is proved with one of its formats.


class TestXgboostJson(_Xgboost, ProcessContract):
    file = "model.json"
    damages = 20


class TestXgboostUbj(_Xgboost):
    file = "model.ubj"


class TestLightgbm(_Lightgbm, ProcessContract):
    damages = 20


class TestCatboostCbm(_Catboost, ProcessContract):
    file = "model.cbm"
    damages = 5


class TestCatboostJson(_Catboost):
    file = "model.json"


class _Categories(_Boosters, TableContract):
    """The same on named columns, two of them categories: strings, and numbers."""

    rows: ClassVar = FRAME
    datatypes: ClassVar[dict[str, Any]]

    @pytest.fixture
    def inputs(self) -> dict[str, Array]:
        return columns(FRAME[:5], self.datatypes)


class TestXgboostCategories(_Categories, _Xgboost):
    file = "model.ubj"
    takes_missing = True
    datatypes: ClassVar = {"age": np.float32, "pay": np.float32, "town": object, "floor": np.float64}

    def test_an_unknown_category_is_named(self, model: TensorModel, inputs: dict[str, Array]) -> None:
        inputs["town"] = np.array([[b"Rome"]] * 5, object)
        with pytest.raises(InputError, match=r"'town' has the value b'Rome'"):
            model.infer(inputs)


class TestLightgbmCategories(_Categories, _Lightgbm):
    takes_missing = True
    datatypes: ClassVar = {"age": np.float64, "pay": np.float64, "town": object, "floor": np.float64}

    def test_missing_and_unknown_categories(self, model: TensorModel, estimator: Any) -> None:
        frame = FRAME[:3].copy()
        frame["town"] = pd.Categorical([None, "Rome", "Ulm"])
        frame["floor"] = pd.Categorical([77, None, 0])
        inputs = columns(frame[["age", "pay"]], {"age": np.float64, "pay": np.float64})
        inputs["town"] = np.array([[None], [b"Rome"], [b"Ulm"]], object)
        inputs["floor"] = np.array([[77.0], [np.nan], [0]])
        np.testing.assert_allclose(model.infer(inputs)["predict_proba"], estimator.predict_proba(frame))


class TestCatboostCategories(_Categories, _Catboost):
    """CatBoost has a value of its own for each category, so that none may be missing."""

    file = "model.cbm"
    may_miss_strings = False
    datatypes: ClassVar = {"age": np.float32, "pay": np.float32, "town": object, "floor": object}

    @pytest.fixture
    def asked(self) -> Any:
        return FRAME[:5].astype({"town": str, "floor": str})


class TestCatboostLabels(_Catboost, LabelledContract):
    file = "model.cbm"

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
        path = tmp_path_factory.mktemp("booster") / cls.file
        return catboost_model(path, target=np.array(["low", "middle", "high"])[CLASSES]), path

    @pytest.fixture
    def expected(self, estimator: Any) -> dict[str, Array]:
        texts = [text.encode() for text in estimator.predict(ROWS[:5])[:, 0]]
        return {
            "predict": np.array(texts, object),
            "predict_proba": estimator.predict_proba(ROWS[:5]),
        }

    @pytest.fixture
    def labels(self) -> dict[str, tuple[str, ...]]:
        return {"predict_proba": ("high", "low", "middle")}


@pytest.mark.parametrize("file", ["model.json", "model.cbm"])
def test_catboost_categories(tmp_path: Path, file: str) -> None:
    fitted = catboost_model(tmp_path / file, FRAME)
    assert type(choose(tmp_path / file).runtime) is CatboostRuntime
    model = CatboostRuntime().load(tmp_path / file, Resources())
    inputs = columns(FRAME, {"age": np.float32, "pay": np.float32, "town": object, "floor": object})
    assert [(spec.name, spec.datatype) for spec in model.signature.inputs] == [
        *(("age", "FP32"), ("pay", "FP32"), ("town", "BYTES"), ("floor", "BYTES"))
    ]
    answers = model.infer(inputs)
    frame = FRAME.astype({"town": str, "floor": str})
    np.testing.assert_array_equal(answers["predict"], fitted.predict(frame)[:, 0])
    np.testing.assert_allclose(answers["predict_proba"], fitted.predict_proba(frame), rtol=1e-6)
    inputs["town"] = np.full((200, 1), None, object)
    with pytest.raises(InputError, match="'town' has a missing value"):
        model.infer(inputs)


@pytest.mark.parametrize(
    ("make", "file", "of"),
    [
        (xgboost_model, "m.json", XgboostRuntime),
        (lightgbm_model, "m.txt", LightgbmRuntime),
        (catboost_model, "m.cbm", CatboostRuntime),
    ],
)
def test_calls_run_together(tmp_path: Path, make: Callable[..., Any], file: str, of: type[Runtime]) -> None:
    make(tmp_path / file)
    model = of().load(tmp_path / file, Resources())
    assert isinstance(model, BatchedModel)
    assert model.pays_to_batch


GAPS = ROWS[:6].copy()
GAPS[::2, 0] = np.nan


@pytest.mark.parametrize(
    ("estimator", "target"),
    [
        (xgboost.XGBClassifier, BINARY),
        (xgboost.XGBRFClassifier, CLASSES),
        (xgboost.XGBClassifier, np.stack([BINARY, CLASSES > 1], 1)),
        (lambda **o: xgboost.XGBClassifier(booster="dart", rate_drop=0.5, **o), CLASSES),
        (lambda **o: xgboost.XGBClassifier(objective="multi:softmax", **o), CLASSES),
        (
            lambda **o: xgboost.XGBClassifier(tree_method="hist", multi_strategy="multi_output_tree", **o),
            CLASSES,
        ),
        *(
            (lambda name=name, **o: xgboost.XGBRegressor(objective=name, **o), np.abs(ROWS[:, 0]))
            for name in (
                "reg:squarederror",
                "count:poisson",
                "reg:tweedie",
                "survival:cox",
                "reg:absoluteerror",
            )
        ),
        (lambda **o: xgboost.XGBRegressor(**o), ROWS[:, :2]),
        (
            lambda **o: xgboost.XGBRegressor(objective="reg:quantileerror", quantile_alpha=[0.1, 0.9], **o),
            BINARY,
        ),
    ],
)
@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_xgboost_answers_as_its_estimators(
    tmp_path: Path, estimator: Any, target: Array, suffix: str
) -> None:
    fitted = estimator(n_estimators=4, max_depth=2, n_jobs=1).fit(ROWS, target)
    path = tmp_path / f"model.{suffix}"
    fitted.save_model(path)
    model = XgboostRuntime().load(path, Resources())
    assert XgboostRuntime().signature(path) == model.signature
    _assert_equal(model, fitted, fitted.predict(GAPS, output_margin=True), GAPS)


@pytest.mark.parametrize("is_raw", [False, True])
def test_xgboost_dense_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_raw: bool) -> None:
    booster = xgboost_model(tmp_path / "m.json").get_booster()
    expected = booster.predict(xgboost.DMatrix(GAPS), output_margin=is_raw)
    # As slow as `inplace_predict` from the release on where this fails; the private name has changed then.
    assert xgboost_dense.has_native(booster)
    quick = xgboost_dense.predictor(booster, (0, 0), np.nan, is_raw=is_raw)
    answer = quick(GAPS)
    quick(np.zeros_like(GAPS))
    np.testing.assert_array_equal(answer, expected)
    with pytest.raises(xgboost.core.XGBoostError, match="Check failed"):
        quick(np.zeros((2, 99), np.float32))
    monkeypatch.setattr(xgboost.core, "_LIB", None)
    assert not xgboost_dense.has_native(booster)
    monkeypatch.undo()
    monkeypatch.setattr(xgboost_dense, "has_native", lambda _: False)
    slow = xgboost_dense.predictor(booster, (0, 0), np.nan, is_raw=is_raw)
    np.testing.assert_array_equal(slow(GAPS), expected)


def test_xgboost_linear(tmp_path: Path) -> None:
    fitted = xgboost_model(tmp_path / "m.json", booster="gblinear", max_depth=None)
    model = XgboostRuntime().load(tmp_path / "m.json", Resources())
    _assert_equal(model, fitted, fitted.predict(ROWS[:5], output_margin=True), ROWS[:5])


def test_xgboost_uses_the_best_iteration(tmp_path: Path) -> None:
    fitted = xgboost.XGBClassifier(n_estimators=30, max_depth=3, n_jobs=1, early_stopping_rounds=2)
    fitted.fit(ROWS[:100], CLASSES[:100], eval_set=[(ROWS[100:], 2 - CLASSES[100:])], verbose=False)
    fitted.save_model(tmp_path / "m.json")
    assert fitted.best_iteration < fitted.get_booster().num_boosted_rounds() - 1
    model = XgboostRuntime().load(tmp_path / "m.json", Resources())
    _assert_equal(model, fitted, fitted.predict(GAPS, output_margin=True), GAPS)


def test_xgboost_json_with_spaces_and_a_number_for_missing_values(tmp_path: Path) -> None:
    fitted = xgboost_model(tmp_path / "m.json")
    document = json.loads((tmp_path / "m.json").read_text())
    document["learner"]["attributes"]["scikit_learn"] = '{"missing": -999}'
    (tmp_path / "m.json").write_text("\n" + json.dumps(document, indent=2))
    assert type(choose(tmp_path / "m.json").runtime) is XgboostRuntime
    model = XgboostRuntime().load(tmp_path / "m.json", Resources())
    answers = model.infer({"input": np.nan_to_num(GAPS, nan=-999)})
    np.testing.assert_allclose(answers["predict_proba"], fitted.predict_proba(GAPS))


def test_xgboost_of_a_newer_release_says_which_would_do(tmp_path: Path) -> None:
    xgboost_model(tmp_path / "m.json")
    document = json.loads((tmp_path / "m.json").read_text())
    document["version"] = [99, 1, 0]
    document["learner"]["objective"]["name"] = "reg:of_the_future"
    (tmp_path / "m.json").write_text(json.dumps(document))
    with pytest.raises(LoadError, match=r"m\.json, made with 99\.1\.0: .*pip install 'xgboost>=99\.1\.0'"):
        XgboostRuntime().load(tmp_path / "m.json", Resources())


@pytest.mark.parametrize(
    ("estimator", "target"),
    [
        (lightgbm.LGBMClassifier, BINARY),
        (lambda **o: lightgbm.LGBMClassifier(objective="multiclassova", **o), CLASSES),
        (lambda **o: lightgbm.LGBMClassifier(boosting_type="dart", **o), CLASSES),
        (lambda **o: lightgbm.LGBMRegressor(linear_tree=True, **o), ROWS[:, 1]),
        (
            lambda **o: lightgbm.LGBMRegressor(boosting_type="rf", bagging_freq=1, bagging_fraction=0.5, **o),
            BINARY,
        ),
        *(
            (lambda name=name, **o: lightgbm.LGBMRegressor(objective=name, **o), np.abs(ROWS[:, 0]))
            for name in ("regression", "poisson", "quantile", "gamma", "cross_entropy")
        ),
    ],
)
def test_lightgbm_answers_as_its_estimators(tmp_path: Path, estimator: Any, target: Array) -> None:
    target = np.clip(target, 1e-3, 1) if target.dtype.kind == "f" else target
    fitted = estimator(n_estimators=4, num_leaves=5, n_jobs=1, verbose=-1).fit(ROWS, target)
    fitted.booster_.save_model(tmp_path / "m.txt")
    model = LightgbmRuntime().load(tmp_path / "m.txt", Resources())
    assert LightgbmRuntime().signature(tmp_path / "m.txt") == model.signature
    _assert_equal(model, fitted, fitted.predict(GAPS, raw_score=True), GAPS.astype(np.float64))


@pytest.mark.parametrize("end", [b"\r", b"\0"])
def test_lightgbm_lines_that_end_otherwise(tmp_path: Path, end: bytes) -> None:
    lightgbm_model(tmp_path / "m.txt")
    data = (tmp_path / "m.txt").read_bytes()
    (tmp_path / "m.txt").write_bytes(data.replace(b"threshold=-", b"threshold=" + end, 1))
    with pytest.raises(LoadError, match=r"m\.txt is a damaged file of LightGBM: its lines"):
        LightgbmRuntime().load(tmp_path / "m.txt", Resources())


def test_lightgbm_categories_that_cannot_be_told_apart(tmp_path: Path) -> None:
    frame = FRAME.copy()
    frame["town"] = frame["town"].cat.as_ordered()
    lightgbm_model(tmp_path / "m.txt", frame)
    with pytest.raises(LoadError, match=r"2 columns of pandas' categories, and takes 1 .*integer codes"):
        LightgbmRuntime().load(tmp_path / "m.txt", Resources())


@pytest.mark.parametrize(
    ("loss", "target", "labels"),
    [
        ("Logloss", np.array(["no", "yes"])[BINARY], ("no", "yes")),
        ("Logloss", BINARY > 0, ("False", "True")),
        ("MultiClass", CLASSES + 3, ("3", "4", "5")),
        ("MultiLogloss", np.stack([BINARY, CLASSES > 1], 1), None),
        ("RMSE", ROWS[:, 0], None),
        ("Poisson", np.abs(ROWS[:, 0]), None),
        ("RMSEWithUncertainty", ROWS[:, 0], None),
        ("MultiRMSE", ROWS[:, :2], None),
    ],
)
def test_catboost_answers_as_its_estimators(
    tmp_path: Path, loss: str, target: Array, labels: tuple[str, ...] | None
) -> None:
    is_regression = "RMSE" in loss or loss == "Poisson"
    kind = catboost.CatBoostRegressor if is_regression else catboost.CatBoostClassifier
    fitted = kind(
        iterations=4, depth=2, verbose=0, thread_count=1, loss_function=loss, allow_writing_files=False
    )
    fitted.fit(ROWS, target).save_model(str(tmp_path / "m.cbm"))
    model = CatboostRuntime().load(tmp_path / "m.cbm", Resources())
    assert isinstance(model, LabelledModel)
    assert model.labels == ({} if labels is None else {"predict_proba": labels})
    _assert_equal(model, fitted, fitted.predict(GAPS, prediction_type="RawFormulaVal"), GAPS)


def _assert_equal(model: TensorModel, fitted: Any, raw: Array, rows: Array) -> None:
    """Check all answers to `rows`, and that the signature says what they are."""
    names = [spec.name for spec in model.signature.all_outputs]
    assert names[-1] == "raw_score"
    answers = model.infer({"input": rows}, names)
    expected = {"predict": np.asarray(fitted.predict(rows)), "raw_score": raw}
    if "predict_proba" in names:
        expected["predict_proba"] = fitted.predict_proba(rows)
    assert answers.keys() == expected.keys()
    for spec in model.signature.all_outputs:
        answer, wanted = answers[spec.name], expected[spec.name]
        if wanted.ndim == 2 and wanted.shape[1] == 1:
            wanted = wanted[:, 0]
        assert (-1, *answer.shape[1:]) == spec.shape
        if answer.dtype.kind == "O":
            assert [text.decode() for text in answer] == wanted.tolist()
        else:
            np.testing.assert_allclose(answer.astype(float), wanted.astype(float), rtol=1e-6, atol=1e-6)
    empty = model.infer({"input": rows[:0]}, names)
    for name in names:
        assert empty[name].shape == (0, *answers[name].shape[1:])
        assert empty[name].dtype == answers[name].dtype

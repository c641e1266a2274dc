"""Categories come as their values, and missing ones as what the model was fitted with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from catboost import CatBoostClassifier
from lightgbm import LGBMClassifier
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder
from xgboost import XGBClassifier

from runtimes.base import LabelledModel
from runtimes.errors import InputError
from tests.support.estimators import inputs_of, model_from, name_of

ROWS = 60
FRAME = pd.DataFrame(
    {
        "fare": np.random.default_rng(0).normal(size=ROWS),
        "city": np.array(["Oslo", "Rome", "Łódź"], object)[np.arange(ROWS) % 3],
        "grade": np.arange(ROWS) % 4,
        "note": np.array(["good and cheap", "bad", "very good"], object)[np.arange(ROWS) % 3],
    }
)
CLASSES = np.array(["no", "yes"])[(FRAME["fare"] > 0).to_numpy().astype(int)]
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

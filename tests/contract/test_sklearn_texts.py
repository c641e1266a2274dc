"""Models of texts take one tensor of them; what no call can have is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import FeatureUnion, make_pipeline

from runtimes.errors import InputError, LoadError
from tests.support.estimators import model_from, name_of

TEXTS = ["good and cheap", "bad", "very good"] * 20
CLASSES = np.array(["no", "yes"] * 30)


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
    columns = ColumnTransformer([("words", CountVectorizer(), "note")]).fit(pd.DataFrame({"note": TEXTS}))
    columns.named_transformers_["words"].input = "filename"
    with pytest.raises(LoadError, match="takes files"):
        model_from(columns)

"""Predictions: outputs by row, by the names of outputs and classes, or as other clients read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import orjson
import pytest

from gateway.codec.call import IN_JSON, Call
from gateway.codec.predict.answer import PredictionWriter, wants_csv
from gateway.codec.predict.class_names import ClassNames
from gateway.codec.predict.paths import Style, style_of
from gateway.codec.predict.request import Request
from runtimes.base import Array
from runtimes.errors import InputError

SCORES = np.array([[0.9, 0.1], [0.2, 0.8]], "f4")
NAMES = {"": ("cat", "dog")}


def write(
    outputs: Mapping[str, Array],
    labels: Mapping[str, Sequence[str]] | None = None,
    style: Style = Style.NAMED,
    own: Mapping[str, Sequence[str]] | None = None,
    rows: int = 2,
    is_columnar: bool = False,
    named: Sequence[str] = (),
) -> Any:
    writer = PredictionWriter("pets", "v1", ClassNames(labels or {}, own or {}))
    call = Call("", {"x": np.zeros((rows, 1))}, dict.fromkeys(named, IN_JSON))
    document = orjson.loads(writer.json(Request(call, is_columnar), outputs, style))
    if style is Style.NAMED:
        assert (document.pop("model_name"), document.pop("model_version")) == ("pets", "v1")
    (predictions,) = document.values()
    assert list(document) == ["outputs" if is_columnar and style is Style.KSERVE else "predictions"]
    return predictions


def test_a_single_output_is_plain_values() -> None:
    assert write({"y": np.array([1.5, np.nan], "f4")}) == [1.5, None]
    assert write({"y": np.array([[0.1], [np.inf]])}) == [0.1, "Infinity"]
    assert write({"y": SCORES}) == [[0.9, 0.1], [0.2, 0.8]]
    assert write({"y": np.array([b"a", None], object)}) == ["a", None]
    assert write({"y": np.array([1.5, 2.5], ml_dtypes.bfloat16)}) == [1.5, 2.5]
    assert write({"y": np.array([[1, 2], [3, 4]], "f2").T}) == [[1, 3], [2, 4]]
    assert write({"y": np.array([2**63, 1], "u8")}) == [2**63, 1]
    assert write({"y": np.array([True, False])}) == [True, False]


def test_classes_are_named_by_the_labels_of_the_kit() -> None:
    assert write({"scores": SCORES}, NAMES) == [
        {"label": "cat", "scores": {"cat": 0.9, "dog": 0.1}},
        {"label": "dog", "scores": {"cat": 0.2, "dog": 0.8}},
    ]
    assert write({"label": np.array([0, 1]), "probabilities": SCORES}, NAMES) == [
        {"label": "cat", "probabilities": {"cat": 0.9, "dog": 0.1}},
        {"label": "dog", "probabilities": {"cat": 0.2, "dog": 0.8}},
    ]
    assert write({"label": np.array([0, 5])}, NAMES) == ["cat", 5]
    only_scores = {"scores": ("cat", "dog")}
    assert write({"label": np.array([1, 2]), "scores": SCORES}, only_scores)[0] == {
        "label": 1,
        "scores": {"cat": 0.9, "dog": 0.1},
    }


def test_classes_are_named_by_the_model_itself() -> None:
    own = {"predict_proba": ("3", "7")}
    outputs = {"predict": np.array([3, 7]), "predict_proba": SCORES}
    assert write(outputs, own, own=own)[1] == {"predict": 7, "predict_proba": {"3": 0.2, "7": 0.8}}
    assert write(outputs, NAMES, own=own)[1] == {"predict": "dog", "predict_proba": {"cat": 0.2, "dog": 0.8}}
    texts = {"predict": np.array([b"x", b"y"], object), "predict_proba": SCORES}
    assert write(texts, {"predict_proba": ("x", "y")}, own={"predict_proba": ("x", "y")})[0] == {
        "predict": "x",
        "predict_proba": {"x": 0.9, "y": 0.1},
    }


def test_names_that_come_twice_are_told_apart() -> None:
    scores = np.array([[0.1, 0.2, 0.7]])
    assert write({"s": scores}, {"": ("crane", "", "crane")}, rows=1) == [
        {"label": "crane (2)", "s": {"crane (0)": 0.1, "(1)": 0.2, "crane (2)": 0.7}}
    ]


def test_other_lengths_have_no_names() -> None:
    assert write({"s": SCORES}, {"": ("a", "b", "c")}) == [[0.9, 0.1], [0.2, 0.8]]


def test_outputs_about_the_whole_call_are_given_whole() -> None:
    assert write({"loss": np.array(0.5, "f4")}) == 0.5
    assert write({"a": np.zeros(3), "b": np.zeros((2, 1))}) == {"a": [0, 0, 0], "b": [[0], [0]]}


@pytest.mark.parametrize("style", [Style.KSERVE, Style.MLFLOW])
def test_other_servers_clients_get_plain_values(style: Style) -> None:
    outputs = {"predict_proba": SCORES, "predict": np.array([0, 1])}
    assert write(outputs, NAMES, style) == [0, 1]
    assert write({"y": np.array([[1.0], [2.0]])}, NAMES, style) == [[1.0], [2.0]]
    assert write({"y": SCORES, "z": SCORES}, NAMES, style)[0] == pytest.approx([0.9, 0.1])
    assert write(outputs, NAMES, style, named=list(outputs))[0]["predict"] == 0
    assert write(outputs, NAMES, style, is_columnar=True) == [0, 1]


def test_csv() -> None:
    writer = PredictionWriter("pets", "v1", ClassNames(NAMES, {}))
    request = Request(Call("", {"x": np.zeros((2, 1))}))
    outputs = {
        "label": np.array([0, 1]),
        "s": SCORES,
        "y": np.array([[1.5], [np.nan]]),
        "v": np.zeros((2, 3)),
    }
    assert writer.csv(request, outputs, Style.NAMED).decode().split("\n")[:2] == [
        "label,s.cat,s.dog,y,v.0,v.1,v.2",
        f"cat,{float(SCORES[0, 0])},{float(SCORES[0, 1])},1.5,0.0,0.0,0.0",
    ]
    assert writer.csv(request, outputs, Style.MLFLOW) == b"0\n1\n"
    with pytest.raises(InputError, match="is no table; ask for JSON"):
        writer.csv(request, {"y": np.zeros((2, 2, 2))}, Style.NAMED)


@pytest.mark.parametrize(
    ("accept", "is_csv"),
    [
        ("", False),
        ("text/csv", True),
        ("text/html, text/csv;q=0.9, application/json", True),
        ("application/json, text/csv", False),
        ("*/*", False),
    ],
)
def test_csv_is_asked_for_by_accept(accept: str, is_csv: bool) -> None:
    assert wants_csv(accept) is is_csv


@pytest.mark.parametrize(
    ("path", "style"),
    [
        ("/v2/models/m/predict", Style.NAMED),
        ("/v2/models/m/versions/v1/predict", Style.NAMED),
        ("/v1/models/m:predict", Style.KSERVE),
        ("/v1/models/m/versions/sha256:ab:predict", Style.KSERVE),
        ("/invocations", Style.MLFLOW),
        ("/models/m/invocations", Style.MLFLOW),
        ("/models/m/versions/v1/invocations", Style.MLFLOW),
        ("/v2/models/m/infer", None),
        ("/v1/models/m", None),
        ("/v1/models/m:explain", None),
        ("/v1/chat/completions", None),
        ("/x/invocations", None),
    ],
)
def test_paths(path: str, style: Style | None) -> None:
    assert style_of(path) is style

"""A worker answers calls on a model of named columns: by JSON, with outputs on request, together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from gateway.metrics.tally import Tally
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.labels import combined, own_labels
from gateway.worker.version import AppOptions, Identity
from runtimes.base import Resources
from runtimes.sklearn.runtime import model_of

FRAME = pd.DataFrame({"age": [20.0, 30.0, 50.0, 60.0], "city": ["Oslo", "Rome", "Oslo", "Rome"]})
ESTIMATOR = make_pipeline(
    make_column_transformer((StandardScaler(), ["age"]), (OneHotEncoder(), ["city"])), LogisticRegression()
).fit(FRAME, ["no", "no", "yes", "yes"])
KEY = "a-secret"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    model = model_of(ESTIMATOR, Path("model.pkl"), Resources(), "made here")
    options = AppOptions(edge_key=KEY, labels=combined({}, own_labels(model)))
    app = build_app(Identity("people", "v1", "sha256:" + "0" * 64), model, Tally(), options)
    server = HttpServer(app, "127.0.0.1")
    server.start()
    yield f"http://{server.host}:{server.port}/v2/models/people"
    server.stop()
    app.stop()


def call(url: str, ages: list[float], cities: list[str], **members: Any) -> requests.Response:
    shape = [len(ages), 1]
    inputs = [
        {"name": "age", "datatype": "FP32", "shape": shape, "data": ages},
        {"name": "city", "datatype": "BYTES", "shape": shape, "data": cities},
    ]
    return requests.post(
        f"{url}/infer", json={"inputs": inputs, **members}, headers={"Kitserve-Edge": KEY}, timeout=20
    )


def outputs_of(answer: requests.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


def test_a_call_gets_what_is_given_by_default(url: str) -> None:
    outputs = outputs_of(call(url, [20, 60], ["Oslo", "Rome"]))
    assert list(outputs) == ["predict", "predict_proba"]
    assert outputs["predict"] == ["no", "yes"]
    rows = pd.DataFrame({"age": [20.0, 60.0], "city": ["Oslo", "Rome"]})
    np.testing.assert_allclose(np.reshape(outputs["predict_proba"], (2, 2)), ESTIMATOR.predict_proba(rows))


def test_a_call_may_name_an_output_on_request_and_classes(url: str) -> None:
    wanted = [
        {"name": "decision_function"},
        {"name": "predict_proba", "parameters": {"classification": 1}},
    ]
    outputs = outputs_of(call(url, [60], ["Rome"], outputs=wanted))
    assert list(outputs) == ["decision_function", "predict_proba"]
    assert outputs["predict_proba"][0].endswith(":1:yes")


def test_metadata_lists_all_outputs(url: str) -> None:
    document = requests.get(url, headers={"Kitserve-Edge": KEY}, timeout=20).json()
    assert [tensor["name"] for tensor in document["outputs"]] == [
        "predict",
        "predict_proba",
        "decision_function",
        "predict_log_proba",
    ]


def test_a_refused_row_is_the_callers_fault(url: str) -> None:
    answer = call(url, [60], ["Paris"])
    assert answer.status_code == 400
    assert "input 'city': Found unknown categories ['Paris']" in answer.json()["error"]


def test_calls_that_run_together_get_their_own_rows_and_one_bad_row_fails_alone(url: str) -> None:
    answers: dict[int, requests.Response] = {}

    def ask(number: int) -> None:
        answers[number] = call(url, [20 + number], ["Paris" if number == 5 else "Oslo"])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.pop(5).status_code == 400
    for number, answer in answers.items():
        row = pd.DataFrame({"age": [20.0 + number], "city": ["Oslo"]})
        expected = ESTIMATOR.predict_proba(row)[0]
        np.testing.assert_allclose(outputs_of(answer)["predict_proba"], expected)

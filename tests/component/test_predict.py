"""Calls as people write them, on a real worker: paths, types, answers, errors, counts and mirrored calls."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from gateway.codec.predict.image_settings import ImageSettings
from gateway.contract import Mirroring
from gateway.metrics.counts import MirroredCalls
from gateway.metrics.tally import Tally
from gateway.rollout.plan import Agreement
from gateway.serving import Batching
from gateway.wire.headers import PLACED_HEADER
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.version import AppOptions, Identity
from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.tables import Table, column
from tests.support.echo import Echo
from tests.support.waiting import wait
from tests.support.worker import worker

PEOPLE = [{"age": 51, "city": "Oslo"}, {"age": 9, "city": None}]
PREDICT = "/v2/models/pets/predict"


class Classifier:
    """Tells who is an adult, as a classic model does; `seen` are the inputs of its last call."""

    platform = "test"
    device = "cpu"
    labels: Mapping[str, tuple[str, ...]] = {"predict_proba": ("child", "adult")}

    def __init__(self) -> None:
        self._table = Table.of_columns([column("age", Datatype.INT64), column("city", Datatype.BYTES)])
        self.signature = Signature(
            self._table.inputs,
            (TensorSpec("predict", "BYTES", (-1,)), TensorSpec("predict_proba", "FP64", (-1, 2))),
            on_request=(TensorSpec("decision_function", "FP64", (-1,)),),
        )
        self.seen: Mapping[str, Array] = {}
        self.asked: tuple[str, ...] = ()

    def infer(self, inputs: Mapping[str, Array], outputs: Any = ()) -> dict[str, Array]:
        self.seen, self.asked = inputs, tuple(outputs)
        age = self._table.columns(inputs)["age"]
        adult = np.where(age > 17, 0.75, 0.25)
        results = {
            "predict": np.array([b"adult" if value > 0.5 else b"child" for value in adult], object),
            "predict_proba": np.stack([1 - adult, adult], 1),
            "decision_function": adult - 0.5,
        }
        return {name: results[name] for name in outputs or ("predict", "predict_proba")}

    def close(self) -> None:
        pass


@dataclass
class Called:
    model: Classifier
    url: str

    def post(
        self, body: Any, path: str = PREDICT, content_type: str = "application/json", **headers: str
    ) -> requests.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {
            "Content-Type": content_type,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return requests.post(self.url + path, raw, headers=named, timeout=10)


@pytest.fixture(params=[None, Batching(8, 0.001)], ids=["alone", "batched"])
def called(request: pytest.FixtureRequest) -> Iterator[Called]:
    model = Classifier()
    with worker(model, "pets", batching=request.param) as address:
        yield Called(model, f"http://{address}")


NAMED = [
    {"predict": "adult", "predict_proba": {"child": 0.25, "adult": 0.75}},
    {"predict": "child", "predict_proba": {"child": 0.75, "adult": 0.25}},
]


def test_rows_are_answered_by_name(called: Called) -> None:
    answer = called.post({"rows": PEOPLE})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["modelkit-version"] == "v1"
    assert answer.json() == {"model_name": "pets", "model_version": "v1", "predictions": NAMED}
    assert called.post({"rows": PEOPLE}, "/v2/models/pets/versions/v1/predict").json()["predictions"] == NAMED
    assert called.post(PEOPLE[0]).json()["predictions"] == NAMED[:1]


def test_csv_comes_and_goes(called: Called) -> None:
    text = b"city,age\nOslo,51\n,9\n"
    for content_type in ("text/csv", "application/x-www-form-urlencoded"):
        assert called.post(text, content_type=content_type).json()["predictions"] == NAMED
    answer = called.post(text, content_type="text/csv", Accept="text/csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert (
        answer.text == "predict,predict_proba.child,predict_proba.adult\nadult,0.25,0.75\nchild,0.75,0.25\n"
    )
    assert called.post(text, "/invocations", "text/csv", Accept="text/csv").text == "adult\nchild\n"
    wrong = called.post(b"city,age\nOslo,x\n", content_type="text/csv", Accept="text/csv")
    assert (wrong.status_code, wrong.headers["content-type"]) == (400, "application/json")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/pets:predict",
        "/v1/models/pets/versions/v1:predict",
        "/invocations",
        "/models/pets/invocations",
    ],
)
def test_other_servers_clients_get_what_they_know(called: Called, path: str) -> None:
    assert called.post({"instances": PEOPLE}, path).json() == {"predictions": ["adult", "child"]}
    assert called.model.asked == ("predict",)
    refused = called.post({"instances": [{"age": 1.5, "city": "x"}]}, path)
    assert refused.status_code == 400
    assert refused.json() == {"error": "row 1, column 'age': INT64 cannot be made of fractions, such as 1.5"}


def test_columns_are_answered_as_the_same_servers_answer_them(called: Called) -> None:
    columns = {"inputs": {"age": [51], "city": ["Oslo"]}}
    assert called.post(columns, "/v1/models/pets:predict").json() == {"outputs": ["adult"]}
    assert called.post(columns, "/invocations").json() == {"predictions": ["adult"]}
    assert called.post(columns).json()["predictions"] == NAMED[:1]


def test_outputs_are_asked_for_by_name(called: Called) -> None:
    asked = called.post({"rows": PEOPLE, "outputs": ["predict", "decision_function"]})
    assert asked.json()["predictions"][0] == {"predict": "adult", "decision_function": 0.25}
    alone = called.post({"rows": PEOPLE, "outputs": ["decision_function"]})
    assert alone.json()["predictions"] == [0.25, -0.25]


def test_errors_are_those_of_the_protocol(called: Called) -> None:
    for body, status, content_type in (
        (b"{", 400, "application/json"),
        (b"x", 415, "application/pdf"),
        (b"\x89PNG\r\n\x1a\n", 400, "image/png"),
    ):
        answer = called.post(body, content_type=content_type)
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
    get = requests.get(called.url + PREDICT, timeout=10)
    assert (get.status_code, get.headers["allow"]) == (405, "POST")
    assert "no such path" in requests.post(called.url + "/v1/models/pets:explain", timeout=10).text


def test_bodies_may_be_compressed(called: Called) -> None:
    body = gzip.compress(json.dumps({"rows": PEOPLE * 200}).encode())
    answer = called.post(body, Content_Encoding="gzip", Accept_Encoding="gzip")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.json()["predictions"] == NAMED * 200


def test_the_same_call_is_what_infer_gets(called: Called) -> None:
    called.post({"rows": PEOPLE})
    first = called.model.seen
    tensors = [
        {"name": "age", "datatype": "INT64", "shape": [2, 1], "data": [51, 9]},
        {"name": "city", "datatype": "BYTES", "shape": [2, 1], "data": ["Oslo", None]},
    ]
    assert called.post({"inputs": tensors}, "/v2/models/pets/infer").status_code == 200
    for name, array in called.model.seen.items():
        assert (array.dtype, array.tolist()) == (first[name].dtype, first[name].tolist())


def test_an_image_as_the_kit_says() -> None:
    settings = ImageSettings.of({"scale": 1 / 255, "channels": "RGB"})
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (255, 0, 255)).save(file, "PNG")
    with worker(Echo(TensorSpec("x", "FP32", (-1, 3, 2, 2))), "eye", image=settings) as address:
        answer = requests.post(
            f"http://{address}/v2/models/eye/predict",
            file.getvalue(),
            headers={"Content-Type": "image/png"},
            timeout=10,
        )
        assert answer.json()["predictions"] == [[[[1, 1], [1, 1]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]]]


def test_labels_of_the_kit_come_before_the_models_own() -> None:
    model = Classifier()
    with worker(model, "pets", labels={"": ("minor", "major")}) as address:
        answer = requests.post(f"http://{address}{PREDICT}", json={"rows": PEOPLE}, timeout=10)
        assert answer.json()["predictions"][0] == {
            "predict": "major",
            "predict_proba": {"minor": 0.25, "major": 0.75},
        }


def serving(stack: ExitStack, tally: Tally) -> tuple[HttpServer, Any]:
    app = build_app(Identity("pets", "v1", "sha256:12"), Classifier(), tally, AppOptions())
    server = HttpServer(app, "127.0.0.1")
    server.start()
    stack.callback(app.stop)
    stack.callback(server.stop)
    return server, app


def test_calls_are_counted_and_mirrored_as_those_of_infer() -> None:
    with ExitStack() as stack:
        tally, canary_tally = Tally(), Tally()
        server, app = serving(stack, tally)
        canary, _ = serving(stack, canary_tally)
        app.mirror(Mirroring(1.0, ((canary.host, canary.port),), Agreement()))
        url = f"http://{server.host}:{server.port}"
        placed = {PLACED_HEADER: "1"}
        body = {"rows": PEOPLE}
        assert requests.post(url + PREDICT, json=body, headers=placed, timeout=10).status_code == 200
        assert (
            requests.post(
                f"{url}/invocations",
                b"age,city\n3,x",
                headers={"Content-Type": "text/csv", "Accept": "text/csv", **placed},
                timeout=10,
            ).text
            == "child\n"
        )
        assert (
            requests.post(url + PREDICT, json={"rows": [{"age": "x", "city": ""}]}, timeout=10).status_code
            == 400
        )
        wait(lambda: canary_tally.numbers().mirrored.compared == 2)
        assert canary_tally.numbers().mirrored == MirroredCalls(2, 2)
        app.mirror(None)


@pytest.mark.parametrize("seed", range(8))
def test_damaged_bodies_are_refused_and_the_worker_lives(seed: int) -> None:
    chance = random.Random(seed)
    picture = io.BytesIO()
    Image.effect_noise((16, 16), 50).save(picture, "PNG" if seed % 2 else "JPEG")
    array, arrays = io.BytesIO(), io.BytesIO()
    np.save(array, np.ones((2, 4), "f4"))
    np.savez_compressed(arrays, x=np.ones((2, 4), "f4"))
    bodies = [
        (b'{"rows": [[1, 2, 3, 4], {"x": [1, 2, 3, null]}]}', "application/json"),
        (b"a,b,c,d\n1,2,3,4\n5,,7,8\n", "text/csv"),
        (array.getvalue(), "application/x-npy"),
        (arrays.getvalue(), "application/x-npz"),
        (picture.getvalue(), "image/png"),
    ]
    with ExitStack() as stack:
        matrix = stack.enter_context(worker(Echo(TensorSpec("x", "FP32", (-1, 4))), "m"))
        eye = stack.enter_context(worker(Echo(TensorSpec("x", "UINT8", (-1, 8, 8, 1))), "m"))
        session = stack.enter_context(requests.Session())
        for _ in range(60):
            body, content_type = chance.choice(bodies)
            damaged = bytearray(body)
            for _ in range(chance.choice((1, 1, 2, 8))):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            if chance.random() < 0.3:
                del damaged[chance.randrange(len(damaged)) :]
            url = f"http://{eye if content_type == 'image/png' else matrix}/v2/models/m/predict"
            answer = session.post(url, bytes(damaged), headers={"Content-Type": content_type}, timeout=10)
            assert answer.status_code in (200, 400), (content_type, bytes(damaged), answer.text)
        assert (
            session.post(f"http://{matrix}/v2/models/m/predict", json=[[1, 2, 3, 4]], timeout=10).status_code
            == 200
        )

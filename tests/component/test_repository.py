"""Repository index and statistics: a real server, version_name as NVIDIA's client does and by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import requests
from tritonclient.http import InferenceServerClient, InferenceServerException

from gateway.contract import AppName
from gateway.control.front.repository import Repository
from gateway.control.state.status import ModelState, ModelStatus, Status, VersionStatus
from gateway.control.web.app import web_app
from gateway.control.web.server import WebServer
from gateway.metrics.tally import Numbers, Tally
from gateway.metrics.versions import VersionLabels, VersionSample
from gateway.wire.server import tcp_socket
from tests.support.overview import FixedOverview

FAILED = "could not be loaded; its operator sees why with kitserve status"
DIGESTS = {"v1": "sha256:" + "1" * 64, "v2": "sha256:" + "2" * 64}


def version(tag: str, state: ModelState = ModelState.READY) -> VersionStatus:
    return VersionStatus(tag, DIGESTS[tag], "", AppName(f"iris.{tag}"), "stable", 100, state, 1, "onnx")


def sample(model: str, tag: str, numbers: Numbers) -> VersionSample:
    return VersionSample(VersionLabels(model, tag, DIGESTS[tag][7:19], "onnx"), numbers)


def numbers(calls: int, failures: int = 0) -> Numbers:
    tally = Tally()
    for _ in range(calls):
        tally.answered("stable", 200, request=0.01, queue=0.002, compute=0.007, infer=0.004, encode=0.001)
    for _ in range(failures):
        tally.answered("stable", 400, request=0.5, queue=0.0, compute=0.1)
    return tally.numbers()


STATUS = Status(
    1,
    (
        ModelStatus(
            "iris",
            ModelState.FAILED,
            "canary: no such kit",
            (version("v1"), version("v2", ModelState.FAILED)),
        ),
        ModelStatus("lilac", ModelState.PULLING, "resolving its reference", ()),
        ModelStatus("rose", ModelState.LOADING, "", (version("v1", ModelState.LOADING),)),
    ),
)


@dataclass
class Api(FixedOverview):
    address: str = ""

    def ask(self, method: str, path: str, body: bytes | str = b"") -> tuple[int, Any]:
        answer = requests.request(method, f"http://{self.address}{path}", data=body, timeout=5)
        return answer.status_code, answer.json()


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api(STATUS)
    server = WebServer(web_app(Repository(api).routes()), tcp_socket("127.0.0.1", 0))
    server.start()
    api.address = f"127.0.0.1:{server.address[1]}"
    yield api
    server.stop()


def test_a_version_that_sleeps_is_ready_and_says_so(api: Api) -> None:
    api.status = Status(
        1, (ModelStatus("iris", ModelState.ASLEEP, "waking: loading", (version("v1", ModelState.ASLEEP),)),)
    )
    entry = {"name": "iris", "version": "v1", "state": "READY", "reason": "asleep: the next call wakes it"}
    for body in ("", '{"ready": true}'):
        assert api.ask("POST", "/v2/repository/index", body) == (200, [entry])


@pytest.fixture
def client(api: Api) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(api.address) as client:
        yield client


def test_the_index_lists_every_version_of_every_model(client: InferenceServerClient) -> None:
    assert client.get_model_repository_index() == [
        {"name": "iris", "version": "v1", "state": "READY", "reason": ""},
        {"name": "iris", "version": "v2", "state": "UNAVAILABLE", "reason": FAILED},
        {"name": "lilac", "state": "LOADING", "reason": "pulling"},
        {"name": "rose", "version": "v1", "state": "LOADING", "reason": "loading"},
    ]
    # A key for certain models is told of no others.
    entries = client.get_model_repository_index(headers={"Kitserve-Models": "lilac,rose,ros"})
    assert [entry["name"] for entry in entries] == ["lilac", "rose"]


@pytest.mark.parametrize(
    ("body", "count"), [("", 4), ("{}", 4), ('{"ready": false}', 4), ('{"ready": true}', 1)]
)
def test_the_index_can_be_of_what_is_ready(api: Api, body: str, count: int) -> None:
    status, entries = api.ask("POST", "/v2/repository/index", body)
    assert (status, len(entries)) == (200, count)
    assert entries[0] == {"name": "iris", "version": "v1", "state": "READY", "reason": ""}


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ("{", 400, "the body is not JSON: "),
        (b"\xff", 400, "the body is not JSON: "),
        ("[]", 400, "the body must be a JSON object, and `ready` true or false"),
        ('{"ready": 1}', 400, "the body must be a JSON object, and `ready` true or false"),
        ('{"ready": null}', 400, "the body must be a JSON object, and `ready` true or false"),
        (b" " * 65537, 413, "the body is larger than 65536 bytes"),
    ],
)
def test_a_malformed_index_request_is_told_so(api: Api, body: bytes | str, code: int, text: str) -> None:
    status, answer = api.ask("POST", "/v2/repository/index", body)
    assert (status, answer["error"][: len(text)]) == (code, text)


def test_statistics_count_calls_and_their_steps(api: Api, client: InferenceServerClient) -> None:
    # two applications of one version are one version to a caller
    succeeded = numbers(2, failures=1)
    api.samples = (
        sample("iris", "v1", succeeded),
        sample("iris", "v1", numbers(1)),
        sample("iris", "v2", Numbers()),
    )
    entries = client.get_inference_statistics()["model_stats"]
    assert [(entry["name"], entry["version"], entry["inference_count"]) for entry in entries] == [
        ("iris", "v1", 3),
        ("iris", "v2", 0),
    ]
    first, second = entries
    assert first["execution_count"] == 3
    assert first["last_inference"] >= int(succeeded.last_call * 1000)
    assert second["last_inference"] == 0
    assert first["inference_stats"] == {
        "success": {"count": 3, "ns": 30_000_000},
        "fail": {"count": 1, "ns": 500_000_000},
        "queue": {"count": 3, "ns": 6_000_000},
        "compute_input": {"count": 3, "ns": 6_000_000},
        "compute_infer": {"count": 3, "ns": 12_000_000},
        "compute_output": {"count": 3, "ns": 3_000_000},
        "cache_hit": {"count": 0, "ns": 0},
        "cache_miss": {"count": 0, "ns": 0},
    }


def test_statistics_tell_batches(api: Api, client: InferenceServerClient) -> None:
    tally = Tally()
    for _ in range(6):
        tally.answered("stable", 200, request=0.1, queue=0.0, compute=0.01)
    tally.executed(4, decode=0.001, infer=0.002, encode=0.003)
    tally.executed(4, decode=0.001, infer=0.002, encode=0.003)
    tally.executed(1, decode=0.001, infer=0.001, encode=0.001)
    tally.executed(5000, decode=1.0, infer=1.0, encode=1.0)
    api.samples = (sample("iris", "v1", tally.numbers()),)
    (entry,) = client.get_inference_statistics("iris")["model_stats"]
    assert (entry["inference_count"], entry["execution_count"]) == (5009, 4)
    assert entry["inference_stats"]["success"]["count"] == 6
    assert entry["batch_stats"] == [
        {
            "batch_size": 1,
            "compute_input": {"count": 1, "ns": 1_000_000},
            "compute_infer": {"count": 1, "ns": 1_000_000},
            "compute_output": {"count": 1, "ns": 1_000_000},
        },
        {
            "batch_size": 4,
            "compute_input": {"count": 2, "ns": 2_000_000},
            "compute_infer": {"count": 2, "ns": 4_000_000},
            "compute_output": {"count": 2, "ns": 6_000_000},
        },
    ]


def test_statistics_are_of_one_model_or_version_where_asked(api: Api, client: InferenceServerClient) -> None:
    api.samples = (
        sample("iris", "v1", numbers(1)),
        sample("iris", "v2", numbers(2)),
        sample("rose", "v1", numbers(3)),
        sample("gone", "v1", numbers(4)),
    )

    def counts(model: str = "", version_name: str = "") -> list[int]:
        entries = client.get_inference_statistics(model, version_name)["model_stats"]
        return [entry["inference_count"] for entry in entries]

    assert counts() == [1, 2, 3]
    assert counts("iris") == [1, 2]
    assert counts("lilac") == []
    for version_name in ("v2", DIGESTS["v2"], DIGESTS["v2"][7:19], DIGESTS["v2"].replace(":", "%3A")):
        assert counts("iris", version_name) == [2]


def test_an_unknown_model_or_version_is_named(api: Api, client: InferenceServerClient) -> None:
    api.samples = (sample("iris", "v1", numbers(1)),)
    for model, version_name, text in [
        ("gone", "", "no model is named gone"),
        ("gone", "v1", "no model is named gone"),
        ("iris", "v9", "model iris has no version v9 that is served"),
        ("iris", "sha256:9", "model iris has no version sha256:9 that is served"),
    ]:
        with pytest.raises(InferenceServerException, match=text) as caught:
            client.get_inference_statistics(model, version_name)
        assert caught.value.status() == "404"


def test_other_methods_and_paths_are_refused_in_json(api: Api) -> None:
    for method, path, code in [
        ("GET", "/v2/repository/index", 405),
        ("POST", "/v2/models/stats", 405),
        ("DELETE", "/v2/models/iris/stats", 405),
        ("GET", "/v2/models/iris/other/stats", 404),
    ]:
        status, answer = api.ask(method, path)
        assert (status, list(answer)) == (code, ["error"])
    assert api.ask("GET", "/v2/repository/index")[1] == {"error": "GET is not allowed here; use POST"}


def test_a_gateway_that_knows_nothing_yet_says_so(api: Api) -> None:
    api.status = replace(STATUS, generation=0)
    for method, path in (("POST", "/v2/repository/index"), ("GET", "/v2/models/stats")):
        status, answer = api.ask(method, path)
        assert (status, answer) == (
            503,
            {"error": "the gateway has just started, and does not know yet; ask again"},
        )

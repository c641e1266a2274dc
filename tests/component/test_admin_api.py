from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry

from gateway.config.config import GatewayConfig
from gateway.contract import AppName
from gateway.control.admin.api import AdminApi
from gateway.control.admin.proposal import read_proposal
from gateway.control.state.database import State
from gateway.control.state.desired import Desired
from gateway.control.state.status import ModelState, ModelStatus, Status, VersionStatus
from gateway.control.web.app import web_app
from gateway.control.web.errors import error_body
from gateway.control.web.server import WebServer
from gateway.metrics.exposition import KitserveCollector, Scrape
from gateway.wire.server import tcp_socket
from gateway.wording import counted
from tests.support.gate import HOLDER, TOKEN, call, gate
from tests.support.overview import FixedOverview

KIT = "registry.test/team/iris:v1"
V1 = VersionStatus("v1", "sha256:12", KIT, AppName("iris.1"), "stable", 100, ModelState.READY, 1, "onnx")
STATUS = Status(1, (ModelStatus("iris", ModelState.READY, "", (V1,)),), "HAProxy is away", "a trouble")


@dataclass
class Api:
    state: State
    overview: FixedOverview = field(default_factory=lambda: FixedOverview(STATUS))
    changes: list[int] = field(default_factory=list)
    url: str = ""
    faults: list[str] = field(default_factory=list)
    """Why no config can run here."""

    def faults_of(self, _desired: Desired) -> list[str]:
        return self.faults

    def get(self, path: str, **headers: str) -> requests.Response:
        return requests.get(self.url + path, headers={**HOLDER, **headers}, timeout=5)

    def put(self, config: Any, **headers: str) -> requests.Response:
        body = config if isinstance(config, str) else json.dumps(config)
        headers = {"Content-Type": "application/json", **HOLDER, **headers}
        return requests.put(f"{self.url}/api/config", data=body, headers=headers, timeout=5)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    api = Api(State(tmp_path / "state.db"))
    api.state.begin("monday")
    registry = CollectorRegistry()
    registry.register(KitserveCollector(Scrape))
    admin = AdminApi(api.state, api.overview, registry, api.faults_of, lambda: api.changes.append(1))
    server = WebServer(web_app(admin.routes(), gate()), tcp_socket("127.0.0.1", 0))
    server.start()
    api.url = f"http://127.0.0.1:{server.address[1]}"
    yield api
    server.stop()
    api.state.close()


def models(*names: str) -> dict[str, Any]:
    return {"models": [{"name": name, "kit": KIT} for name in names]}


def test_health_is_ok(api: Api) -> None:
    assert api.get("/healthz").json() == {"status": "ok"}


def test_status_has_the_generation_that_is_wanted(api: Api) -> None:
    api.put(models("iris"))
    api.put(models("iris"))
    version: dict[str, Any] = {
        "tag": "v1",
        "digest": "sha256:12",
        "reference": KIT,
        "app": "iris.1",
        "role": "stable",
    }
    version |= {
        "weight": 100,
        "state": "ready",
        "replicas": 1,
        "runtime": "onnx",
        "note": "",
        "generation": None,
        "workers": [],
    }
    iris = {
        "name": "iris",
        "state": "ready",
        "message": "",
        "versions": [version],
        "rollout": None,
        "retry": None,
    }
    assert api.get("/api/status").json() == {
        "generation": 1,
        "wanted_generation": 2,
        "models": [iris],
        "edge": "HAProxy is away",
        "trouble": "a trouble",
    }
    assert api.get("/api/models/iris").json() == iris


def test_an_unknown_model_is_named(api: Api) -> None:
    answer = api.get("/api/models/lilac")
    assert (answer.status_code, answer.json()) == (
        404,
        {"error": "no model is named lilac; the models are iris"},
    )


def test_a_config_is_applied_and_shown(api: Api) -> None:
    assert api.get("/api/config").json() == {
        "generation": 0,
        "config": GatewayConfig().model_dump(mode="json"),
    }
    assert api.put(models("iris")).json() == {"generation": 1}
    assert api.changes == [1]
    document = api.get("/api/config").json()
    assert document["generation"] == 1
    assert [model["name"] for model in document["config"]["models"]] == ["iris"]
    assert api.put(document["config"]).json() == {"generation": 2}
    assert api.get("/api/config").json()["config"] == document["config"]


def test_others_are_answered_while_a_large_config_is_read(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    # A megabyte of YAML takes 20 s, and a gateway that is silent for 10 s is replaced.
    begun, may_go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert may_go_on.wait(20)
        return read_proposal(*arguments)

    monkeypatch.setattr("gateway.control.admin.api.read_proposal", slow)
    with ThreadPoolExecutor(1) as pool:
        applying = pool.submit(api.put, models("iris"))
        assert begun.wait(10)
        try:
            assert api.get("/healthz").status_code == 200
        finally:
            may_go_on.set()
        assert applying.result().json() == {"generation": 1}


def test_a_config_that_cannot_run_on_what_there_is_changes_nothing(api: Api) -> None:
    api.faults = ["models: iris asks for 1 GPU for each worker; this machine has 0"]
    answer = api.put(models("iris"))
    assert answer.status_code == 400
    assert answer.json()["faults"] == api.faults
    assert api.changes == []
    assert api.get("/api/config").json()["generation"] == 0


def test_each_of_many_applies_gets_a_generation_of_its_own(api: Api) -> None:
    generations: list[int] = []

    def apply(name: str) -> None:
        generations.extend(api.put(models(name)).json()["generation"] for _ in range(10))

    threads = [threading.Thread(target=apply, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(generations) == list(range(1, 21))


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({"modells": []}, ["line 1: modells: unknown field; did you mean 'models'?"]),
        (
            {"models": [{"name": "a b", "kit": "i ris", "spare": 1}]},
            ["models[0].name", "models[0].kit", "models[0].spare"],
        ),
        (
            {"models": [{"name": "iris", "kit": KIT, "runtime": "onxx"}]},
            ["line 1: models[0].runtime: there is no runtime 'onxx'; did you mean 'onnx'?"],
        ),
        ({}, ["line 1: models: is missing; write the models to serve, or `models: []` for none"]),
        ({"access_log": "all"}, ["models: is missing"]),
        ("{", ["line 1"]),
        ("[]", ["a config is a mapping"]),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), ["a config is a mapping"]),
    ],
    ids=["unknown", "three", "runtime", "empty", "no models", "broken", "list", "no text"],
)
def test_a_faulty_config_is_refused_with_all_its_faults(api: Api, body: Any, faults: list[str]) -> None:
    answer = api.put(body)
    assert answer.status_code == 400
    reported = answer.json()["faults"]
    assert len(reported) == len(faults)
    assert all(any(fault in line for line in reported) for fault in faults), reported
    assert answer.json()["error"].startswith(f"config: {counted(len(faults), 'fault')}")
    assert api.state.desired().generation == 0
    assert api.changes == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Host": "evil.test"}, 400),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:8081"}, 200),
    ],
)
def test_web_pages_cannot_change_anything(api: Api, headers: dict[str, str], status: int) -> None:
    assert api.put(models("iris"), **headers).status_code == status
    assert api.state.desired().generation == (1 if status == 200 else 0)


def test_web_pages_cannot_read_by_another_host_name(api: Api) -> None:
    for path in ("/api/status", "/api/config", "/metrics", "/healthz"):
        assert api.get(path, Host="evil.test").status_code == 400


def test_beyond_loopback_it_answers_to_any_host_name(api: Api) -> None:
    admin = AdminApi(api.state, api.overview, CollectorRegistry(), api.faults_of, lambda: None)
    app = web_app(admin.routes(), gate())
    headers = {"Host": "gateway.example.com"}
    assert call(app, "/healthz", headers | HOLDER, client="192.0.2.7", server="192.0.2.1")[0] == 200
    assert call(app, "/healthz", headers | HOLDER)[0] == 400


def test_a_config_without_end_is_refused_before_its_end(api: Api) -> None:
    answer = api.put("#" * 1024 * 1025)
    assert answer.status_code == 413
    assert "larger than 1048576 bytes" in answer.json()["error"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"health": "127.0.0.1:9"}, "health"),
        ({"allowed_hosts": ["models.test"]}, "allowed_hosts"),
        ({"health": "127.0.0.1:9", "callers": {"max_requests_each": 9}}, "health and callers"),
    ],
)
def test_what_only_a_restart_can_change_is_refused(api: Api, change: dict[str, Any], named: str) -> None:
    assert api.put(models("iris") | change).status_code == 200, "at the start anything may be set"
    assert api.put(models("iris") | change).status_code == 200
    answer = api.put(models("iris"))
    assert answer.status_code == 409
    assert answer.json()["error"].startswith(f"{named} can only change with a restart")
    assert api.state.desired().generation == 2


def test_the_first_config_of_another_start_may_change_that(api: Api) -> None:
    assert api.put(models("iris")).status_code == 200
    assert api.state.begin("tuesday")
    other = models("iris") | {"health": "127.0.0.1:9"}
    assert api.put(other).status_code == 200
    assert api.put(models("iris")).status_code == 409


def test_metrics_are_prometheus_text(api: Api) -> None:
    answer = api.get("/metrics")
    assert answer.headers["Content-Type"] == CONTENT_TYPE_LATEST
    assert "kitserve_build_info{" in answer.text


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/api/status", "/api/config", "/api/models/iris"])
def test_head_is_answered_at_once(api: Api, path: str) -> None:
    answer = requests.head(api.url + path, headers=HOLDER, timeout=5)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/api", 404), ("POST", "/api/config", 405), ("PUT", "/api/status", 405)],
)
def test_unknown_paths_and_methods_are_refused(api: Api, method: str, path: str, status: int) -> None:
    assert requests.request(method, api.url + path, headers=HOLDER, timeout=5).status_code == status


def test_an_error_has_the_form_that_callers_of_its_path_expect(api: Api) -> None:
    for path in ("/api/nothing", "/v2/nothing", "/v10/nothing"):
        assert api.get(path).json() == {"error": "Not Found"}
    assert api.get("/v1/nothing").json() == {
        "error": {"message": "Not Found", "type": "not_found_error", "param": None, "code": None}
    }
    assert error_body("/v1/models", 503, "no") == {
        "error": {"message": "no", "type": "service_unavailable", "param": None, "code": None}
    }


def test_a_gateway_that_has_just_started_does_not_know_its_models(api: Api) -> None:
    api.overview.status = Status()
    answer = api.get("/api/models/iris")
    assert answer.status_code == 503
    assert answer.json()["error"].startswith("the gateway has just started")


def test_a_state_that_cannot_be_used_is_named(api: Api) -> None:
    api.state.close()
    for answer in (api.put(models("iris")), api.get("/api/status"), api.get("/api/config")):
        assert answer.status_code == 500
        assert "state.db" in answer.json()["error"]
    assert api.get("/healthz").status_code == 200


def test_a_caller_that_hangs_up_amid_its_config_changes_nothing(api: Api) -> None:
    port = int(api.url.rpartition(":")[2])
    head = b"PUT /api/config HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {TOKEN}\r\n".encode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head + b'Content-Length: 100\r\n\r\n{"models": []')
    assert api.get("/healthz").status_code == 200
    assert api.state.desired().generation == 0

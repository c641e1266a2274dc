"""The admin API for rollouts, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from gateway.control.admin.rollout_api import RolloutApi
from gateway.control.web.app import web_app
from gateway.control.web.server import WebServer
from gateway.wire.server import tcp_socket
from tests.support.gate import HOLDER, gate
from tests.support.rollouts import World


class Api:
    def __init__(self, directory: Path) -> None:
        self.world = World(directory / "state.db")
        self.world.serve("v1")
        self.changes = 0
        rollouts = RolloutApi(self.world.rollouts, self.world.state, self._changed)
        self.server = WebServer(web_app(rollouts.routes(), gate()), tcp_socket("127.0.0.1", 0))
        self.server.start()
        self.url = f"http://127.0.0.1:{self.server.address[1]}/api/models/iris/rollout"

    def _changed(self) -> None:
        self.changes += 1

    def get(self, path: str = "") -> requests.Response:
        return requests.get(self.url + path, timeout=5)

    def order(self, order: str, body: Any = None, **headers: str) -> requests.Response:
        return requests.post(
            f"{self.url}/{order}", json={} if body is None else body, headers={**HOLDER, **headers}, timeout=5
        )


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    api = Api(tmp_path)
    yield api
    api.server.stop()
    api.world.state.close()


def test_a_rollout_is_shown_and_takes_orders(api: Api) -> None:
    shown = api.get().json()
    assert (shown["model"], shown["phase"], shown["canary"], shown["step"]) == ("iris", "Healthy", None, 0)
    api.world.to_step()
    shown = api.get().json()
    assert (shown["phase"], shown["step"], shown["weight"], len(shown["steps"])) == ("Progressing", 1, 10, 2)
    assert api.order("promote").json()["step"] == 2
    answer = api.order("abort", {"message": "a hunch"}).json()
    assert (answer["phase"], answer["reason"], answer["message"]) == ("Degraded", "RolloutAborted", "a hunch")
    assert api.order("retry").json()["phase"] == "Progressing"
    for _ in range(3):
        api.world.tick()
    assert api.order("promote", {"full": True}).json()["stable"]["tag"] == "v2"
    api.world.tick()
    assert api.order("rollback", {"digest": "v1"}).json()["canary"]["tag"] == "v1"
    assert api.changes == 5
    reasons = [event["reason"] for event in api.get("/history").json()["events"]]
    assert reasons[0] == "CanaryLoading"
    assert "RolloutAborted" in reasons


def test_an_order_that_makes_no_sense_is_a_conflict_and_changes_nothing(api: Api) -> None:
    answer = api.order("promote")
    assert (answer.status_code, answer.json()) == (409, {"error": "model iris: no rollout is on its way"})
    assert api.changes == 0


@pytest.mark.parametrize(
    ("order", "body", "headers", "status"),
    [
        ("jump", {}, {}, 404),
        ("abort", [], {}, 400),
        ("abort", {"message": 5}, {}, 400),
        ("promote", {"full": "yes"}, {}, 400),
        ("abort", {}, {"Origin": "https://elsewhere.example"}, 403),
        ("abort", {}, {"Content-Type": "text/plain"}, 415),
        ("abort", {"message": "x" * 70_000}, {}, 413),
    ],
)
def test_an_invalid_order_is_refused(
    api: Api, order: str, body: Any, headers: dict[str, str], status: int
) -> None:
    answer = api.order(order, body, **headers)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_a_model_without_a_rollout_says_so(api: Api) -> None:
    api.url = api.url.replace("iris", "other")
    for answer, status in ((api.get(), 404), (api.order("abort"), 409)):
        assert answer.status_code == status
        assert answer.json() == {"error": "no model is named other; the models are iris"}
    assert api.get("/history").json() == {"events": []}

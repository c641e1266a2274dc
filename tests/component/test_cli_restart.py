"""`kitserve restart`: what it orders, what it says, and how it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gateway.config.config import GatewayConfig
from gateway.contract import Announcement
from gateway.control.admin.api import AdminApi
from gateway.control.admin.restart_api import RestartApi
from gateway.control.state.database import State
from gateway.control.state.desired import desired_from
from gateway.control.state.restarts import Restarts
from gateway.control.state.versions import Version, version_of
from gateway.control.state.workers import Workers
from gateway.control.web.app import web_app
from gateway.control.web.server import WebServer
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Digest
from gateway.wire.server import tcp_socket
from tests.support.cli import Cli
from tests.support.control_plane import report
from tests.support.gate import gate
from tests.support.overview import FixedOverview

KIT = "registry.test/iris:v1"
DIGEST = Digest.parse("sha256:" + "a" * 64)


class World:
    """An admin API of one model, whose workers a test starts and ends."""

    def __init__(self, directory: Path) -> None:
        self.state = State(directory / "state.db")
        self.workers, self.restarts = Workers(), Restarts()
        config = GatewayConfig.model_validate({"models": [{"name": "iris", "kit": KIT}]})
        self.state.apply(desired_from(config), config.model_dump_json())
        (model,) = self.state.desired().models
        self.version: Version = version_of(model, PinnedReference.of(model.kit, DIGEST), 1)
        self.state.keep_version(self.version)
        apis: tuple[Any, ...] = (
            AdminApi(self.state, FixedOverview(), CollectorRegistry(), lambda _: [], lambda: None),
            RestartApi(self.restarts, self.state, self.workers, lambda: None),
        )
        app = web_app([route for api in apis for route in api.routes()], gate())
        self.server = WebServer(app, tcp_socket("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.server.address[1]}"
        self.server.start()

    def worker(self, number: int) -> Announcement:
        announcement = report(self.version.app, port=number)
        self.workers.hear(announcement)
        return announcement

    def tick(self) -> None:
        self.restarts.advance(self.workers.present(), self.state.versions(), {})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.server.stop()
    world.state.close()


@pytest.fixture
def cli(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Cli:
    monkeypatch.setenv("KITSERVE_ADMIN", world.address)
    return Cli(tmp_path / "home", monkeypatch, capsys)


def test_it_says_how_it_goes_on_and_when_it_is_done(
    world: World, cli: Cli, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old, steps = [world.worker(1), world.worker(2)], iter(range(9))

    def replace_next(_seconds: float) -> None:
        number = next(steps)
        for worker in old:
            if world.restarts.must_end(worker.worker):
                world.workers.drop(worker.worker)
        world.worker(10 + number)
        world.tick()

    monkeypatch.setattr("gateway.cli.restart.time.sleep", replace_next)
    with caplog.at_level(logging.INFO):
        text, _ = cli("restart", "iris:v1")
    assert text.splitlines() == [
        "iris v1: 0 of 2 workers replaced",
        "iris v1: 1 of 2 workers replaced",
        "iris v1: 2 of 2 workers replaced",
        "iris: restarted in 0 s",
    ]
    (audit,) = [record for record in caplog.records if record.getMessage() == "admin.changed"]
    assert vars(audit)["change"] == "restart"
    assert vars(audit)["workers"] == {world.version.app: 2}
    assert any(record.getMessage() == "restart.done" for record in caplog.records)


@pytest.mark.parametrize("name", ["v1", str(DIGEST), "a" * 12, ""])
def test_a_version_has_several_names(world: World, cli: Cli, name: str) -> None:
    world.worker(1)
    text, _ = cli("restart", f"iris:{name}" if name else "iris", "--no-wait")
    assert text == "iris v1: 0 of 1 worker replaced\n"
    _, error = cli("restart", "iris", code=1)
    assert "iris v1 is being restarted already: 1 worker left" in error


def test_what_cannot_be_restarted_is_said(world: World, cli: Cli) -> None:
    assert "iris has no worker that is ready" in cli("restart", "iris", code=1)[1]
    assert "iris has no version v9 that runs; those that run: v1" in cli("restart", "iris:v9", code=1)[1]
    assert "no model is named wine; the models are iris" in cli("restart", "wine", code=1)[1]
    assert "cannot be the name of a model" in cli("restart", "no name", code=2)[1]


def test_one_that_fails_or_is_forgotten_ends_with_why(
    world: World, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.worker(1)

    def give_up(_seconds: float) -> None:
        running = world.restarts._restarts
        for app, restart in running.items():
            running[app] = replace(restart, moved_at=restart.moved_at - 10_000)
        world.tick()

    monkeypatch.setattr("gateway.cli.restart.time.sleep", give_up)
    text, _ = cli("restart", "iris", code=1)
    assert "iris v1: 0 of 1 worker replaced, then failed: no new worker was ready within" in text

    monkeypatch.setattr("gateway.cli.restart.time.sleep", lambda _: world.restarts._restarts.clear())
    _, error = cli("restart", "iris", code=1)
    assert "the restart of iris has ended unfinished" in error

"""`listen`, `admin` and `access_log` change while Kitserve runs: for its owner, and all or none of them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client import CollectorRegistry

from gateway.config.config import parse_config
from gateway.control.admin.api import AdminApi
from gateway.control.admin.live import LiveSettings
from gateway.control.admin.socket_file import SOCKET_FILE, bind_socket
from gateway.control.state.database import State
from gateway.control.web.app import web_app
from gateway.control.web.movable import MovableServer
from gateway.control.web.server import WebServer
from gateway.errors import EdgeError, StoreError
from tests.support.control_plane import FakeEdge
from tests.support.gate import HOLDER, gate
from tests.support.overview import FixedOverview
from tests.support.ports import free_port
from tests.support.unix_adapter import UnixAdapter
from tests.support.waiting import wait


class Running:
    """An admin API that moves, with an edge that only notes its settings."""

    def __init__(self, home: Path) -> None:
        self.edge = FakeEdge()
        self.state = State(home / "state.db")
        self.state.begin("monday")
        self.ports = [free_port(), free_port(), free_port()]
        live = LiveSettings(self.edge, lambda: self.moving)
        api = AdminApi(self.state, FixedOverview(), CollectorRegistry(), lambda _: [], lambda: None, live)
        app = web_app(api.routes(), gate(os.geteuid()))
        self.moving = MovableServer(lambda listening: WebServer(app, listening), "127.0.0.1", self.ports[0])
        self.server = WebServer(app, bind_socket(home))
        self.moving.start()
        self.server.start()
        self.owner = requests.Session()
        self.owner.mount("http://", UnixAdapter(home / SOCKET_FILE))

    def put(self, **change: Any) -> requests.Response:
        return self.owner.put("http://localhost/api/config", json=self.config(**change), timeout=10)

    def config(self, **change: Any) -> dict[str, Any]:
        return {"models": [], "admin": f"127.0.0.1:{self.ports[0]}", **change}

    def answers(self, port: int) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).ok
        except requests.ConnectionError:
            return False


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    assert running.put().ok
    yield running
    running.owner.close()
    running.moving.stop()
    running.server.stop()
    running.state.close()


def test_admin_moves_and_the_old_address_is_given_up(running: Running) -> None:
    first, second, _ = running.ports
    assert running.put(admin=f"127.0.0.1:{second}").ok
    assert running.answers(second)
    wait(lambda: not running.answers(first), 10)
    assert running.put(admin=f"127.0.0.1:{first}").ok
    assert running.answers(first)


def test_the_edge_is_told_where_to_listen_and_what_to_log(running: Running) -> None:
    assert running.put(listen="0.0.0.0:9000", access_log="all").ok
    assert running.edge.configured == [("0.0.0.0:9000", "all")]
    assert running.state.desired().fixed.listen == "0.0.0.0:9000"


def test_a_port_of_another_program_leaves_all_as_it_was(running: Running) -> None:
    first = running.ports[0]
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        answer = running.put(admin=f"127.0.0.1:{port}", listen="127.0.0.1:9000")
    assert answer.status_code == 409
    assert answer.json()["error"] == (
        f"admin: cannot listen on 127.0.0.1 port {port} (Address already in use); it stays 127.0.0.1:{first}"
    )
    assert running.edge.configured == []
    assert running.answers(first)
    assert running.state.desired().generation == 1


def test_what_the_edge_refuses_leaves_admin_where_it_was(running: Running) -> None:
    first, second, _ = running.ports
    running.edge.error = EdgeError("cannot listen on 127.0.0.1:9000 (Address already in use)")
    answer = running.put(admin=f"127.0.0.1:{second}", listen="127.0.0.1:9000")
    assert answer.status_code == 409
    assert answer.json()["error"].startswith("the edge: cannot listen on 127.0.0.1:9000")
    assert running.answers(first)
    wait(lambda: not running.answers(second), 10)


def test_a_full_disk_leaves_all_as_it_was(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise StoreError("the disk is full")

    monkeypatch.setattr(running.state, "apply", fail)
    assert not running.put(listen="127.0.0.1:9000").ok
    before = str(parse_config("models: []").listen)
    assert running.edge.configured == [("127.0.0.1:9000", "errors"), (before, "errors")]


def test_the_token_moves_nothing(running: Running) -> None:
    for change in ({"listen": "0.0.0.0:9000"}, {"admin": "0.0.0.0:9001"}, {"access_log": "off"}):
        answer = requests.put(
            f"http://127.0.0.1:{running.ports[0]}/api/config",
            json=running.config(**change),
            headers=HOLDER,
            timeout=5,
        )
        assert answer.status_code == 403
        assert answer.json()["error"].endswith(f": {next(iter(change))}")
    assert running.edge.configured == []


def test_what_needs_a_restart_is_named_and_moves_nothing(running: Running) -> None:
    answer = running.put(health="127.0.0.1:9002", listen="127.0.0.1:9000")
    assert answer.status_code == 409
    assert answer.json()["error"] == "health can only change with a restart of `kitserve serve`"
    assert running.edge.configured == []

"""Versions that sleep behind a real HAProxy, with a real activator and workers in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.contract import Announcement, WorkerState
from gateway.control.activator.activator import Activator, Sleeper
from gateway.control.activator.held_call import HeldCall
from gateway.edge.routes import Backend, Route, RoutingTable, Server
from tests.support.edge import RunningEdge, Workers
from tests.support.load import Load
from tests.support.waiting import wait

APP = "iris.v1"


class Nursery:
    """One version, which sleeps until it is called; the part that reconcile and Serve have otherwise."""

    def __init__(self, directory: Path) -> None:
        self.edge = RunningEdge(directory)
        self.workers = Workers()
        self.wakes = 0
        self.slow = 0.0
        self.server: Server | None = None
        self.others: tuple[Route, ...] = ()
        self._lock = threading.Lock()
        self.activator = self._activator()
        self.activator.start()
        self.apply()

    def _activator(self) -> Activator:
        return Activator(self.edge.files.activator_socket, self._find, self._ready, self._wake)

    def _find(self, call: HeldCall) -> Sleeper | None:
        backend = call.backend
        app = self.edge.control.occupant(backend)
        return None if app is None else Sleeper(app, "iris", "v1", "sha256:v1", 10.0)

    def _ready(self, app: str) -> list[Announcement]:
        server = self.server
        return [] if server is None or app != APP else [_news(server)]

    async def _wake(self, app: str) -> None:
        self.wakes += 1
        await asyncio.sleep(self.slow)
        await asyncio.to_thread(self.up)

    def apply(self) -> None:
        servers = () if self.server is None else (self.server,)
        backend = Backend(APP, ("v1",), servers, may_sleep=True)
        self.edge.control.apply(RoutingTable((Route("iris", backend), *self.others)))

    def up(self) -> None:
        """A worker starts, announces itself, and stands at the edge."""
        with self._lock:
            if self.server is None:
                self.server = self.workers.start("v1")
                self.activator.hear(_news(self.server))
                self.apply()

    def settle(self) -> None:
        """Wait until a worker that announced itself stands at the edge too."""
        with self._lock:
            pass

    def down(self) -> None:
        """The worker says that it goes, leaves the edge, answers what is inside, and goes."""
        with self._lock:
            going, self.server = self.server, None
            self.apply()
        assert going is not None
        time.sleep(0.3)
        self.workers.kill(going)

    def crash(self) -> None:
        """The gateway dies."""
        self.activator.stop()

    def restart(self) -> None:
        """The gateway comes again."""
        self.activator = self._activator()
        self.activator.start()

    def stop(self) -> None:
        self.activator.stop()
        self.edge.process.stop(grace=0.5)
        self.workers.stop()


def _news(server: Server) -> Announcement:
    return Announcement(server.worker, APP, WorkerState.READY, "", server.host, server.port)


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path)
    yield nursery
    nursery.stop()
    assert nursery.edge.lost == []


def test_calls_that_come_together_wake_it_once_and_those_after_go_straight(nursery: Nursery) -> None:
    nursery.slow = 0.5
    with ThreadPoolExecutor(50) as callers:
        answers = list(callers.map(lambda _: nursery.edge.get("/v2/models/iris/infer"), range(50)))
    assert {(status, body) for status, _, body in answers} == {(200, b"stable")}
    assert nursery.wakes == 1
    nursery.settle()
    nursery.crash()
    assert nursery.edge.get("/v2/models/iris/infer")[0] == 200


def test_to_ask_for_its_health_does_not_wake_it(nursery: Nursery) -> None:
    for path in ("/v2/health/ready", "/v2/models/iris/ready", "/v2/models/iris/versions/v1/ready"):
        status, headers, body = nursery.edge.get(path)
        assert (status, json.loads(body)["ready"]) == (200, True), path
        assert headers["X-Request-Id"]
    time.sleep(2.5)  # longer than between two of HAProxy's own checks
    assert nursery.wakes == 0


def test_it_wakes_and_sleeps_under_load_and_no_call_fails(nursery: Nursery) -> None:
    with Load(f"{nursery.edge.url}/v2/models/iris/infer", clients=6, pause=0.005) as load:
        for _ in range(5):
            load.wait_for("v1")
            time.sleep(0.2)
            nursery.down()
            load.forget()
        load.wait_for("v1")
    assert load.failures == {}
    assert nursery.wakes == 6
    assert load.outcomes["200"] > 100


def test_a_large_body_wakes_it_too(nursery: Nursery) -> None:
    address = ("127.0.0.1", nursery.edge.port)
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=10)) as connection:
        connection.request("POST", "/v2/models/iris/infer", b"x" * (8 * 1024 * 1024))
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"stable")
        connection.request("POST", "/v2/models/iris/infer", b"x")
        assert connection.getresponse().status == 200, "on the same connection"
    assert nursery.wakes == 1


def test_a_client_that_hangs_up_waits_no_more(nursery: Nursery) -> None:
    nursery.slow = 30
    client = socket.create_connection(("127.0.0.1", nursery.edge.port))
    client.sendall(b"POST /v2/models/iris/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
    wait(lambda: nursery.activator.waiting() == {APP: 1}, seconds=5)
    client.close()
    wait(lambda: nursery.activator.waiting() == {}, seconds=5)


def test_without_a_gateway_the_edge_says_so_and_with_the_next_one_it_wakes(nursery: Nursery) -> None:
    nursery.slow = 30
    with ThreadPoolExecutor(1) as caller:
        waiting = caller.submit(nursery.edge.get, "/v2/models/iris/infer")
        wait(lambda: nursery.activator.waiting() == {APP: 1}, seconds=5)
        nursery.crash()
        for status, headers, body in (waiting.result(10), nursery.edge.get("/v2/models/iris/infer")):
            assert (status, headers["Retry-After"]) == (503, "1")
            assert "error" in json.loads(body)
    nursery.slow = 0
    nursery.restart()
    assert nursery.edge.get("/v2/models/iris/infer")[0] == 200


def test_a_reload_and_another_haproxy_know_that_it_sleeps(nursery: Nursery) -> None:
    other = nursery.workers.start("v2")
    backends = [Backend(f"m{number}.v2", ("v2",), (other,)) for number in range(40)]
    nursery.others = tuple(Route(f"m{number}", backend) for number, backend in enumerate(backends))
    nursery.apply()
    assert nursery.edge.get("/v2/models/m39")[0] == 200
    assert nursery.edge.get("/v2/models/iris/infer")[0] == 200
    nursery.down()
    assert nursery.wakes == 1
    os.kill(nursery.edge.master_pid(), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert nursery.edge.get("/v2/models/iris/infer")[0] == 200
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert nursery.wakes == 2


def test_a_version_that_may_sleep_no_more_is_not_held(nursery: Nursery) -> None:
    nursery.edge.control.apply(RoutingTable((Route("iris", Backend(APP, ("v1",), ())),)))
    status, _, body = nursery.edge.get("/v2/models/iris/infer")
    assert status == 503
    assert json.loads(body)["error"] == "no worker of this version is up; one is being started"
    assert nursery.wakes == 0

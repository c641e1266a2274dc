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

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.activator.activator import Activator
from gateway.control.activator.held_call import HeldCall
from gateway.control.activator.sleepers import Sleeper
from gateway.edge.routes import Backend, Route, RoutingTable, Server
from gateway.errors import EdgeError
from tests.support.edge import RunningEdge, Workers
from tests.support.load import Load
from tests.support.waiting import wait

APP = AppName("iris.v1")


class SleepingModel:
    """One version, which sleeps until it is called. It stands for the reconcile loop and Serve too."""

    def __init__(self, directory: Path) -> None:
        self.edge = RunningEdge(directory)
        self.workers = Workers()
        self.wakes = 0
        self.start_seconds = 0.0
        self.server: Server | None = None
        self.others: tuple[Route, ...] = ()
        self._lock = threading.Lock()
        self.activator = self._activator()
        self.activator.start()
        self.apply()

    def _activator(self) -> Activator:
        return Activator(self.edge.files.activator_socket, self)

    def find(self, call: HeldCall) -> Sleeper | None:
        app = self.edge.control.occupant(call.backend)
        return None if app is None else Sleeper(AppName(app), "iris", "v1", "sha256:v1", 10.0)

    def ready_workers(self, app: AppName) -> list[Announcement]:
        server = self.server
        return [] if server is None or app != APP else [_announcement(server)]

    async def wake(self, app: AppName) -> None:
        self.wakes += 1
        await asyncio.sleep(self.start_seconds)
        await asyncio.to_thread(self.start_worker)

    def apply(self) -> None:
        servers = () if self.server is None else (self.server,)
        backend = Backend(APP, ("v1",), servers, may_sleep=True)
        self.edge.control.apply(RoutingTable((Route("iris", backend), *self.others)))

    def start_worker(self) -> None:
        """Start a worker, which announces itself and is added at the edge."""
        with self._lock:
            if self.server is None:
                self.server = self.workers.start("v1")
                self.activator.hear(_announcement(self.server))
                self.apply()

    def wait_for_edge(self) -> None:
        """Wait until the edge has the worker: held calls are answered a moment before."""
        with self._lock:
            assert self.server is not None

    def stop_worker(self) -> None:
        """Take the worker from the edge, let it answer the calls in flight, and end it."""
        with self._lock:
            worker, self.server = self.server, None
            self.apply()
        assert worker is not None
        time.sleep(0.3)
        self.workers.kill(worker)

    def stop_gateway(self) -> None:
        """End the activator, as the end of its gateway does."""
        self.activator.stop()

    def start_gateway(self) -> None:
        """Start the activator of the next gateway."""
        self.activator = self._activator()
        self.activator.start()

    def stop(self) -> None:
        self.activator.stop()
        self.edge.process.stop(grace=0.5)
        self.workers.stop()


def _master_pid(sleeping: SleepingModel) -> int | None:
    """Return the process id of HAProxy's master, None while none answers."""
    try:
        return sleeping.edge.master_pid()
    except (EdgeError, OSError, StopIteration):
        return None


def _announcement(server: Server) -> Announcement:
    return Announcement(server.worker, APP, WorkerState.READY, "", server.host, server.port)


@pytest.fixture
def sleeping(tmp_path: Path) -> Iterator[SleepingModel]:
    sleeping = SleepingModel(tmp_path)
    yield sleeping
    sleeping.stop()
    assert sleeping.edge.lost == []


def test_calls_that_come_together_wake_it_once_and_those_after_go_straight(sleeping: SleepingModel) -> None:
    sleeping.start_seconds = 0.5
    with ThreadPoolExecutor(50) as callers:
        answers = list(callers.map(lambda _: sleeping.edge.get("/v2/models/iris/infer"), range(50)))
    assert {(status, body) for status, _, body in answers} == {(200, b"stable")}
    assert sleeping.wakes == 1
    sleeping.wait_for_edge()
    sleeping.stop_gateway()
    assert sleeping.edge.get("/v2/models/iris/infer")[0] == 200


def test_to_ask_for_its_health_does_not_wake_it(sleeping: SleepingModel) -> None:
    for path in ("/v2/health/ready", "/v2/models/iris/ready", "/v2/models/iris/versions/v1/ready"):
        status, headers, body = sleeping.edge.get(path)
        assert (status, json.loads(body)["ready"]) == (200, True), path
        assert headers["X-Request-Id"]
    time.sleep(2.5)  # longer than between two of HAProxy's own checks
    assert sleeping.wakes == 0


def test_it_wakes_and_sleeps_under_load_and_no_call_fails(sleeping: SleepingModel) -> None:
    with Load(f"{sleeping.edge.url}/v2/models/iris/infer", clients=6, pause=0.005) as load:
        for _ in range(5):
            load.wait_for("v1")
            time.sleep(0.2)
            sleeping.stop_worker()
            load.forget()
        load.wait_for("v1")
    assert load.failures == {}
    assert sleeping.wakes == 6
    assert load.outcomes["200"] > 100


def test_a_large_body_wakes_it_too(sleeping: SleepingModel) -> None:
    address = ("127.0.0.1", sleeping.edge.port)
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=10)) as connection:
        connection.request("POST", "/v2/models/iris/infer", b"x" * (8 * 1024 * 1024))
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"stable")
        connection.request("POST", "/v2/models/iris/infer", b"x")
        assert connection.getresponse().status == 200, "on the same connection"
    assert sleeping.wakes == 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/models/iris/versions/v1/v1/responses"])
def test_a_call_of_the_openai_api_wakes_it(sleeping: SleepingModel, path: str) -> None:
    address = ("127.0.0.1", sleeping.edge.port)
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=10)) as connection:
        connection.request("POST", path, b'{"model":"iris:v1","messages":[]}')
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"stable")
    assert sleeping.wakes == 1
    sleeping.stop_worker()
    sleeping.activator.stop()
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=10)) as connection:
        connection.request("POST", path, b'{"model":"iris","messages":[]}')
        answer = connection.getresponse()
        assert answer.status == 503
        assert json.loads(answer.read())["error"]["type"] == "service_unavailable"


def test_a_client_that_hangs_up_waits_no_more(sleeping: SleepingModel) -> None:
    sleeping.start_seconds = 30
    client = socket.create_connection(("127.0.0.1", sleeping.edge.port))
    client.sendall(b"POST /v2/models/iris/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}")
    wait(lambda: sleeping.activator.waiting() == {APP: 1}, seconds=5)
    client.close()
    wait(lambda: sleeping.activator.waiting() == {}, seconds=5)


def test_without_a_gateway_the_edge_says_so_and_with_the_next_one_it_wakes(sleeping: SleepingModel) -> None:
    sleeping.start_seconds = 30
    with ThreadPoolExecutor(1) as caller:
        waiting = caller.submit(sleeping.edge.get, "/v2/models/iris/infer")
        wait(lambda: sleeping.activator.waiting() == {APP: 1}, seconds=5)
        sleeping.stop_gateway()
        for status, headers, body in (waiting.result(10), sleeping.edge.get("/v2/models/iris/infer")):
            assert (status, headers["Retry-After"]) == (503, "1")
            assert "error" in json.loads(body)
    sleeping.start_seconds = 0
    sleeping.start_gateway()
    assert sleeping.edge.get("/v2/models/iris/infer")[0] == 200


def test_a_reload_and_another_haproxy_know_that_it_sleeps(sleeping: SleepingModel) -> None:
    other = sleeping.workers.start("v2")
    backends = [Backend(f"m{number}.v2", ("v2",), (other,)) for number in range(40)]
    sleeping.others = tuple(Route(f"m{number}", backend) for number, backend in enumerate(backends))
    sleeping.apply()
    assert sleeping.edge.get("/v2/models/m39")[0] == 200
    assert sleeping.edge.get("/v2/models/iris/infer")[0] == 200
    sleeping.stop_worker()
    assert sleeping.wakes == 1
    master = sleeping.edge.master_pid()
    os.kill(master, signal.SIGKILL)
    # A call that the old HAProxy takes and loses would wake it once more.
    wait(lambda: _master_pid(sleeping) not in (None, master))
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert sleeping.edge.get("/v2/models/iris/infer")[0] == 200
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert sleeping.wakes == 2


def test_a_version_that_may_sleep_no_more_is_not_held(sleeping: SleepingModel) -> None:
    sleeping.edge.control.apply(RoutingTable((Route("iris", Backend(APP, ("v1",), ())),)))
    status, _, body = sleeping.edge.get("/v2/models/iris/infer")
    assert status == 503
    assert json.loads(body)["error"] == "no worker of this version is up; one is being started"
    assert sleeping.wakes == 0

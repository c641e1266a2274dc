"""The watch beside the loop: a look that takes long holds up nobody who asks what was seen last."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Mapping

import pytest

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.loop.ray_serve import Application
from gateway.control.loop.watch import Watch
from gateway.control.state.workers import Workers
from tests.support.waiting import wait

APP = AppName("iris")
READY, DEPLOYING = Application(was_ready=True), Application("deploying")


class Serve:
    """Lists `applications`, or fails without any; keeps its callers waiting while it is not answering."""

    def __init__(self) -> None:
        self.applications: Mapping[AppName, Application] = {APP: DEPLOYING}
        self.is_answering = threading.Event()
        self.is_answering.set()
        self.calls = 0

    def __call__(self) -> Mapping[AppName, Application]:
        self.calls += 1
        assert self.is_answering.wait(10)
        if not self.applications:
            raise ConnectionError("the controller is gone")
        return self.applications


def test_a_serve_that_does_not_answer_holds_up_nobody() -> None:
    serve, changes = Serve(), threading.Event()
    watch = Watch(Workers(), serve, changes.set)
    assert watch.applications() == {APP: DEPLOYING}
    watch.start()
    serve.is_answering.clear()
    wait(lambda: serve.calls == 2)
    began = time.monotonic()
    assert watch.applications() == {APP: DEPLOYING}
    assert time.monotonic() - began < 0.1
    assert not changes.is_set()
    serve.applications = {APP: READY}
    serve.is_answering.set()
    assert changes.wait(10)
    assert watch.applications() == {APP: READY}
    serve.applications = {}
    wait(lambda: serve.calls == 4)
    assert watch.applications() == {APP: READY}, "what was seen last holds"
    watch.stop()


def test_without_a_first_look_there_is_nothing_to_go_by() -> None:
    serve = Serve()
    serve.applications = {}
    watch = Watch(Workers(), serve, lambda: None)
    with pytest.raises(ConnectionError):
        watch.applications()


def test_a_silent_worker_that_refuses_is_dropped_and_one_that_listens_is_not() -> None:
    now = 100.0
    workers = Workers(lambda: now)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_server(("127.0.0.1", 0)) as closed,
    ):
        ports = {"up": listening.getsockname()[1], "down": closed.getsockname()[1]}
        closed.close()
        for name, port in ports.items():
            workers.hear(Announcement(name, APP, WorkerState.READY, "", "127.0.0.1", port))
        changes = threading.Event()
        watch = Watch(workers, Serve(), changes.set)
        watch.start()
        now += 3
        assert changes.wait(10)
        assert [worker.worker for worker in workers.present()] == ["up"]
        watch.stop()


@pytest.mark.parametrize("state", [WorkerState.READY, WorkerState.DRAINING])
def test_only_a_worker_that_was_not_told_to_end_is_told_as_lost(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, state: WorkerState
) -> None:
    monkeypatch.setattr(logging.getLogger("gateway"), "propagate", True)
    now = 100.0
    workers = Workers(lambda: now)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    workers.hear(Announcement("down", APP, state, "", "127.0.0.1", port))
    changes = threading.Event()
    watch = Watch(workers, Serve(), changes.set)
    watch.start()
    now += 3
    assert changes.wait(10)
    watch.stop()
    assert workers.present() == ()
    assert ("worker.lost" in caplog.messages) == (state is WorkerState.READY)

"""What is looked at beside the loop: nothing that takes long holds up who wants to know."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping

import pytest

from gateway.contract import Announcement, WorkerState
from gateway.control.loop.serving import Application
from gateway.control.loop.watch import Watch
from gateway.control.state.workers import Workers
from tests.support.waiting import wait

FINE, DEPLOYING = Application(was_ready=True), Application("deploying")


class Serve:
    """Says what it is told to, or nothing for as long as it is stuck."""

    def __init__(self) -> None:
        self.says: Mapping[str, Application] = {"iris": DEPLOYING}
        self.answers = threading.Event()
        self.answers.set()
        self.asked = 0

    def __call__(self) -> Mapping[str, Application]:
        self.asked += 1
        assert self.answers.wait(10)
        if not self.says:
            raise ConnectionError("the controller is gone")
        return self.says


def test_a_serve_that_does_not_answer_holds_up_nobody() -> None:
    serve, changes = Serve(), threading.Event()
    watch = Watch(Workers(), serve, changes.set)
    assert watch.applications() == {"iris": DEPLOYING}
    watch.start()
    serve.answers.clear()
    wait(lambda: serve.asked == 2)
    began = time.monotonic()
    assert watch.applications() == {"iris": DEPLOYING}
    assert time.monotonic() - began < 0.1
    assert not changes.is_set()
    serve.says = {"iris": FINE}
    serve.answers.set()
    assert changes.wait(10)
    assert watch.applications() == {"iris": FINE}
    serve.says = {}
    wait(lambda: serve.asked == 4)
    assert watch.applications() == {"iris": FINE}, "what was seen last holds"
    watch.stop()


def test_without_a_first_look_there_is_nothing_to_go_by() -> None:
    serve = Serve()
    serve.says = {}
    watch = Watch(Workers(), serve, lambda: None)
    with pytest.raises(ConnectionError):
        watch.applications()


def test_a_silent_worker_that_refuses_is_dropped_and_one_that_listens_is_not() -> None:
    now = 100.0
    workers = Workers(lambda: now)
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as gone:
        ports = {"up": listening.getsockname()[1], "down": gone.getsockname()[1]}
        gone.close()
        for name, port in ports.items():
            workers.hear(Announcement(name, "iris", WorkerState.READY, "", "127.0.0.1", port))
        changes = threading.Event()
        watch = Watch(workers, Serve(), changes.set)
        watch.start()
        now += 3
        assert changes.wait(10)
        assert [news.worker for news in workers.present()] == ["up"]
        watch.stop()

"""A body that ends each worker which reads it ends two behind a real edge, and is refused by the third."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.edge.routes import Route, RoutingTable, Server
from tests.support.edge import RunningEdge, backend
from tests.support.waiting import wait

WORKER = """
import os, signal, sys, threading
from pathlib import Path
from gateway.engine.running_bodies import open_running_bodies
from gateway.metrics.tally import Tally
from gateway.serving import Batching
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.version import AppOptions, Identity
from runtimes.base import TensorSpec
from tests.support.echo import Echo

class Mortal(Echo):
    def infer(self, inputs, outputs=()):
        if 666 in inputs["x"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().infer(inputs, outputs)

model = Mortal(TensorSpec("x", "INT64", (-1, 1)), seconds=0.001)
batching = Batching(max_delay=0.05) if sys.argv[2] == "batched" else None
running = open_running_bodies(Path(sys.argv[1]), "iris-v1")
options = AppOptions(batching=batching, running=running)
app = build_app(Identity("iris", "v1", "sha256:" + "ab" * 32), model, Tally(), options)
server = HttpServer(app, "127.0.0.1")
server.start()
print(server.port, flush=True)
threading.Event().wait()
"""


class Fleet:
    """Workers of one version, behind an edge."""

    def __init__(self, edge: RunningEdge, processes: Sequence[subprocess.Popen[str]]) -> None:
        self.edge = edge
        self.processes = processes

    @property
    def alive(self) -> int:
        return sum(process.poll() is None for process in self.processes)

    def call(self, *values: int, path: str = "infer") -> tuple[int, str]:
        tensor = {"name": "x", "datatype": "INT64", "shape": [len(values), 1], "data": list(values)}
        body = {"inputs": [tensor]} if path == "infer" else {"instances": [[value] for value in values]}
        request = urllib.request.Request(
            f"{self.edge.url}/v2/models/iris/{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Callable[[int, str], Fleet]]:
    with ExitStack() as stack:

        def start(workers: int, batching: str) -> Fleet:
            processes, servers = [], []
            for _ in range(workers):
                command = [sys.executable, "-c", WORKER, str(tmp_path / "running"), batching]
                process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
                stack.callback(process.kill)
                processes.append(process)
            for number, process in enumerate(processes):
                assert process.stdout is not None
                servers.append(Server(f"w{number}", "127.0.0.1", int(process.stdout.readline())))
            edge = RunningEdge(tmp_path / "edge")
            stack.callback(edge.stop)
            edge.control.apply(RoutingTable((Route("iris", backend("v1", *servers)),)))
            return Fleet(edge, processes)

        yield start


def test_of_three_workers_one_is_left_and_answers(fleet: Callable[[int, str], Fleet]) -> None:
    workers = fleet(3, "alone")
    assert workers.call(1)[0] == 200
    status, text = workers.call(666)
    assert status == 500, text
    assert "2 workers of this version ended while they worked on this body" in text
    for _ in range(10):
        assert workers.call(666)[0] == 500
        assert workers.call(1, path="predict")[0] == 200
    wait(lambda: workers.alive == 1)
    assert workers.call(1, 2)[0] == 200


def test_those_who_call_beside_a_deadly_body_are_all_answered(fleet: Callable[[int, str], Fleet]) -> None:
    workers = fleet(3, "batched")
    outcomes: list[int] = []

    def call(worker: int) -> None:
        outcomes.extend(workers.call(worker * 1000 + number)[0] for number in range(60))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(1, 9)]
    for caller in callers:
        caller.start()
    status, text = workers.call(666, path="predict")
    for caller in callers:
        caller.join()
    assert status == 500, text
    assert set(outcomes) == {200}
    wait(lambda: workers.alive == 1)
    assert workers.call(666, path="predict")[0] == 500
    assert workers.alive == 1

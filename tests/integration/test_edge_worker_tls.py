"""TLS between a real HAProxy and real workers' servers, by an authority of the start's own."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.activator.activator import Activator
from gateway.control.activator.held_call import HeldCall
from gateway.control.activator.sleepers import Sleeper
from gateway.edge.haproxy import HAProxy
from gateway.edge.routes import Backend, Route, RoutingTable, Server
from gateway.edge.worker_authority import new_worker_tls
from gateway.wire.worker_tls import WorkerTls
from runtimes.base import TensorSpec
from tests.support.chat_worker import chat_worker
from tests.support.echo import Echo
from tests.support.edge import RunningEdge, Workers, backend
from tests.support.grpc_plane import Version
from tests.support.waiting import wait

TLS = new_worker_tls()
INFER = "/v2/models/iris/infer"
SECONDS = 10


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(TLS)
    yield workers
    workers.stop()


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEdge]:
    running = RunningEdge(tmp_path_factory.mktemp("edge"), worker_tls=TLS)
    yield running
    running.stop()


def versions(edge: RunningEdge, calls: int) -> dict[str, int]:
    """How many of so many calls each version answered."""
    counts: dict[str, int] = {}
    for _ in range(calls):
        status, headers, body = edge.get(INFER)
        assert status == 200, body
        counts[headers["modelkit-version"]] = counts.get(headers["modelkit-version"], 0) + 1
    return counts


def test_the_key_of_workers_is_in_no_file_and_their_authority_is_private(edge: RunningEdge) -> None:
    assert edge.files.worker_authority.read_text() == TLS.authority
    assert edge.files.worker_authority.stat().st_mode & 0o777 == 0o600
    for file in edge.files.directory.iterdir():
        assert not file.is_file() or b"PRIVATE KEY" not in file.read_bytes(), file


def test_workers_come_and_go_at_runtime_and_weights_hold(edge: RunningEdge, workers: Workers) -> None:
    stable, canary = workers.start("v1"), workers.start("v2")
    table = RoutingTable((Route("iris", backend("v1", stable), backend("v2", canary), 50),))
    edge.control.apply(table)
    process = edge.control._haproxy.processes().worker
    counts = versions(edge, 80)
    assert set(counts) == {"v1", "v2"}
    assert counts["v2"] > 15
    # A worker that is started again has another port: told to HAProxy as it runs.
    workers.kill(stable)
    again = workers.start("v1")
    edge.control.apply(RoutingTable((Route("iris", backend("v1", again)),)))
    assert versions(edge, 10) == {"v1": 10}
    assert edge.control._haproxy.processes().worker == process, "without a reload"
    HAProxy(edge.files).reload()
    assert versions(edge, 10) == {"v1": 10}


def test_a_killed_worker_loses_no_call(edge: RunningEdge, workers: Workers) -> None:
    pair = [workers.start("v1"), workers.start("v1")]
    edge.control.apply(RoutingTable((Route("iris", backend("v1", *pair)),)))
    versions(edge, 5)
    workers.kill(pair[0])
    assert versions(edge, 30) == {"v1": 30}


def test_a_client_that_hangs_up_ends_its_call(edge: RunningEdge, workers: Workers) -> None:
    edge.control.apply(RoutingTable((Route("iris", backend("v1", workers.start("v1"))),)))
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=SECONDS)
    connection.request("GET", INFER + "?hold")
    wait(lambda: edge.get(INFER + "?inside")[2] == b"1")
    connection.close()
    wait(lambda: edge.get(INFER + "?inside")[2] == b"0")


def test_large_tensors_pass_in_both_protocols(edge: RunningEdge) -> None:
    version = Version("echo", "v1", Echo(TensorSpec("x", "FP32", (-1, 2))), tls=TLS.server_context())
    edge.control.apply(RoutingTable((Route("echo", version.backend),)))
    values = np.arange(4_000_000, dtype=np.float32).reshape(-1, 2)
    size = {"binary_data_size": values.nbytes}
    tensor = {"name": "x", "datatype": "FP32", "shape": list(values.shape), "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=SECONDS)
    sizes = {"Inference-Header-Content-Length": str(len(head))}
    connection.request("POST", "/v2/models/echo/infer", head + values.tobytes(), sizes)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 200, body[:200]
    assert body[int(answer.headers["Inference-Header-Content-Length"]) :] == values.tobytes()
    given = triton.InferInput("x", list(values.shape), "FP32")
    given.set_data_from_numpy(values)
    with triton.InferenceServerClient(f"127.0.0.1:{edge.port}") as client:
        result = client.infer("echo", [given], client_timeout=SECONDS)
    assert np.array_equal(result.as_numpy("y"), values)
    version.stop()


def test_a_streamed_answer_passes_piece_by_piece(edge: RunningEdge) -> None:
    with chat_worker("v1", TLS.server_context()) as (worker, server):
        worker.gap = 0.5
        edge.control.apply(RoutingTable((Route("iris", backend("v1", server)),)))
        connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=SECONDS)
        call = {"model": "iris", "messages": [], "stream": True}
        connection.request("POST", "/v1/chat/completions", json.dumps(call))
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data: ")
        began = time.monotonic()
        assert answer.read().rstrip().endswith(b"data: [DONE]")
        assert time.monotonic() - began > 0.3
        connection.close()


@pytest.mark.parametrize("stranger", [None, new_worker_tls()], ids=["in clear", "of another start"])
def test_a_server_that_is_no_worker_of_this_start_gets_no_call(
    edge: RunningEdge, stranger: WorkerTls | None
) -> None:
    strangers = Workers(stranger)
    edge.control.apply(RoutingTable((Route("iris", backend("v1", strangers.start("v1"))),)))
    assert edge.get(INFER)[0] == 503
    strangers.stop()


class Sleeping:
    """One version that sleeps; it stands for the reconcile loop and Serve too."""

    def __init__(self, edge: RunningEdge, workers: Workers) -> None:
        self.edge, self.workers = edge, workers
        self.server: Server | None = None

    def find(self, call: HeldCall) -> Sleeper | None:
        app = self.edge.control.occupant(call.backend)
        return None if app is None else Sleeper(AppName(app), "iris", "v1", "sha256:v1", 10.0)

    def ready_workers(self, app: AppName) -> list[Announcement]:
        server = self.server
        return (
            []
            if server is None
            else [Announcement("w", app, WorkerState.READY, "", server.host, server.port)]
        )

    async def wake(self, app: AppName) -> None:
        self.server = self.server or self.workers.start("v1")


def test_a_version_that_sleeps_is_woken_and_called_over_tls(edge: RunningEdge, workers: Workers) -> None:
    activator = Activator(edge.files.activator_socket, Sleeping(edge, workers), TLS.client_context())
    activator.start()
    edge.control.apply(RoutingTable((Route("iris", Backend("iris.v1", ("v1",), (), may_sleep=True)),)))
    assert versions(edge, 3) == {"v1": 3}
    activator.stop()


def test_haproxy_takes_the_configuration_without_a_warning(edge: RunningEdge) -> None:
    command = [str(edge.process._program.path), "-c", "-f", str(edge.files.config)]
    checked = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "WARNING" not in checked.stderr.upper()


def test_on_one_machine_there_is_none(tmp_path: Path) -> None:
    clear = RunningEdge(tmp_path)
    assert " ssl " not in clear.files.config.read_text()
    assert not clear.files.worker_authority.exists()
    clear.stop()

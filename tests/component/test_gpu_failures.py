"""A worker whose GPU fails, over HTTP: a model that raises what engines raise stands in for one on a GPU."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from gateway.engine import device
from gateway.engine.running_bodies import open_running_bodies
from gateway.metrics.tally import Tally
from gateway.serving import Batching
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.stuck import stuck
from gateway.worker.version import AppOptions, Identity
from tests.support.gpu_errors import ARENA_MEMORY, OUT_OF_MEMORY, FailingGpu

SECONDS = 10.0
BATCHING = Batching(max_batch_size=8, max_delay=0.05)


class GpuWorker:
    """A worker's app and server; `reason` is why it is to be replaced, "" while it is not."""

    def __init__(self, model: FailingGpu, batching: Batching | None = None, home: Path | None = None) -> None:
        running = None if home is None else open_running_bodies(home, "m")
        options = AppOptions(batching=batching, running=running)
        self.tally = Tally()
        self.app = build_app(Identity("m", "v1", "sha256:" + "ab" * 32), model, self.tally, options)
        self.server = HttpServer(self.app, "127.0.0.1")
        self.server.start()
        self.reason = ""
        self._watch = threading.Thread(target=self._wait, daemon=True)
        self._watch.start()

    def call(self, *values: int) -> tuple[int, dict[str, Any], str | None]:
        """Return the status, the document, and the header Retry-After."""
        inputs = [{"name": "x", "datatype": "INT64", "shape": [len(values)], "data": values}]
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=SECONDS)
        connection.request("POST", "/v2/models/m/infer", json.dumps({"inputs": inputs}))
        answer = connection.getresponse()
        document = json.loads(answer.read())
        connection.close()
        return answer.status, document, answer.getheader("retry-after")

    def is_to_be_replaced(self) -> bool:
        self._watch.join(SECONDS)
        return bool(self.reason)

    def stop(self) -> None:
        self.server.stop()
        self.app.stop()

    def _wait(self) -> None:
        self.reason = asyncio.run(stuck(self.app, self.server))


@pytest.fixture
def workers() -> Iterator[list[GpuWorker]]:
    started: list[GpuWorker] = []
    yield started
    for worker in started:
        worker.stop()


@pytest.mark.parametrize("message", OUT_OF_MEMORY)
def test_a_call_without_memory_is_answered_with_503(workers: list[GpuWorker], message: str) -> None:
    model = FailingGpu(rows=2, message=message)
    workers.append(worker := GpuWorker(model))
    assert worker.call(1, 2)[0] == HTTPStatus.OK
    status, document, retry_after = worker.call(1, 2, 3)
    assert (status, retry_after) == (HTTPStatus.SERVICE_UNAVAILABLE, "2")
    assert "too little memory free" in document["error"]
    assert worker.call(1)[1]["outputs"][0]["data"] == [2]
    assert worker.app.is_alive()


def test_a_batch_without_memory_is_run_in_halves_and_later_ones_are_smaller(
    workers: list[GpuWorker],
) -> None:
    model = FailingGpu(rows=2, message=ARENA_MEMORY)
    workers.append(worker := GpuWorker(model, BATCHING))
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            answers = list(pool.map(worker.call, range(8)))
            assert [status for status, _, _ in answers] == [HTTPStatus.OK] * 8
            data = [document["outputs"][0]["data"] for _, document, _ in answers]
            assert data == [[2 * value] for value in range(8)]
    failed = [rows for rows in model.runs if rows > 2]
    assert failed
    assert len(failed) <= 4, "batches stay smaller for a time"
    assert max(model.runs[-10:]) <= 2


def test_a_worker_that_finds_no_memory_any_more_is_replaced(
    workers: list[GpuWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_ENOUGH_SECONDS", 0.2)
    model = FailingGpu()
    workers.append(worker := GpuWorker(model))
    assert worker.call(1)[0] == HTTPStatus.OK
    model.rows = 0
    statuses = [worker.call(1)[0] for _ in range(3)]
    time.sleep(0.3)
    statuses.append(worker.call(1)[0])
    assert set(statuses) == {HTTPStatus.SERVICE_UNAVAILABLE}
    assert worker.is_to_be_replaced()
    assert "found no memory on the GPU" in worker.reason
    status, document, retry_after = worker.call(1)
    assert (status, retry_after) == (HTTPStatus.SERVICE_UNAVAILABLE, "1")
    assert "the worker is replaced" in document["error"]


def test_a_lost_gpu_replaces_the_worker_and_its_call_is_remembered(
    workers: list[GpuWorker], tmp_path: Path
) -> None:
    workers.append(worker := GpuWorker(FailingGpu(), home=tmp_path))
    assert worker.call(1)[0] == HTTPStatus.OK
    status, document, _ = worker.call(101)
    assert status == HTTPStatus.INTERNAL_SERVER_ERROR
    assert "an illegal memory access was encountered" in document["error"]
    assert worker.call(1)[0] == HTTPStatus.SERVICE_UNAVAILABLE
    assert worker.is_to_be_replaced()
    assert "the GPU is lost" in worker.reason
    assert worker.tally.numbers().dropped["rejected"] == 1


def test_those_in_a_batch_with_the_guilty_call_may_ask_again(workers: list[GpuWorker]) -> None:
    workers.append(worker := GpuWorker(FailingGpu(), BATCHING))
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert {status for status, _, _ in pool.map(worker.call, range(8))} == {HTTPStatus.OK}
        answers = list(pool.map(worker.call, (1, 2, 3, 101, 4, 5, 6, 7)))
    assert {status for status, _, _ in answers} <= {
        HTTPStatus.OK,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.INTERNAL_SERVER_ERROR,
    }
    assert sum(status == HTTPStatus.INTERNAL_SERVER_ERROR for status, _, _ in answers) <= 1
    assert worker.is_to_be_replaced()

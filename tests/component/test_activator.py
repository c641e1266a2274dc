"""The activator with real sockets at both ends: a PROXY client for the edge, small servers for workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.activator.activator import MAX_CALLS, Activator
from gateway.control.activator.held_call import HEAD_BYTES, HeldCall
from gateway.control.activator.sleepers import Sleeper
from tests.support.waiting import wait

APP = AppName("iris.v1.0123456789ab.01234567.1")
OTHER = Sleeper(AppName("bert.v1.0123456789ab.01234567.1"), "bert", "v1", "sha256:4567", 5)
INFER = b"POST /v2/models/iris/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
GRPC = b"POST /inference.GRPCInferenceService/%s HTTP/1.1\r\nContent-Type: application/grpc+proto\r\n\r\n"


def proxy(backend: str, family: int = 0x11, addresses: bytes = b"\0" * 12) -> bytes:
    """The PROXY header that the edge sends first."""
    fields = addresses + struct.pack(">BH", 0x05, len(backend)) + backend.encode()
    return b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack(">BBH", 0x21, family, len(fields)) + fields


class Worker:
    """Answers each connection once: how many bytes it received, and the first line of what it received."""

    def __init__(self, answer: Callable[[socket.socket], None] | None = None) -> None:
        self.heads: list[bytes] = []
        self._answer = answer or self._count
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.announcement = Announcement("w", APP, WorkerState.READY, "", *self._listener.getsockname())
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self._answer(connection)

    def _count(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        self.heads.append(head)
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line[:15] == b"content-length:"), 0)
        received = len(body)
        while received < length:
            received += len(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n%09d" % received)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Edge:
    """Calls as the edge makes them, and what the activator asks of the rest of the gateway."""

    def __init__(self, directory: Path, wake_seconds: float = 5.0) -> None:
        self.path = directory / "wake.sock"
        self.wakes: list[str] = []
        self.cancelled = 0
        self.workers: list[Announcement] = []
        self._sleeper = Sleeper(APP, "iris", "v1", "sha256:0123", wake_seconds)
        self.activator = Activator(self.path, self)
        self.activator.start()

    def find(self, call: HeldCall) -> Sleeper | None:
        return {"slot3": self._sleeper, "slot5": OTHER}.get(call.backend)

    def ready_workers(self, app: AppName) -> list[Announcement]:
        assert app in (APP, OTHER.app)
        return list(self.workers)

    async def wake(self, app: AppName) -> None:
        self.wakes.append(app)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def add_worker(self, worker: Worker) -> None:
        self.workers = [worker.announcement]
        self.activator.hear(worker.announcement)

    def connect(self, data: bytes, backend: str = "slot3") -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10)
        connection.connect(str(self.path))
        connection.sendall(proxy(backend) + data)
        return connection

    def call(self, data: bytes, backend: str = "slot3") -> bytes:
        with self.connect(data, backend) as connection:
            return read(connection)


def read(connection: socket.socket) -> bytes:
    answer = b""
    while part := connection.recv(65536):
        answer += part
    return answer


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wake-") as path:  # a Unix socket's path is short
        yield Path(path)


@pytest.fixture
def edge(directory: Path) -> Iterator[Edge]:
    edge = Edge(directory)
    yield edge
    edge.activator.stop()


def test_calls_that_come_together_wake_once_and_all_are_answered(edge: Edge) -> None:
    worker = Worker()
    held = [edge.connect(INFER % 3 + b"abc") for _ in range(100)]
    wait(lambda: edge.activator.waiting() == {APP: 100}, seconds=5)
    assert edge.wakes == [APP]
    edge.add_worker(worker)
    for connection in held:
        assert read(connection).endswith(b"000000003")
        connection.close()
    wait(lambda: edge.cancelled == 1, seconds=5)
    assert edge.activator.waiting() == {}
    assert edge.wakes == [APP]
    assert all(head.endswith(b"\r\nconnection: close") for head in worker.heads)
    worker.stop()


def test_a_large_body_passes_and_little_of_it_is_held(edge: Edge) -> None:
    worker, size = Worker(), 16 * 1024 * 1024
    connection = edge.connect(INFER % size)
    connection.setblocking(False)
    sent = 0
    for _ in range(20):
        with contextlib.suppress(BlockingIOError):
            sent += connection.send(b"x" * 65536)
        time.sleep(0.01)
    assert sent < 1024 * 1024, "the rest waits at the edge"
    edge.add_worker(worker)
    connection.settimeout(10)
    connection.sendall(b"x" * (size - sent))
    assert read(connection).endswith(b"%09d" % size)
    connection.close()
    worker.stop()


def test_an_answer_before_the_body_was_read_is_passed_on(edge: Edge) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(1024)
        connection.sendall(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n")

    worker = Worker(refuse)
    edge.add_worker(worker)
    with edge.connect(INFER % (8 * 1024 * 1024)) as connection:
        with contextlib.suppress(OSError):
            for _ in range(128):
                connection.sendall(b"x" * 65536)
        assert read(connection).startswith(b"HTTP/1.1 413")
    worker.stop()


def test_a_streamed_answer_passes_piece_by_piece(edge: Edge) -> None:
    proceed = threading.Event()

    def stream(connection: socket.socket) -> None:
        connection.recv(1024)
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        assert proceed.wait(5)
        connection.sendall(b"1\r\nb\r\n0\r\ngrpc-status: 0\r\n\r\n")

    worker = Worker(stream)
    edge.add_worker(worker)
    with edge.connect(INFER % 0) as connection:
        first = b""
        while not first.endswith(b"a\r\n"):
            first += connection.recv(1024)
        proceed.set()
        assert read(connection) == b"1\r\nb\r\n0\r\ngrpc-status: 0\r\n\r\n"
    worker.stop()


def test_who_hangs_up_frees_the_place_and_the_last_one_lets_it_sleep(edge: Edge) -> None:
    # One whose body fills what is read of it: the end of the connection lies behind it.
    held = [edge.connect(INFER % 3 + b"abc"), edge.connect(INFER % HEAD_BYTES + b"x" * (HEAD_BYTES // 2))]
    wait(lambda: edge.activator.waiting() == {APP: 2}, seconds=5)
    held[0].close()
    wait(lambda: edge.activator.waiting() == {APP: 1}, seconds=5)
    assert edge.cancelled == 0
    held[1].close()
    wait(lambda: edge.activator.waiting() == {} and edge.cancelled == 1, seconds=5)


def test_who_hangs_up_while_the_worker_works_is_gone_for_the_worker_too(edge: Edge) -> None:
    ended = threading.Event()

    def work(connection: socket.socket) -> None:
        connection.recv(1024)
        connection.settimeout(5)
        if not connection.recv(1024):
            ended.set()

    worker = Worker(work)
    edge.add_worker(worker)
    edge.connect(INFER % 0).close()
    assert ended.wait(5)
    worker.stop()


def test_a_call_that_waits_too_long_is_told_to_ask_again(directory: Path) -> None:
    edge = Edge(directory, wake_seconds=0.3)
    head, _, body = edge.call(INFER % 0).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in head
    assert json.loads(body) == {"error": "model iris was asleep and is not awake after 0.3 s; ask again"}
    answer = edge.call(GRPC % b"ModelInfer")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 14\r\n")
    assert b"grpc-message: model iris was asleep and is not awake after 0.3 s; ask again\r\n" in answer
    assert answer.endswith(b"content-length: 0\r\nconnection: close\r\n\r\n")
    answer = edge.call(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error["type"] == "service_unavailable", "OpenAI's form, by the path"
    edge.activator.stop()


def test_a_worker_that_fails_to_start_ends_the_wait_with_its_reason(edge: Edge) -> None:
    with edge.connect(INFER % 0) as connection:
        wait(lambda: edge.activator.waiting() == {APP: 1}, seconds=5)
        edge.activator.hear(Announcement("w", APP, WorkerState.FAILED, "the disk\nis full: 100 %"))
        body = read(connection).partition(b"\r\n\r\n")[2]
    expected = "model iris was asleep and cannot be woken: the disk\nis full: 100 %"
    assert json.loads(body) == {"error": expected}
    worker = Worker()
    edge.add_worker(worker)
    assert edge.call(INFER % 0).endswith(b"000000000"), "a failure of before does not count"
    worker.stop()


def test_to_ask_whether_it_is_ready_wakes_nothing(edge: Edge) -> None:
    for path in (b"/v2/models/iris/ready", b"/v2/models/iris/versions/v1/ready?x=1"):
        answer = edge.call(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path)
        assert answer.endswith(b'\r\n\r\n{"name":"iris","ready":true}')
        assert b"modelkit-version: v1\r\n" in answer
        head = edge.call(b"HEAD %s HTTP/1.1\r\nhost: x\r\n\r\n" % path)
        assert head.endswith(b"content-length: 28\r\nconnection: close\r\n\r\n")
    answer = edge.call(GRPC % b"ModelReady")
    assert answer.endswith(b"\r\n\r\n7\r\n\0\0\0\0\2\x08\1\r\n0\r\ngrpc-status: 0\r\n\r\n")
    assert edge.wakes == []
    with edge.connect(b"GET /v2/models/ready HTTP/1.1\r\nhost: x\r\n\r\n"):
        wait(lambda: edge.wakes == [APP], seconds=5)


def test_a_worker_that_is_there_but_not_reached_is_waited_for(edge: Edge) -> None:
    gone, worker = Worker(), Worker()
    gone.stop()
    edge.add_worker(gone)
    with edge.connect(INFER % 0) as connection:
        wait(lambda: edge.wakes == [APP], seconds=5)
        edge.add_worker(worker)
        assert read(connection).endswith(b"000000000")
    worker.stop()


def test_no_more_calls_are_held_than_fit(edge: Edge) -> None:
    held = [edge.connect(INFER % 0) for _ in range(MAX_CALLS)]
    wait(lambda: edge.activator.waiting() == {APP: MAX_CALLS}, seconds=5)
    body = edge.call(INFER % 0).partition(b"\r\n\r\n")[2]
    assert json.loads(body) == {"error": f"{MAX_CALLS} calls wait for models to wake; ask again"}
    held.pop().close()
    wait(lambda: edge.activator.waiting() == {APP: MAX_CALLS - 1}, seconds=5)
    with edge.connect(INFER % 0):
        wait(lambda: edge.activator.waiting() == {APP: MAX_CALLS}, seconds=5)
    for connection in held:
        connection.close()


def test_a_flood_for_one_model_leaves_places_for_another(edge: Edge) -> None:
    flood = [edge.connect(INFER % 0) for _ in range(MAX_CALLS + 50)]
    wait(lambda: edge.activator.waiting() == {APP: MAX_CALLS}, seconds=5)
    others = [edge.connect(INFER % 0, "slot5") for _ in range(100)]
    wait(lambda: edge.activator.waiting() == {APP: MAX_CALLS, OTHER.app: 100}, seconds=5)
    for connection in flood[:200]:
        connection.close()
    wait(lambda: edge.activator.waiting()[APP] <= MAX_CALLS - 150, seconds=5)
    for connection in (*flood, *others):
        connection.close()
    wait(lambda: edge.activator.waiting() == {}, seconds=5)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        proxy("slot3")[:-5],
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + b"\0" * 12 + b"GET / HTTP/1.1\r\n\r\n",
        proxy("slot3") + b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * HEAD_BYTES,
        b"",
    ],
    ids=["no PROXY header", "cut off", "no unique id", "endless head", "nothing"],
)
def test_what_is_no_call_is_closed(edge: Edge, sent: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(edge.path))
        with contextlib.suppress(OSError):
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert read(connection) == b""
    assert edge.wakes == []


def test_the_header_may_say_any_kind_of_address(edge: Edge) -> None:
    worker = Worker()
    edge.add_worker(worker)
    for family, length in ((0x00, 0), (0x21, 36), (0x31, 216)):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(edge.path))
            connection.sendall(proxy("slot3", family, b"\0" * length) + INFER % 0)
            assert read(connection).endswith(b"000000000")
    worker.stop()


def test_a_version_that_is_not_known_is_told(edge: Edge) -> None:
    body = edge.call(INFER % 0, "slot4").partition(b"\r\n\r\n")[2]
    assert json.loads(body) == {"error": "this version is being changed; ask again"}


def test_who_waits_when_it_stops_is_let_go_and_the_next_one_takes_the_place(directory: Path) -> None:
    first = Edge(directory)
    with first.connect(INFER % 0) as connection:
        wait(lambda: first.wakes == [APP], seconds=5)
        first.activator.stop()
        assert read(connection) == b""
    assert first.cancelled == 1
    second, worker = Edge(directory), Worker()
    second.add_worker(worker)
    assert second.call(INFER % 0).endswith(b"000000000")
    second.activator.stop()
    worker.stop()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b"POST /v2/models/iris/versions/v2/infer HTTP/1.1", True),
        (b"GET /v2/models/iris/versions/v2/ready HTTP/1.1", True),
        (b"POST /v2/models/iris/infer HTTP/1.1", False),
        (b"POST /inference.GRPCInferenceService/ModelInfer HTTP/1.1", False),
    ],
)
def test_a_call_may_name_its_version(line: bytes, named: bool) -> None:
    assert HeldCall("slot3", line + b"\r\n\r\n", b"").names_version is named

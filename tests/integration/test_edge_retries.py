"""Which calls a real edge sends a second time: of those that generate, none that a worker may have begun."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from gateway.edge.haproxy import ask
from gateway.edge.routes import Backend, Route, RoutingTable, Server
from tests.support.edge import RunningEdge
from tests.support.waiting import wait

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]
GENERATING: list[tuple[str, Mapping[str, object]]] = [
    (CHAT, {"messages": MESSAGES}),
    ("/v1/completions", {"prompt": "a"}),
    ("/v1/completions", {"prompt": [1, 2]}),
    ("/v1/responses", {"input": "a"}),
    ("/models/chat/v1/chat/completions", {"messages": MESSAGES}),
]
REPEATED: list[tuple[str, Mapping[str, object]]] = [
    ("/v1/embeddings", {"input": "a"}),
    ("/v1/rerank", {"query": "a"}),
    ("/v2/models/chat/infer", {}),
]
DIES = 0


class RawWorker:
    """Answers health checks, and each call with one status; with `DIES`, it closes the connection instead."""

    def __init__(self, name: str, status: int) -> None:
        self.name = name
        self.status = status
        self.calls = 0
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def server(self) -> Server:
        port = self._listener.getsockname()[1]
        return Server(f"{self.name}-{port}", "127.0.0.1", port)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        is_counted = False
        with suppress(OSError), connection, connection.makefile("rb") as file:
            while line := file.readline():
                length = 0
                while header := file.readline().strip().lower():
                    if header.startswith(b"content-length:"):
                        length = int(header[15:])
                file.read(length)
                status = 200
                if b"/v2/health/ready" not in line:
                    self.calls += 1
                    self.connections += not is_counted
                    is_counted, status = True, self.status
                if status == DIES:
                    return
                text = b'{"from":"%s"}' % self.name.encode()
                head = b"HTTP/1.1 %d Status\r\ncontent-length: %d\r\n\r\n"
                connection.sendall(head % (status, len(text)) + text)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEdge]:
    edge = RunningEdge(tmp_path_factory.mktemp("edge"))
    yield edge
    edge.stop()


@contextmanager
def version(edge: RunningEdge, *statuses: int) -> Iterator[list[RawWorker]]:
    """Have the model `chat` answered by workers with these statuses."""
    with ExitStack() as stack:
        workers = [RawWorker(f"w{number}", status) for number, status in enumerate(statuses)]
        for worker in workers:
            stack.callback(worker.close)
        servers = tuple(worker.server for worker in workers)
        edge.control.apply(RoutingTable((Route("chat", Backend("chat.v1", ("v1",), servers)),)))
        wait(lambda: _up(edge) == len(workers))
        yield workers


def _up(edge: RunningEdge) -> int:
    shown = ask(edge.files.runtime_socket, "show stat").splitlines()
    return sum(line.startswith("slot0.prefix,w") and ",UP," in line for line in shown)


def call(edge: RunningEdge, path: str, body: Mapping[str, object], times: int = 1) -> list[int]:
    """Call on one connection, which must outlive its calls; returns the statuses."""
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=20)
    connection.connect()
    first, statuses = connection.sock, []
    for _ in range(times):
        connection.request("POST", path, json.dumps({"model": "chat", **body}))
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    assert connection.sock is first
    connection.close()
    return statuses


@pytest.mark.parametrize("statuses", [(DIES, DIES), (DIES,), (500, 500), (502, 502)])
def test_what_may_have_been_generated_is_not_generated_again(
    running: RunningEdge, statuses: tuple[int, ...]
) -> None:
    with version(running, *statuses) as workers:
        for number, (path, body) in enumerate(GENERATING, 1):
            [status] = call(running, path, body)
            assert status == (statuses[0] or 502)
            assert sum(worker.calls for worker in workers) == number, path


def test_what_computes_the_same_again_is_sent_again(running: RunningEdge) -> None:
    with version(running, DIES, 200) as workers:
        for number, (path, body) in enumerate(REPEATED, 1):
            assert call(running, path, body, 4) == [200] * 4
            assert workers[1].calls == 4 * number


def test_another_worker_is_asked_where_the_first_has_no_room(running: RunningEdge) -> None:
    with version(running, 503, 200) as workers:
        for number in range(10):
            body = {"messages": [{"role": "user", "content": f"question {number}"}]}
            assert call(running, CHAT, body) == [200]
        assert (0 < workers[0].calls <= 10, workers[1].calls) == (True, 10)
    with version(running, 503, 503) as workers:
        assert call(running, CHAT, {"messages": MESSAGES}) == [503]
        assert sum(worker.calls for worker in workers) == 3
    with version(running, 503) as workers:
        assert call(running, CHAT, {"messages": MESSAGES}) == [503]
        assert workers[0].calls == 1


def test_what_generates_has_a_connection_of_its_own_to_its_worker(running: RunningEdge) -> None:
    """On one that an earlier call left open, it could be lost without having begun."""
    with version(running, 200) as workers:
        assert call(running, CHAT, {"messages": MESSAGES}, 3) == [200] * 3
        assert workers[0].connections == 3
        assert call(running, "/v1/embeddings", {"input": "a"}, 3) == [200] * 3
        assert workers[0].connections == 4


def test_a_worker_that_takes_no_connection_is_passed_over(tmp_path: Path) -> None:
    edge = RunningEdge(tmp_path)
    try:
        with version(edge, 200, 200) as workers:
            workers[0].close()
            for number in range(10):
                body = {"messages": [{"role": "user", "content": f"question {number}"}]}
                assert call(edge, CHAT, body) == [200]
            assert workers[1].calls == 10
    finally:
        edge.stop()

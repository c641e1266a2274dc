"""A client that sends much does not keep the server's loop from the others, see `FlowControl`."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.edge.worker_authority import new_worker_tls
from gateway.wire.exchange import Exchange
from gateway.wire.server import HttpServer
from gateway.wire.worker_tls import WORKER_NAME

SECONDS = 10
# More than is read in one turn of the loop, and less than what a Unix socket holds.
LARGE = 350_000
SMALL = b"POST /small HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"
TLS = new_worker_tls()


class InOrder:
    """Answers calls, and keeps their paths in the order in which they came to be handled."""

    max_body = LARGE

    def __init__(self) -> None:
        self.handled: queue.Queue[str] = queue.Queue()
        self.sizes: list[int] = []

    def head(self, exchange: Exchange) -> None:
        if exchange.path == "/streamed":
            exchange.on_piece = lambda piece: self.sizes.append(len(piece))
            exchange.on_end = lambda: self.handle(exchange)

    def handle(self, exchange: Exchange) -> None:
        self.handled.put(exchange.path)
        self.sizes += map(len, exchange.body)
        exchange.respond(200, (), b"here")

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        exchange.respond(status, (), text.encode())


class Turns:
    """A server whose loop can stand still while its clients send; a Unix socket takes all that at once."""

    def __init__(self, path: Path, stack: ExitStack, has_tls: bool) -> None:
        self.handler = InOrder()
        self._path = str(path)
        self._stack = stack
        self._tls = TLS.client_context() if has_tls else None
        self._server = HttpServer(self.handler, self._path, tls=TLS.server_context() if has_tls else None)
        self._server.start()
        stack.callback(self._server.stop, 0.1)

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(SECONDS)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * LARGE)
        client.connect(self._path)
        if self._tls is not None:
            client = self._tls.wrap_socket(client, server_hostname=WORKER_NAME)
        return self._stack.enter_context(client)

    def stand_still(self) -> threading.Event:
        """Have the loop wait for the event that is returned."""
        is_standing, may_go_on = threading.Event(), threading.Event()

        def stand() -> None:
            is_standing.set()
            may_go_on.wait(SECONDS)

        self._server._loop.result().call_soon_threadsafe(stand)
        assert is_standing.wait(SECONDS)
        return may_go_on


@pytest.fixture(params=[False, True], ids=["clear", "tls"])
def turns(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Turns]:
    with ExitStack() as stack:
        yield Turns(tmp_path / "socket", stack, request.param)


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


@pytest.mark.parametrize("way", ["direct", "gathered", "streamed"])
def test_another_call_is_answered_while_a_long_body_is_read(turns: Turns, way: str) -> None:
    length = b"Content-Length: %d" % LARGE if way == "direct" else b"Transfer-Encoding: chunked"
    body = bytes(LARGE) if way == "direct" else chunked(bytes(LARGE))
    sender, other = turns.connect(), turns.connect()
    sender.sendall(b"POST /%s HTTP/1.1\r\n%s\r\n\r\n" % (way.encode(), length))
    other.sendall(SMALL)
    assert b"200" in other.recv(1000)
    assert turns.handler.handled.get(timeout=SECONDS) == "/small"
    turns.handler.sizes.clear()

    may_go_on = turns.stand_still()
    sender.sendall(body)
    other.sendall(SMALL)
    may_go_on.set()
    assert [turns.handler.handled.get(timeout=SECONDS) for _ in range(2)] == ["/small", f"/{way}"]
    assert b"200" in sender.recv(1000)
    assert sum(turns.handler.sizes) == LARGE + 1

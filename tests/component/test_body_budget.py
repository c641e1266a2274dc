"""The bytes that a server holds of bodies are bounded in sum, and bodies must come at a pace."""

from __future__ import annotations

import ctypes
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress

import pytest

from gateway.wire import budget as budget_module
from gateway.wire import server as server_module
from gateway.wire.budget import BodyBudget, BudgetFull
from gateway.wire.exchange import Exchange
from gateway.wire.server import HttpServer
from tests.support.waiting import wait

MB = 1024 * 1024


class Counting:
    """Answers with the size of the body, or keeps the call where the path says so."""

    max_body = 4 * MB

    def __init__(self) -> None:
        self.kept: list[Exchange] = []
        self.refused: list[int] = []

    def head(self, exchange: Exchange) -> None:
        if exchange.path in ("/stream", "/held"):
            exchange.begin(200, ())
            exchange.on_piece = lambda _piece: self._take(exchange)
            exchange.on_end = exchange.end

    def _take(self, exchange: Exchange) -> None:
        """Take a piece of a message that is longer."""
        exchange.reserve(MB)
        if exchange.path == "/held":
            exchange.pause()

    def handle(self, exchange: Exchange) -> None:
        if exchange.path == "/kept":
            self.kept.append(exchange)
        else:
            exchange.respond(200, (), b"%d" % sum(map(len, exchange.take())))

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        self.refused.append(status)
        exchange.respond(status, (), text.encode())


class Served:
    def __init__(self, body_bytes: int) -> None:
        self.handler = Counting()
        self.server = HttpServer(self.handler, "127.0.0.1", body_bytes=body_bytes)
        self.server.start()

    @property
    def budget(self) -> BodyBudget:
        return self.server._shared.budget

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.server.port), 10)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served(8 * MB)
    yield served
    served.server.stop()


def head(size: int, path: str = "/") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: w\r\nContent-Length: %d\r\n\r\n" % (path.encode(), size)


CHUNKED = b"POST / HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n"


def status_of(client: socket.socket) -> int:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65536)
        if not piece:
            return 0
        data += piece
    return int(data.split(b" ", 2)[1])


def test_a_body_that_finds_no_room_is_refused_at_its_head(served: Served) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(closing(served.connect())) for _ in range(2))
        first.sendall(head(4 * MB))
        wait(lambda: served.budget.used == 4 * MB)
        second.sendall(head(4 * MB))
        assert status_of(second) == 503
        # What is left is for smaller ones, whole ones need nothing of it.
        third, fourth = (stack.enter_context(closing(served.connect())) for _ in range(2))
        third.sendall(head(MB) + bytes(MB))
        assert status_of(third) == 200
        fourth.sendall(head(10) + bytes(10))
        assert status_of(fourth) == 200
        first.sendall(bytes(4 * MB))
        assert status_of(first) == 200
        wait(lambda: served.budget.used == 0)
        assert served.server.refused_bodies == 1


def test_a_chunked_body_takes_what_has_come_of_it(served: Served) -> None:
    with closing(served.connect()) as client, closing(served.connect()) as other:
        chunk = b"100000\r\n" + bytes(MB) + b"\r\n"
        client.sendall(CHUNKED + chunk * 3)
        wait(lambda: served.budget.used >= 2.9 * MB)
        other.sendall(head(4 * MB))
        assert status_of(other) == 503
        client.sendall(b"0\r\n\r\n")
        assert status_of(client) == 200
        wait(lambda: served.budget.used == 0)


def test_chunked_bodies_are_refused_while_they_grow(served: Served) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(served.connect())) for _ in range(3)]
        chunk = b"100000\r\n" + bytes(MB) + b"\r\n"
        for client in clients:
            with suppress(OSError):  # it may be refused before its end
                client.sendall(CHUNKED + chunk * 3)
        wait(lambda: 503 in served.handler.refused)
        assert served.budget.used <= 7 * MB
        for client in clients:
            with suppress(OSError):
                client.sendall(b"0\r\n\r\n")
        statuses = [status_of(client) for client in clients]
    assert 200 in statuses


def test_who_hangs_up_gives_back_what_was_reserved(served: Served) -> None:
    with closing(served.connect()) as client:
        client.sendall(head(4 * MB) + bytes(2 * MB))
        wait(lambda: served.budget.used == 4 * MB)
    wait(lambda: served.budget.used == 0)


def test_a_body_that_is_worked_on_keeps_its_bytes_when_its_caller_hangs_up(served: Served) -> None:
    with closing(served.connect()) as client:
        client.sendall(head(4 * MB, "/kept") + bytes(4 * MB))
        wait(lambda: bool(served.handler.kept))
    wait(lambda: served.handler.kept[0].is_abandoned)
    assert served.budget.used == 4 * MB
    served.handler.kept.clear()
    wait(lambda: served.budget.used == 0)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_TICK_SECONDS", 0.1)
    monkeypatch.setattr(budget_module, "_GRACE_SECONDS", 0.3)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("beginning", [head(1000), head(4 * MB), CHUNKED + b"1000\r\n"])
def test_a_body_of_single_bytes_is_refused(beginning: bytes, served: Served) -> None:
    with closing(served.connect()) as client:
        client.sendall(beginning)
        client.settimeout(0.05)
        data = b""
        end = time.monotonic() + 5
        while b"\r\n\r\n" not in data and time.monotonic() < end:
            client.sendall(b"x")
            try:
                data += client.recv(65536)
            except TimeoutError:
                continue
        assert data.startswith(b"HTTP/1.1 408 "), data
        wait(lambda: served.budget.used == 0)


@pytest.mark.usefixtures("hurried")
def test_a_stream_whose_message_comes_too_slowly_is_broken_off(served: Served) -> None:
    with closing(served.connect()) as client:
        client.sendall(CHUNKED.replace(b" / ", b" /stream ") + b"1\r\nx\r\n")
        client.settimeout(5)
        assert status_of(client) == 200
        with suppress(ConnectionResetError):
            assert client.recv(100) == b""
    wait(lambda: served.budget.used == 0)


@pytest.mark.usefixtures("hurried")
def test_a_stream_that_the_server_holds_is_not_slow(served: Served) -> None:
    with closing(served.connect()) as client:
        client.sendall(CHUNKED.replace(b" / ", b" /held ") + b"1\r\nx\r\n")
        assert status_of(client) == 200
        client.settimeout(1)
        with pytest.raises(TimeoutError):
            client.recv(100)
        assert served.budget.used == MB


def test_bodies_must_hurry_while_room_is_scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    budget = BodyBudget(256 * MB)
    body = budget.reserve(60 * MB)
    assert not body.is_slow(0, 109.9)
    assert body.is_slow(0, 110.1)
    # 200 KiB/s, a sixtieth of that for a short one
    assert not body.is_slow(4 * MB, 125)
    assert body.is_slow(3 * MB, 126)
    short = budget.reserve(60_000, 500)
    assert not short.is_slow(500 + 5 * 1024, 115)
    assert short.is_slow(500 + 4 * 1024, 115)
    others = budget.reserve(80 * MB)
    assert body.is_slow(4 * MB, 107)
    assert not body.is_slow(6 * MB, 107)
    others.release()
    assert not body.is_slow(4 * MB, 107)


@pytest.mark.usefixtures("hurried")
def test_once_large_bodies_are_gone_their_memory_is_given_back(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back: list[float] = []
    monkeypatch.setattr(server_module, "LARGE_BYTES", 3 * MB)
    monkeypatch.setattr(server_module, "give_back_memory", lambda: given_back.append(time.monotonic()))
    with closing(served.connect()) as client, closing(served.connect()) as other:
        client.sendall(head(2 * MB) + bytes(2 * MB))
        assert status_of(client) == 200
        client.sendall(head(4 * MB))
        wait(lambda: served.budget.used == 4 * MB)
        time.sleep(0.3)
        assert not given_back
        client.sendall(bytes(4 * MB))
        assert status_of(client) == 200
        wait(lambda: bool(given_back))
        other.sendall(head(2 * MB) + bytes(2 * MB))
        assert status_of(other) == 200
        time.sleep(0.3)
    assert len(given_back) == 1


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_memory_that_was_freed_can_be_given_back() -> None:
    program = (
        "import os\n"
        "from gateway.metrics.memory import total_resident_bytes\n"
        "from gateway.wire.heap import give_back_memory\n"
        "pieces = [bytes(100_000) for _ in range(2000)]; last = bytes(100_000)\n"
        "del pieces; before = total_resident_bytes([os.getpid()])\n"
        "give_back_memory(); print(before - total_resident_bytes([os.getpid()]))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(result.stdout) > 64 * MB


@pytest.mark.usefixtures("hurried")
def test_a_body_that_keeps_the_pace_is_taken(served: Served) -> None:
    with closing(served.connect()) as client:
        client.sendall(head(60_000))
        for _ in range(12):
            client.sendall(bytes(5000))
            time.sleep(0.1)
        assert status_of(client) == 200


def test_what_is_given_back_by_the_collector_is_counted_later() -> None:
    budget = BodyBudget(1000)
    reservation = budget.reserve(600)
    with pytest.raises(BudgetFull, match="600 bytes"):
        budget.reserve(600)
    reservation.resize(100)
    assert budget.used == 100
    del reservation
    assert budget.used == 0

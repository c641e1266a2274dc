"""A worker's server over TLS, from outside; that it does all else as in clear is in `test_server`."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.loop.watch import _is_refused
from gateway.edge.worker_authority import new_worker_tls
from gateway.wire import server as server_module
from gateway.wire.exchange import Exchange
from gateway.wire.server import HttpServer
from gateway.wire.tls_tunnel import open_tunnel
from gateway.wire.worker_tls import WORKER_NAME, worker_connection
from tests.support.waiting import wait

SECONDS = 10
LARGE = 12_000_000
TLS = new_worker_tls()


class Echo:
    """Gives back bodies; or a large one, or none; counts who hung up."""

    max_body = LARGE

    def __init__(self) -> None:
        self.abandoned = 0
        self.began = threading.Event()
        self.may_end = threading.Event()

    def head(self, exchange: Exchange) -> None:
        pass

    def handle(self, exchange: Exchange) -> None:
        if exchange.path == "/large":
            exchange.respond(200, (), memoryview(bytes(LARGE)))
        elif exchange.path == "/hold":
            exchange.on_abandoned = self.leave
            self.began.set()
        elif exchange.path == "/stuck":
            self.began.set()
            self.may_end.wait(SECONDS)
            if not exchange.has_ended:
                exchange.respond(200, (), b"late")
        else:
            exchange.respond(200, (), b"".join(exchange.body))

    def leave(self) -> None:
        self.abandoned += 1

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        exchange.respond(status, (), text.encode())


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def server(echo: Echo) -> Iterator[HttpServer]:
    server = HttpServer(echo, "127.0.0.1", tls=TLS.server_context())
    server.start()
    yield server
    server.stop(0.1)


def connect(server: HttpServer, room: int = 0, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    plain = socket.socket()
    if room:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    plain.settimeout(SECONDS)
    plain.connect((server.host, server.port))
    try:
        return (context or TLS.client_context()).wrap_socket(plain, server_hostname=WORKER_NAME)
    except BaseException:
        plain.close()
        raise


def call(server: HttpServer, method: str, path: str, body: bytes = b"", tls: Any = None) -> bytes:
    connection = worker_connection((server.host, server.port), SECONDS, tls or TLS.client_context())
    try:
        connection.request(method, path, body)
        return connection.getresponse().read()
    finally:
        connection.close()


def test_a_start_has_an_authority_of_its_own_whose_dates_end_nothing() -> None:
    tls = new_worker_tls()
    for pem in (tls.authority, tls.certificate):
        certificate = x509.load_pem_x509_certificate(pem.encode())
        now = datetime.now(UTC)
        assert certificate.not_valid_before_utc < now - timedelta(days=2), "for clocks that are slow"
        assert certificate.not_valid_after_utc > now + timedelta(days=3 * 365)
    assert tls.authority != TLS.authority
    assert "PRIVATE KEY" in tls.key
    assert tls.key not in repr(tls)
    assert tls.without_key().key == ""


def test_bodies_of_any_size_pass_both_ways(server: HttpServer) -> None:
    for size in (0, 1, 16_384, 32_768, 65_536, 300_000, LARGE):
        body = bytes(range(256)) * (size // 256) + bytes(size % 256)
        assert call(server, "POST", "/", body) == body


def test_who_reads_slowly_is_not_cut_off_and_who_reads_nothing_is(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_TICK_SECONDS", 0.05)
    monkeypatch.setattr(server_module, "_QUIET_TICKS", 6)
    other = HttpServer(Echo(), "127.0.0.1", tls=TLS.server_context())
    other.start()
    slow, stuck = connect(other, 4096), connect(other, 4096)
    for connection in (slow, stuck):
        connection.sendall(b"GET /large HTTP/1.1\r\nconnection: close\r\n\r\n")
    received = 0
    while piece := slow.recv(16384):
        received += len(piece)
        if received % 2_000_000 < len(piece):
            time.sleep(0.1)
    assert received > LARGE
    time.sleep(0.5)
    received = 0
    try:
        while piece := stuck.recv(65536):
            received += len(piece)
    except OSError:
        pass
    assert received < LARGE
    stuck.close()
    slow.close()
    other.stop(0.1)


def test_an_answer_before_the_bodys_end_is_read_by_who_still_sends(server: HttpServer) -> None:
    with connect(server) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (LARGE + 1))
        for _ in range(20):
            connection.sendall(bytes(65536))
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_who_hangs_up_is_noticed_with_and_without_a_farewell(server: HttpServer, echo: Echo) -> None:
    for polite in (True, False):
        echo.began.clear()
        before = echo.abandoned
        connection = connect(server)
        connection.sendall(b"GET /hold HTTP/1.1\r\n\r\n")
        assert echo.began.wait(SECONDS)
        if polite:
            connection.unwrap().close()
        else:
            connection.close()
        wait(lambda before=before: echo.abandoned > before)  # type: ignore[misc]


def test_an_answer_goes_out_while_the_loop_stands_still(server: HttpServer, echo: Echo) -> None:
    exchanges: list[Exchange] = []
    handle = echo.handle

    def keep(exchange: Exchange) -> None:
        exchanges.append(exchange)
        handle(exchange)

    echo.handle = keep  # type: ignore[method-assign]
    with connect(server) as connection:
        connection.sendall(b"GET /stuck HTTP/1.1\r\n\r\n")
        assert echo.began.wait(SECONDS)
        server.write_at_once()
        exchanges[0].respond(504, (), b"ended")
        assert connection.recv(4096).startswith(b"HTTP/1.1 504 ")
        echo.may_end.set()


def test_http_in_clear_and_callers_of_another_start_are_refused_and_told(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with socket.create_connection((server.host, server.port), SECONDS) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP")
    wait(lambda: len(caplog.records) == 1)
    assert (caplog.records[0].message, vars(caplog.records[0])["reason"]) == ("tls.refused", "HTTP_REQUEST")
    assert vars(caplog.records[0])["peer"] == "127.0.0.1"
    with pytest.raises(ssl.SSLCertVerificationError):
        call(server, "GET", "/", tls=new_worker_tls().client_context())
    wait(lambda: len(caplog.records) == 2)
    old = TLS.client_context()
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(server, context=old)
    wait(lambda: len(caplog.records) == 3)
    # The gateway's look whether anybody listens is none of these, nor is who says nothing.
    caplog.clear()
    announcement = Announcement("w", AppName("a"), WorkerState.READY, "", server.host, server.port)
    assert not _is_refused(announcement)
    assert call(server, "POST", "/", b"next") == b"next"
    assert caplog.records == []


def test_a_tunnel_is_a_plain_socket_to_a_worker_of_this_start_alone(server: HttpServer) -> None:
    async def through(context: ssl.SSLContext, body: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        with await open_tunnel((server.host, server.port), context) as tunnel:
            head = b"POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            await loop.sock_sendall(tunnel, head + body)
            answer = bytearray()
            while piece := await loop.sock_recv(tunnel, 65536):
                answer += piece
            return bytes(answer.partition(b"\r\n\r\n")[2])

    body = b"0123456789" * 500_000
    assert asyncio.run(through(TLS.client_context(), body)) == body
    with pytest.raises(ssl.SSLCertVerificationError):
        asyncio.run(through(new_worker_tls().client_context(), b""))

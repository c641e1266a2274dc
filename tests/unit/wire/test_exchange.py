"""An answer with trailers leaves a worker in one write: one that is killed has sent all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from gateway.wire.exchange import Exchange


class Channel:
    """Stands where a connection is, and counts."""

    is_writable = True

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes | memoryview) -> None:
        self.writes.append(bytes(data))

    def writelines(self, pieces: Iterable[bytes | memoryview]) -> None:
        self.writes.append(b"".join(pieces))

    def answered(self, exchange: Exchange) -> None:
        assert exchange.has_ended


@pytest.mark.parametrize("size", [0, 1, 100_000])
@pytest.mark.parametrize("keep_alive", [True, False])
def test_an_answer_is_one_write(size: int, keep_alive: bool) -> None:
    channel: Any = Channel()
    exchange = Exchange(channel, "POST", "/", {}, keep_alive=keep_alive, may_chunk=True)
    exchange.is_complete = True
    exchange.respond(200, [(b"a", b"b")], b"x" * size, [(b"grpc-status", b"0")])
    (data,) = channel.writes
    close = b"" if keep_alive else b"connection: close\r\n"
    chunk = b"%x\r\n%s\r\n" % (size, b"x" * size) if size else b""
    head = b"HTTP/1.1 200 OK\r\na: b\r\n" + close + b"transfer-encoding: chunked\r\n\r\n"
    assert data == head + chunk + b"0\r\ngrpc-status: 0\r\n\r\n"

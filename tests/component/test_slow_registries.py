"""Registries that are slow, stand still, or break off; and the end of everything."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.errors import RegistryUnavailable
from gateway.oci import transport
from gateway.oci.content import Source
from tests.support.answers import BLOB, DATA, Answers, Handler, read

_HEAD = f"HTTP/1.1 200 OK\r\nContent-Length: {len(DATA)}\r\n\r\n".encode()
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _received(source: Source) -> bytes:
    """Return what arrived of a blob before it broke off."""
    data: list[bytes] = []
    with source.blob(BLOB) as stream, pytest.raises(RegistryUnavailable, match="broke off an answer"):
        data.extend(stream.chunks)
    return b"".join(data)


def _half(handler: Handler) -> None:
    handler.send(_HEAD + DATA[: len(DATA) // 2])
    handler.wait(5)


def _nothing(handler: Handler) -> None:
    handler.send(_HEAD)
    handler.wait(5)


@pytest.mark.parametrize(("answer", "arrived"), [(_half, len(DATA) // 2), (_nothing, 0)])
def test_a_transfer_that_stands_still_is_broken_off(server: Answers, answer: object, arrived: int) -> None:
    server.answer = answer  # type: ignore[assignment]
    begun = time.monotonic()
    assert _received(server.source(stall_timeout=0.3)) == DATA[:arrived]
    assert 0.3 <= time.monotonic() - begun < 1


@pytest.mark.parametrize("head", [_HEAD, _CHUNKED])
def test_a_transfer_that_drips_is_broken_off(server: Answers, head: bytes) -> None:
    def answer(handler: Handler) -> None:
        handler.send(head)
        handler.drip(DATA if head is _HEAD else b"1\r\nx\r\n" * 1000, 0.02)

    server.answer = answer
    begun = time.monotonic()
    _received(server.source(stall_timeout=0.3))
    assert 0.3 <= time.monotonic() - begun < 1


def test_a_transfer_that_is_fast_enough_goes_on(server: Answers) -> None:
    def answer(handler: Handler) -> None:
        handler.send(_HEAD)
        for offset in range(0, len(DATA), 512):
            handler.wfile.write(DATA[offset : offset + 512])
            handler.wait(0.05)

    server.answer = answer
    begun = time.monotonic()
    assert read(server.source(stall_timeout=0.3)) == (0, DATA)
    assert time.monotonic() - begun > 0.9


def test_a_slow_reader_is_no_stall(server: Answers) -> None:
    with server.source(stall_timeout=0.2).blob(BLOB) as stream:
        chunks = stream.chunks
        first = next(chunks)
        time.sleep(0.5)
        assert first + b"".join(chunks) == DATA


@pytest.mark.parametrize("drips", [False, True])
def test_a_head_that_does_not_come_is_asked_for_again(server: Answers, drips: bool) -> None:
    def answer(handler: Handler) -> None:
        if len(server.seen) > 1:
            handler.say(200, DATA)
        elif drips:
            handler.drip(_HEAD, 0.02)
        else:
            handler.close_connection = True
            handler.wait(5)

    server.answer = answer
    begun = time.monotonic()
    assert read(server.source(stall_timeout=0.3)) == (0, DATA)
    assert 0.5 <= time.monotonic() - begun < 1.5
    assert len(server.seen) == 2


def test_connections_that_end_are_made_again(server: Answers) -> None:
    def answer(handler: Handler) -> None:
        if len(server.seen) > 2:
            handler.say(200, DATA)
        else:
            handler.send(b"" if len(server.seen) == 1 else b"HTTP/1.1 20")

    server.answer = answer
    assert read(server.source()) == (0, DATA)
    assert len(server.seen) == 3


@pytest.mark.parametrize("cut", [0, 5000, len(DATA) - 1])
def test_a_transfer_that_ends_early_is_broken_off(server: Answers, cut: int) -> None:
    server.answer = lambda handler: handler.send(_HEAD + DATA[:cut])
    assert _received(server.source()) == DATA[:cut]


def test_everything_ends(server: Answers) -> None:
    def answer(handler: Handler) -> None:
        handler.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not handler.wait(0.01):  # type: ignore[func-returns-value]
            handler.wfile.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    server.answer = answer
    source = server.source(pull_timeout=0.6)
    begun = time.monotonic()
    with source.blob(BLOB) as stream, pytest.raises(RegistryUnavailable, match=r"not done within 0\.6 s"):
        deque(stream.chunks, 0)
    assert 0.5 <= time.monotonic() - begun < 1
    with pytest.raises(RegistryUnavailable, match=r"team/kit:v1: not done within 0\.6 s.*pull_timeout"):
        source.resolve()
    assert len(server.seen) == 1


def test_attempts_end_with_everything(server: Answers) -> None:
    server.answer = lambda handler: handler.say(503)
    begun = time.monotonic()
    with pytest.raises(RegistryUnavailable, match="answered 503, 2 time"):
        read(server.source(pull_timeout=0.6))
    assert time.monotonic() - begun < 0.6


def test_nobody_there(server: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_FIRST_WAIT", 0.001)
    source = server.source()
    server.shutdown()
    server.server_close()
    with pytest.raises(RegistryUnavailable, match=r"cannot be reached \(Connection refused\), 6 time"):
        source.resolve()


def test_connections_are_bounded_and_used_again(server: Answers) -> None:
    open_now, maximum, ports = set(), 0, set()
    lock = threading.Lock()

    def answer(handler: Handler) -> None:
        nonlocal maximum
        with lock:
            open_now.add(handler.client_address)
            ports.add(handler.client_address)
            maximum = max(maximum, len(open_now))
        time.sleep(0.02)
        with lock:
            open_now.discard(handler.client_address)
        handler.say(200, DATA)

    server.answer = answer
    source = server.source(connections=3)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda _: read(source), range(24))) == [(0, DATA)] * 24
    assert maximum == 3
    assert len(ports) == 3

"""A proxy in front of a real registry that spoils its answers as networks, proxies and registries do.

What happens to which request is said by rules; a request that no rule is for passes as it is. Every
request is recorded, with the bytes of body that were sent for it: those prove what was fetched twice.
Reading only: GET and HEAD.
"""

from __future__ import annotations

import gzip
import http.client
import os
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from requests.structures import CaseInsensitiveDict

_HOP_BY_HOP = {"connection", "content-length", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to be sent; `length` is the Content-Length it claims, None for a chunked body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = 0

    def encoded(self) -> tuple[bytes, bytes]:
        """Return head and body as they go over the wire."""
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, 'Odd')}"]
        body = self.body
        if self.length is None:
            lines.append("Transfer-Encoding: chunked")
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        else:
            lines.append(f"Content-Length: {self.length}")
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode(), body


Change = Callable[[Answer], Answer]


def says(status: int, body: bytes = b"", **headers: str) -> Change:
    """Answer so, whatever the registry says; underscores in names of headers stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: Answer(status, named, body, len(body))


def flipped(position: int) -> Change:
    """Flip one bit of the body's byte at `position`, which counts from the end where negative."""

    def change(answer: Answer) -> Answer:
        body = bytearray(answer.body)
        body[position] ^= 1
        return replace(answer, body=bytes(body))

    return change


def resized(by: int) -> Change:
    """Leave out so many bytes of the body's end, or add some; Content-Length says so."""

    def change(answer: Answer) -> Answer:
        body = answer.body[:by] if by < 0 else answer.body + b"x" * by
        return replace(answer, body=body, length=len(body))

    return change


def claiming(by: int) -> Change:
    """Lie: Content-Length is so much more, or less, than is sent."""
    return lambda answer: replace(answer, length=len(answer.body) + by)


def chunked(answer: Answer) -> Answer:
    """Send the body in chunks, without its length."""
    return replace(answer, length=None)


def gzipped(answer: Answer) -> Answer:
    """Compress the body, and say so."""
    body = gzip.compress(answer.body)
    return replace(
        answer, body=body, length=len(body), headers={**answer.headers, "Content-Encoding": "gzip"}
    )


def headed(**headers: str) -> Change:
    """Set headers; underscores in their names stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda answer: replace(answer, headers={**answer.headers, **named})


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to one answer.

    `cut` and `stall` are the number of bytes after which the connection ends, or nothing more comes: of the
    body, or of the whole answer where `whole`. `reset` ends it with RST, not FIN. `rate` is in bytes per
    second. `unranged` asks the registry for everything though the client asked for a part.
    """

    change: Change | None = None
    cut: int | None = None
    stall: int | None = None
    rate: float | None = None
    reset: bool = False
    whole: bool = False
    unranged: bool = False


@dataclass(slots=True)
class Exchange:
    """A request and its outcome: `timestamp` is on the monotonic clock, `sent` in bytes of body."""

    method: str
    path: str
    headers: CaseInsensitiveDict[str]
    timestamp: float
    status: int = 0
    sent: int = 0


@dataclass(slots=True)
class _Rule:
    fault: Fault
    method: str
    path: str
    left: float


class FaultProxy:
    """Listens at `host`, "127.0.0.1:PORT", for the registry at `target`; `exchanges` is its record."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.exchanges: list[Exchange] = []
        self.stopping = threading.Event()
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.proxy = self  # type: ignore[attr-defined]
        self.host = f"127.0.0.1:{self._server.server_address[1]}"

    def on(self, fault: Fault, path: str = "/blobs/", *, method: str = "GET", times: float = 1) -> None:
        """Spoil the next `times` answers to requests whose path has this regular expression in it.

        The first rule that has some times left is the one that counts.
        """
        with self._lock:
            self._rules.append(_Rule(fault, method, path, times))

    def calm(self) -> None:
        """Forget all rules."""
        with self._lock:
            self._rules.clear()

    def exchanges_for(self, path: str, method: str = "GET") -> list[Exchange]:
        """Return the exchanges whose path has this regular expression in it."""
        return [
            exchange
            for exchange in self.exchanges
            if exchange.method == method and re.search(path, exchange.path)
        ]

    def sent(self, path: str = "/blobs/") -> int:
        """Return the bytes of body that were sent for such paths."""
        return sum(exchange.sent for exchange in self.exchanges_for(path))

    def begin(self, exchange: Exchange) -> Fault:
        """Record a request, and return what is to be done to its answer."""
        with self._lock:
            self.exchanges.append(exchange)
            for rule in self._rules:
                if rule.left > 0 and rule.method == exchange.method and re.search(rule.path, exchange.path):
                    rule.left -= 1
                    return rule.fault
        return Fault()

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        proxy: FaultProxy = self.server.proxy  # type: ignore[attr-defined]
        headers = CaseInsensitiveDict(self.headers.items())
        exchange = Exchange(self.command, self.path, headers, time.monotonic())
        fault = proxy.begin(exchange)
        answer = self._ask(proxy.target, without={"range"} if fault.unranged else set())
        if answer is None:
            self._end(reset=True)
            return
        if fault.change is not None:
            answer = fault.change(answer)
        exchange.status = answer.status
        with suppress(OSError):
            self._send(answer, fault, exchange, proxy.stopping)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _ask(self, target: str, without: set[str]) -> Answer | None:
        """Ask the registry; None where it cannot be reached."""
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP | without}
        connection = http.client.HTTPConnection(target, timeout=20)
        try:
            connection.request(self.command, self.path, headers=headers)
            response = connection.getresponse()
            data = response.read()
        except OSError:
            return None
        finally:
            connection.close()
        kept = {k: v for k, v in response.getheaders() if k.lower() not in _HOP_BY_HOP}
        length = int(response.headers.get("Content-Length", 0)) if self.command == "HEAD" else len(data)
        return Answer(response.status, kept, data, length)

    def _send(self, answer: Answer, fault: Fault, exchange: Exchange, stopping: threading.Event) -> None:
        head, body = answer.encoded()
        data = head if self.command == "HEAD" else head + body
        base = 0 if fault.whole else len(head)
        stops = [len(data), *(base + offset for offset in (fault.cut, fault.stall) if offset is not None)]
        piece = 65536 if fault.rate is None else max(1, int(fault.rate / 20))
        sent, end = 0, min(stops)
        while sent < end and not stopping.is_set():
            step = data[sent : min(sent + piece, end)]
            self.connection.sendall(step)
            sent += len(step)
            exchange.sent = max(0, sent - len(head))
            if fault.rate is not None:
                stopping.wait(len(step) / fault.rate)
        if fault.stall is not None:
            self._wait_for_hanging_up(stopping)
        honest = self.command == "HEAD" or answer.length in (None, len(body))
        if fault.stall is not None or fault.cut is not None or not honest:
            self._end(reset=fault.reset)

    def _wait_for_hanging_up(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            if select.select([self.connection], [], [], 0.05)[0] and not self.connection.recv(1):
                return

    def _end(self, *, reset: bool) -> None:
        """Close for good: a socket that files are made of would stay open."""
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        os.close(self.connection.detach())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@contextmanager
def run_faults(target: str) -> Iterator[FaultProxy]:
    """Run a proxy in front of a registry; stopped at the end, with every connection it holds."""
    proxy = FaultProxy(target)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()

"""Callers that open what they can, and leave it: others are answered all the same, and weights change.

The edge is a small one, so that a test can do to it what 200 connections with 100 streams each, or 8,300 idle
connections, do to a whole one.
"""

from __future__ import annotations

import contextlib
import http.client
import resource
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from gateway.edge.bounds import (
    CALLER_STREAMS,
    FULL_CALLER_CONNECTIONS,
    LARGE_BYTES,
    UPLOADS,
    CallerLimits,
    edge_bounds,
)
from gateway.edge.haproxy import ask
from gateway.edge.routes import Backend, Route, RoutingTable
from gateway.metrics.memory import total_resident_bytes
from tests.support.edge import RunningEdge, Workers, backend
from tests.support.raw_http2 import (
    HEADERS,
    SETTINGS,
    connect,
    frames,
    max_concurrent_streams,
    open_streams,
    request,
)
from tests.support.waiting import wait

BOUNDS = edge_bounds(1600, CallerLimits(max_requests_each=80, max_upload_each=2 * LARGE_BYTES))
ATTACKER, NEIGHBOUR, PROXY = "127.0.0.1", "127.0.0.2", "127.0.0.9"
HOLD = "/v2/models/iris/infer?hold"
GRPC = [("content-type", "application/grpc"), ("te", "trailers")]
INFER = "/inference.GRPCInferenceService/ModelInfer"
NONE: Mapping[str, str] = {}
WATCH = "/grpc.health.v1.Health/Watch"


@dataclass
class Attacked:
    """An edge with two versions of a model, of which one is a canary."""

    edge: RunningEdge
    versions: tuple[Backend, Backend]
    weight: int = 0

    def attack(self, connections: int, source: str, requests: list[bytes]) -> list[socket.socket]:
        """Open connections with these streams each, as many as are let in."""
        opened = (open_streams(self.edge.port, source, requests) for _ in range(connections))
        return [connection for connection in opened if connection is not None]

    def idle(self, connections: int, source: str, head: bytes) -> list[socket.socket]:
        """Open connections that are kept after one call, or never make any."""
        opened = []
        for _ in range(connections):
            with contextlib.suppress(OSError):
                connection = connect(self.edge.port, source)
                opened.append(connection)
                connection.settimeout(0.5)
                if head:
                    connection.sendall(head)
                if head.endswith(b"\r\n\r\n"):
                    connection.recv(4096)
        return opened

    def call(
        self,
        source: str = NEIGHBOUR,
        path: str = "/v2/models/iris/infer",
        seconds: float = 5,
        headers: Mapping[str, str] = NONE,
        body: bytes = b"{}",
    ) -> tuple[int, bytes]:
        """Make one call from an address on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.edge.port, seconds, (source, 0))
        with contextlib.closing(connection):
            connection.request("POST", path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()

    def call_in_chunks(self, source: str, body: bytes) -> int:
        """Make one call whose length is not told before; returns the status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.edge.port, 60, (source, 0))
        with contextlib.closing(connection):
            pieces = (body[start : start + 65536] for start in range(0, len(body), 65536))
            connection.request("POST", "/v2/models/iris/infer", pieces, encode_chunked=True)
            return connection.getresponse().status

    def change_weight(self) -> None:
        """Give the canary more calls; what HAProxy has then is what was told."""
        self.weight += 1
        stable, canary = self.versions
        self.edge.control.apply(RoutingTable((Route("iris", stable, canary, self.weight),)))
        assert f" iris:weight {self.weight}\n" in ask(
            self.edge.files.runtime_socket, f"show map {self.edge.files.routes}"
        )

    def health(self) -> bytes:
        """Ask the listener for health."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.edge.files.health_socket))
            connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while piece := connection.recv(4096):
                answer += piece
            return answer

    def number(self, name: str) -> int:
        """Return one of the numbers of HAProxy."""
        shown = ask(self.edge.files.runtime_socket, "show info")
        return int(next(line.split(": ")[1] for line in shown.splitlines() if line.startswith(f"{name}: ")))

    def rejected(self, kind: str) -> int:
        """Return how many connections or calls the metrics say were closed unanswered."""
        return self.edge.control.statistics().whole.rejected[kind]

    def memory(self) -> int:
        """Return how much memory HAProxy has, in bytes."""
        return total_resident_bytes([self.number("Pid")])


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    workers = Workers()
    edge = RunningEdge(tmp_path_factory.mktemp("edge"), bounds=BOUNDS, trusted_proxies=(f"{PROXY}/32",))
    attacked = Attacked(edge, (backend("v1", workers.start("v1")), backend("v2", workers.start("v2"))))
    pid = attacked.number("Pid")
    resource.prlimit(pid, resource.RLIMIT_AS, (4_000_000_000, 4_000_000_000))
    attacked.change_weight()
    yield attacked
    workers.stop()
    edge.stop()


@pytest.fixture(autouse=True)
def quiet(attacked: Attacked) -> Iterator[None]:
    """Wait after each attack until all is as before."""
    yield
    wait(lambda: attacked.number("CurrConns") <= 1)


def close(connections: list[socket.socket]) -> None:
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("has_body", [False, True])
def test_many_streams_on_many_connections(attacked: Attacked, has_body: bool) -> None:
    """Calls that a worker holds, and calls whose body never comes."""
    before = attacked.memory()
    streams = [request(1 + 2 * number, HOLD, has_body=has_body) for number in range(100)]
    connections = attacked.attack(200, ATTACKER, streams)
    try:
        wait(lambda: attacked.number("CurrConns") <= BOUNDS.caller_refused_connections)
        for _ in range(3):
            assert attacked.call()[0] == 200
            attacked.change_weight()
        assert b"200 OK" in attacked.health()
        assert attacked.memory() - before < 100_000_000
        received = list(frames(connections[0]))
        settings = next(payload for kind, stream, payload in received if kind == SETTINGS and payload)
        assert max_concurrent_streams(settings) == BOUNDS.streams < 100
    finally:
        close(connections)


@pytest.mark.parametrize("sized", [True, False])
def test_many_large_bodies_of_one_caller_share_what_is_taken_in_a_second(
    attacked: Attacked, sized: bool
) -> None:
    body = b" " * (2 * LARGE_BYTES)

    def upload(source: str) -> float:
        began = time.monotonic()
        if sized:
            assert attacked.call(source, body=body, seconds=60)[0] == 200
        else:
            assert attacked.call_in_chunks(source, body) == 200
        return time.monotonic() - began

    with ThreadPoolExecutor(2 * UPLOADS) as pool:
        few = max(pool.map(upload, [ATTACKER] * (UPLOADS // 2)))
        many = [pool.submit(upload, ATTACKER) for _ in range(2 * UPLOADS)]
        time.sleep(0.5)
        neighbour = upload(NEIGHBOUR)
        slowest = max(upload.result() for upload in many)
    # Sixteen large bodies' bytes at two in a second, less what came before there were many calls.
    assert slowest > 2
    assert max(few, neighbour) < slowest


def test_a_caller_with_too_many_calls_is_told_so(attacked: Attacked) -> None:
    streams = [request(1 + 2 * number, HOLD) for number in range(BOUNDS.caller_requests // 2)]
    connections = attacked.attack(2, ATTACKER, streams)
    try:
        time.sleep(0.3)
        text = b"too many connections or calls of this caller at a time"
        status, body = attacked.call(ATTACKER)
        assert (status, text in body) == (429, True)
        status, body = attacked.call(ATTACKER, "/v1/chat/completions")
        assert (status, b'"type"' in body, text in body) == (429, True, True)
        (answer,) = attacked.attack(1, ATTACKER, [request(1, INFER, GRPC)])
        connections.append(answer)
        (block,) = [payload for kind, _, payload in frames(answer) if kind == HEADERS]
        assert b"grpc-status\x018" in block
        assert attacked.call()[0] == 200
    finally:
        close(connections)
    time.sleep(0.3)
    assert attacked.call(ATTACKER)[0] == 200


def test_a_caller_with_all_its_calls_in_work_opens_few_connections(attacked: Attacked) -> None:
    streams = [request(1 + 2 * number, HOLD) for number in range(BOUNDS.caller_requests // 2)]
    full = attacked.attack(2, ATTACKER, streams)
    before = attacked.rejected("connection")
    try:
        time.sleep(1.2)
        more = attacked.attack(2 * FULL_CALLER_CONNECTIONS, ATTACKER, [request(1, HOLD)])
        close(more)
        assert attacked.rejected("connection") - before >= FULL_CALLER_CONNECTIONS // 2
        assert attacked.call()[0] == 200
        time.sleep(2)
        # It is told once it opens fewer.
        assert attacked.call(ATTACKER)[0] == 429
    finally:
        close(full)


@pytest.mark.parametrize(
    "head", [b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", b"", b"GET / HT"]
)
def test_idle_connections_of_one_caller(attacked: Attacked, head: bytes) -> None:
    """Kept after a call, never used, and stuck in the head of a call; then the same of HTTP/2."""
    connections = attacked.idle(2 * BOUNDS.connections, ATTACKER, head)
    connections += attacked.attack(
        BOUNDS.connections, ATTACKER, [request(1, "/v2/health/live")] if head else []
    )
    try:
        wait(lambda: attacked.number("CurrConns") <= BOUNDS.caller_refused_connections)
        for _ in range(3):
            assert attacked.call()[0] == 200
            attacked.change_weight()
    finally:
        close(connections)


def test_a_caller_with_too_many_connections_is_told_so_and_then_refused(attacked: Attacked) -> None:
    rejected = attacked.rejected("connection")
    connections = attacked.idle(BOUNDS.caller_connections, ATTACKER, b"")
    try:
        wait(lambda: attacked.number("CurrConns") == BOUNDS.caller_connections)
        status, body = attacked.call(ATTACKER)
        assert (status, b"too many connections" in body) == (429, True)
        assert connections[0].send(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in connections[0].recv(4096), "those that it had go on"
        refused = BOUNDS.caller_refused_connections - BOUNDS.caller_connections
        connections += attacked.idle(refused, ATTACKER, b"")
        wait(lambda: attacked.number("CurrConns") >= BOUNDS.caller_refused_connections - 1)
        connections += attacked.idle(5, ATTACKER, b"")
        with pytest.raises(ConnectionError):
            attacked.call(ATTACKER)
        assert attacked.call()[0] == 200
        assert attacked.rejected("connection") - rejected in range(5, 20)
    finally:
        close(connections)


def test_every_connection_is_taken_by_many_callers(attacked: Attacked) -> None:
    """Nobody else can call then, but weights change and health is told."""
    connections: list[socket.socket] = []
    each = BOUNDS.caller_requests // 2
    for caller in range(-(-BOUNDS.connections // each)):
        streams = [request(1, HOLD), request(3, HOLD)]
        connections += attacked.attack(each, f"127.0.1.{caller + 1}", streams)
    try:
        wait(lambda: attacked.number("CurrConns") >= BOUNDS.connections)
        attacked.change_weight()
        assert b"200 OK" in attacked.health()
        with pytest.raises(TimeoutError):
            attacked.call(seconds=1)
    finally:
        close(connections)


def test_the_more_are_connected_the_less_is_kept(attacked: Attacked) -> None:
    head = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    connections = attacked.idle(BOUNDS.connections, ATTACKER, head)
    try:
        wait(lambda: attacked.number("CurrConns") <= BOUNDS.caller_crowded)
        for caller in range(2 * BOUNDS.connections // BOUNDS.caller_crowded):
            connections += attacked.idle(BOUNDS.caller_crowded, f"127.0.1.{caller + 1}", head)
        wait(lambda: attacked.number("CurrConns") <= BOUNDS.crowded)
        assert attacked.call()[0] == 200
    finally:
        close(connections)


def test_streams_of_health_and_reflection(attacked: Attacked) -> None:
    with socket.socket(socket.AF_UNIX) as services:
        services.bind(str(attacked.edge.files.services_socket))
        services.listen(1000)
        services.settimeout(0.5)
        streams = [request(1 + 2 * number, WATCH, GRPC) for number in range(BOUNDS.caller_requests // 2)]
        connections: list[socket.socket] = []
        try:
            for _ in range(2):
                connections += attacked.attack(1, ATTACKER, streams)
            taken = 0
            with contextlib.suppress(TimeoutError):
                while True:
                    connections.append(services.accept()[0])
                    taken += 1
            assert taken == min(CALLER_STREAMS, BOUNDS.caller_requests)
            connections += attacked.attack(1, NEIGHBOUR, streams[:1])
            connections.append(services.accept()[0])
        finally:
            close(connections)


def test_who_calls_is_what_the_edge_says(attacked: Attacked) -> None:
    """A caller cannot name another one; a proxy that is trusted does so, the last of several."""
    echo = "/v2/models/iris/infer?source"
    forged = {"Kitserve-Source": "10.0.0.1", "X-Forwarded-For": "10.0.0.2"}
    assert attacked.call(NEIGHBOUR, echo, headers=forged)[1] == NEIGHBOUR.encode()
    assert attacked.call(PROXY, echo, headers={"X-Forwarded-For": "10.0.0.3, 10.0.0.2"})[1] == b"10.0.0.2"
    assert attacked.call(PROXY, echo, headers={"X-Forwarded-For": "nobody"})[1] == PROXY.encode()
    # Who has an address of IPv6 has as many as there are in its network.
    assert attacked.call(PROXY, echo, headers={"X-Forwarded-For": "2001:db8::1:2:3:4"})[1] == b"2001:db8::"

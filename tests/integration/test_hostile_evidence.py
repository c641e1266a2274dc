"""Only calls whose version the edge chose by chance are marked as evidence, whatever callers write."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gateway.edge.routes import Backend, Route, RoutingTable, Rules, Server
from gateway.wire.headers import PLACED_HEADER
from gateway.worker.mirror_sender import MIRROR_PATH
from tests.support.edge import RunningEdge

INFER = "/v2/models/iris/infer"


class Echo(BaseHTTPRequestHandler):
    """Answers with the version and the headers that it got."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        seen = {name.lower(): value for name, value in self.headers.items()}
        body = json.dumps({"port": self.connection.getsockname()[1], "headers": seen}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None:
        pass


class EchoServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that the edge resets."""


@contextmanager
def echo(name: str) -> Iterator[Server]:
    server = EchoServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Server(name, "127.0.0.1", server.server_port)
    finally:
        server.shutdown()
        server.server_close()


class Placed:
    """An edge with a stable version v1 and a canary v2."""

    def __init__(self, edge: RunningEdge, stable: Backend, canary: Backend) -> None:
        self.port = edge.port
        self._edge = edge
        self._stable, self._canary = stable, canary

    def apply(self, rules: Rules, weight: int = 50, *, is_alone: bool = False) -> None:
        canary = None if is_alone else self._canary
        self._edge.control.apply(RoutingTable((Route("iris", self._stable, canary, weight, rules=rules),)))

    def call(self, path: str = INFER, **headers: str) -> tuple[bool, bool]:
        """Return whether the canary answered, and whether the call was marked as evidence."""
        is_canary, mark = self.mark(path, **headers)
        return is_canary, mark is not None

    def mark(self, path: str = INFER, **headers: str) -> tuple[bool, str | None]:
        """Return whether the canary answered, and what marked the call as evidence."""
        connection = http.client.HTTPConnection("localhost", self.port, timeout=10)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, b"{}", {"Content-Type": "application/json", **names})
        answer = connection.getresponse()
        document = json.loads(answer.read())
        assert answer.status == 200, document
        connection.close()
        is_canary = document["port"] == self._canary.servers[0].port
        return is_canary, document["headers"].get(PLACED_HEADER.lower())


@pytest.fixture
def placed(tmp_path: Path) -> Iterator[Placed]:
    with ExitStack() as stack:
        stable, canary = stack.enter_context(echo("v1")), stack.enter_context(echo("v2"))
        edge = RunningEdge(tmp_path)
        stack.callback(edge.stop)
        v1, v2 = Backend("iris.v1", ("v1",), (stable,)), Backend("iris.v2", ("v2",), (canary,))
        placed = Placed(edge, v1, v2)
        placed.apply(Rules(match=(("X-Beta", "1"),), watched=(("match", "X-Beta"),)))
        yield placed


def test_chance_marks_and_nothing_else(placed: Placed) -> None:
    outcomes = [placed.call() for _ in range(60)]
    assert {is_canary for is_canary, _ in outcomes} == {True, False}
    assert all(is_marked for _, is_marked in outcomes)
    # Who names a version, or has the header that leads to the canary, chooses.
    for version in ("v1", "v2"):
        path = f"/v2/models/iris/versions/{version}/infer"
        assert placed.call(path) == (version == "v2", False)
        assert placed.call(ModelKit_Version=version) == (version == "v2", False)
        forged = placed.call(path, **{PLACED_HEADER: "1"})
        assert forged == (version == "v2", False)
    assert placed.call(X_Beta="1") == (True, False)
    assert placed.call(X_Beta="1", **{PLACED_HEADER: "1"}) == (True, False)


def test_who_sticks_to_a_version_is_marked_by_a_hash_that_nobody_else_can_write(placed: Placed) -> None:
    rules = Rules(("header", "x-user"), watched=(("header", "x-user"),), is_judged=True)
    placed.apply(rules)
    marks = {user: placed.mark(X_User=user) for user in ("ada", "bob", "eve")}
    assert {user: placed.mark(X_User=user) for user in marks} == marks
    assert len({mark for _, mark in marks.values()}) == 3
    assert not {"1", *marks} & {mark for _, mark in marks.values()}
    assert placed.mark()[1] == "1", "nothing keeps this caller where it is"
    assert placed.mark(X_User="ada", **{PLACED_HEADER: "-5"}) == marks["ada"]
    assert placed.mark("/v2/models/iris/versions/v1/infer", X_User="ada") == (False, None)
    # With the stable version alone they are the same callers.
    placed.apply(rules, is_alone=True)
    for user, (_, mark) in marks.items():
        assert placed.mark(X_User=user) == (False, mark)


def test_calls_to_a_version_that_is_alone_are_marked_where_its_canary_will_be_judged(placed: Placed) -> None:
    placed.apply(Rules(is_judged=True), is_alone=True)
    assert placed.mark() == (False, "1")
    assert placed.mark("/v2/models/iris/versions/v1/infer") == (False, None)
    placed.apply(Rules(), is_alone=True)
    assert placed.mark() == (False, None)


def test_mirrored_answers_do_not_come_through_the_edge(placed: Placed) -> None:
    for path in (MIRROR_PATH, f"{MIRROR_PATH}/v1/chat/completions"):
        connection = http.client.HTTPConnection("localhost", placed.port, timeout=10)
        connection.request("POST", path, b'{"model": "iris"}', {"Content-Type": "application/json"})
        assert connection.getresponse().status == 404
        connection.close()

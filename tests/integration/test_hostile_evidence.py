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

    def __init__(self, edge: RunningEdge, canary: Server) -> None:
        self.port = edge.port
        self._canary = canary

    def call(self, path: str = INFER, **headers: str) -> tuple[bool, bool]:
        """Return whether the canary answered, and whether the call was marked as evidence."""
        connection = http.client.HTTPConnection("localhost", self.port, timeout=10)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, b"{}", {"Content-Type": "application/json", **names})
        answer = connection.getresponse()
        document = json.loads(answer.read())
        assert answer.status == 200, document
        connection.close()
        return document["port"] == self._canary.port, PLACED_HEADER.lower() in document["headers"]


@pytest.fixture
def placed(tmp_path: Path) -> Iterator[Placed]:
    with ExitStack() as stack:
        stable, canary = stack.enter_context(echo("v1")), stack.enter_context(echo("v2"))
        edge = RunningEdge(tmp_path)
        stack.callback(edge.stop)
        rules = Rules(match=(("X-Beta", "1"),), watched=(("match", "X-Beta"),))
        v1, v2 = Backend("iris.v1", ("v1",), (stable,)), Backend("iris.v2", ("v2",), (canary,))
        edge.control.apply(RoutingTable((Route("iris", v1, v2, 50, rules=rules),)))
        yield Placed(edge, canary)


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


def test_mirrored_answers_do_not_come_through_the_edge(placed: Placed) -> None:
    for path in (MIRROR_PATH, f"{MIRROR_PATH}/v1/chat/completions"):
        connection = http.client.HTTPConnection("localhost", placed.port, timeout=10)
        connection.request("POST", path, b'{"model": "iris"}', {"Content-Type": "application/json"})
        assert connection.getresponse().status == 404
        connection.close()

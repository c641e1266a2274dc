"""Where the edge listens, and what it logs, changes while it runs: without a lost call, or not at all."""

from __future__ import annotations

import socket
import urllib.request

import pytest

from gateway.edge.routes import Route, RoutingTable
from gateway.errors import EdgeError
from tests.support.edge import RunningEdge, Workers, backend
from tests.support.load import Load
from tests.support.ports import free_port


@pytest.fixture
def table(workers: Workers) -> RoutingTable:
    return RoutingTable((Route("iris", backend("v1", workers.start("v1"))),))


def status(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/iris", timeout=10) as answer:
        return int(answer.status)


def test_no_call_is_lost_while_the_address_changes(edge: RunningEdge, table: RoutingTable) -> None:
    edge.control.apply(table)
    with Load(f"{edge.url}/v2/models/iris", body=None, clients=4) as load:
        load.wait_for("v1")
        edge.control.configure(f"0.0.0.0:{edge.port}", "all")
        edge.control.configure(f"127.0.0.1:{edge.port}", "errors")
        load.forget()
        load.wait_for("v1")
    assert load.failures == {}


def test_calls_that_run_are_answered_where_they_came_in(edge: RunningEdge, table: RoutingTable) -> None:
    edge.control.apply(table)
    other = free_port()
    assert status(edge.port) == 200
    with socket.create_connection(("127.0.0.1", edge.port)) as kept:
        kept.sendall(b"GET /v2/models/iris HTTP/1.1\r\nHost: localhost\r\n")
        edge.control.configure(f"127.0.0.1:{other}", "off")
        kept.sendall(b"\r\n")
        assert kept.recv(64).startswith(b"HTTP/1.1 200")
    assert status(other) == 200
    # What was brought is in the files, too: a table that comes later changes nothing of it.
    edge.control.apply(RoutingTable((*table.routes, Route("wine"))))
    assert status(other) == 200


def test_a_port_that_is_taken_leaves_all_as_it_was(edge: RunningEdge, table: RoutingTable) -> None:
    edge.control.apply(table)
    before = edge.files.config.read_text()
    with (
        socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken,
        pytest.raises(EdgeError, match=r"cannot listen on 127\.0\.0\.1:\d+ \(Address already in use\)"),
    ):
        edge.control.configure(f"127.0.0.1:{taken.getsockname()[1]}", "all")
    assert edge.files.config.read_text() == before
    assert status(edge.port) == 200


def test_what_haproxy_refuses_leaves_all_as_it_was(edge: RunningEdge, table: RoutingTable) -> None:
    edge.control.apply(table)
    before = edge.files.config.read_text()
    # An address that no interface has; the port is the edge's own, so it is HAProxy that finds out.
    with pytest.raises(EdgeError, match="HAProxy refused its new configuration"):
        edge.control.configure(f"192.0.2.1:{edge.port}", "off")
    assert edge.files.config.read_text() == before
    assert status(edge.port) == 200
    other = free_port()
    edge.control.configure(f"127.0.0.1:{other}", "off")
    assert status(other) == 200


def test_before_it_has_routes_it_is_not_changed(edge: RunningEdge) -> None:
    with pytest.raises(EdgeError, match="no routes yet"):
        edge.control.configure(f"127.0.0.1:{free_port()}", "off")

"""The port for Serve's handles: on loopback where the rest of Ray is."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from ray.serve._private import replica

from gateway.worker.handle_port import keep_on_loopback


def test_the_port_of_a_replica_is_bound_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = []

    def bind(server: str, address: str) -> int:
        bound.append((server, address))
        return 1234

    monkeypatch.setattr(replica, "add_port_to_grpc_server", bind)
    keep_on_loopback("127.0.0.1")
    serve: Any = replica
    assert serve.add_port_to_grpc_server("server", "[::]:0") == 1234
    assert serve.add_port_to_grpc_server("server", "10.0.0.1:9000") == 1234
    assert bound == [("server", "127.0.0.1:0"), ("server", "10.0.0.1:9000")]


def test_a_serve_that_binds_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(replica, "add_port_to_grpc_server")
    keep_on_loopback("127.0.0.1")
    assert not hasattr(replica, "add_port_to_grpc_server")


def test_serve_still_binds_it_as_we_know_it() -> None:
    assert 'add_port_to_grpc_server(self._server, "[::]:0")' in inspect.getsource(replica)

"""A port that is reserved: nobody else gets it, and its own server does, again and again."""

from __future__ import annotations

import socket

import pytest

from gateway.wire.server import reserve_port, tcp_socket
from tests.support.ports import free_port

HOSTS = ["127.0.0.1", "::1"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_reserved_port_is_its_servers_alone(host: str) -> None:
    port = free_port()
    with reserve_port(host, port):
        for _ in range(2):  # a gateway that died is started again
            with tcp_socket(host, port) as server, socket.create_connection((host, port), timeout=5):
                server.accept()[0].close()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as other, pytest.raises(OSError, match="in use"):
            other.bind((host, port))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port), timeout=5)


@pytest.mark.parametrize("host", HOSTS)
def test_a_port_of_somebody_else_cannot_be_reserved(host: str) -> None:
    with tcp_socket(host, 0) as listener, pytest.raises(OSError, match="in use"):
        reserve_port(host, listener.getsockname()[1])
    with tcp_socket(host, port := free_port()), pytest.raises(OSError, match="in use"):
        reserve_port(host, port)
    with socket.create_server(("127.0.0.1", 0)) as peer:
        call = socket.create_connection(peer.getsockname())
        with call, pytest.raises(OSError, match="in use"):
            reserve_port("127.0.0.1", call.getsockname()[1])

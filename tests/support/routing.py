"""Versions and their workers, as routing tables have them."""

from __future__ import annotations

from gateway.edge.routes import Backend, Server


def server(port: int) -> Server:
    return Server(f"w{port}", "10.0.0.1", port)


def backend(version: str, *ports: int) -> Backend:
    return Backend(version, (version, f"sha256:{version}"), tuple(server(port) for port in ports))

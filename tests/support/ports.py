"""Free ports on loopback."""

from __future__ import annotations

import os
import random
import socket

# Above those of Ray's workers, and below those that Linux gives to outgoing connections.
_PORTS = range(20_000, 32_768)
_TRIES = 100


def free_port() -> int:
    """Return a port that nobody has now; it is not one that a connection of somebody else may get.

    Tests in another process of pytest-xdist get others, also before this one is listened on.
    """
    ports = _of_this_process(_PORTS)
    for port in random.sample(ports, _TRIES):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise AssertionError(f"none of {_TRIES} ports of {ports} is free")


def _of_this_process(ports: range) -> range:
    """Return this process's share of the ports, by the variables that pytest-xdist sets."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return ports[number :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]

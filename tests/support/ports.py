"""Free ports on loopback."""

from __future__ import annotations

import random
import socket

# Above those of Ray's workers, and below those that Linux gives to outgoing connections.
_PORTS = range(20_000, 32_768)
_TRIES = 100


def free_port() -> int:
    """Return a port that nobody has now; it is not one that a connection of somebody else may get."""
    for port in random.sample(_PORTS, _TRIES):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise AssertionError(f"none of {_TRIES} ports of {_PORTS} is free")

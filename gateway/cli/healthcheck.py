"""`python -m gateway.cli.healthcheck`, for containers: fails unless the edge of this home's Kitserve answers.

It asks at the edge's own socket, so that it needs to know neither `listen` nor certificates nor keys.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from gateway.cli.admin_address import default_home
from gateway.cli.run_directory import run_directories
from gateway.edge.files import EdgeFiles
from gateway.wire.unix_sockets import short_path

_SECONDS = 3.0
_QUESTION = b"GET /v2/health/live HTTP/1.0\r\n\r\n"


def is_alive(home: Path) -> bool:
    """Tell whether an edge answers in one of the run directories that this home may have."""
    return any(_answers(EdgeFiles(directory).health_socket) for directory in run_directories(home))


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as connection, short_path(path) as address:
            connection.settimeout(_SECONDS)
            connection.connect(address)
            connection.sendall(_QUESTION)
            return connection.recv(64).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if is_alive(default_home()) else 1)

"""Questions to an engine on its own socket, for its worker alone; calls go by `wire/upstream.py`."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

_SECONDS = 10.0


def ask_engine(address: Path, path: str) -> tuple[int, bytes]:
    """Return the status and the body of what an engine answers to GET; blocks for some seconds at most.

    Raises:
        OSError, http.client.HTTPException: when it does not answer.
    """
    connection = _UnixConnection(address)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, address: Path) -> None:
        super().__init__("engine", timeout=_SECONDS)
        self._address = str(address)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(self._address)

"""Questions to an engine on its own socket, for its worker alone; calls go by `wire/upstream.py`."""

from __future__ import annotations

from pathlib import Path

from runtimes.engines.sockets import UnixConnection

_SECONDS = 10.0


def ask_engine(address: Path, path: str) -> tuple[int, bytes]:
    """Return the status and the body of what an engine answers to GET; blocks for some seconds at most.

    Raises:
        OSError, http.client.HTTPException: when it does not answer.
    """
    connection = UnixConnection(address, _SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()

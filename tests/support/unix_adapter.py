"""HTTP over a Unix socket, for a session of `requests`."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from gateway.control.admin.socket_file import connect_socket

_CONNECT_SECONDS = 10.0


class UnixAdapter(HTTPAdapter):
    """Sends every request of a session to one socket, whatever the host in its URL."""

    def __init__(self, path: Path) -> None:
        self._pool = _Pool(path)
        super().__init__()

    def get_connection_with_tls_context(self, *_args: Any, **_options: Any) -> HTTPConnectionPool:
        """Return the connections to the socket."""
        return self._pool

    def request_url(self, request: requests.PreparedRequest, _proxies: Any) -> str:
        """Return what the request line has: the path alone."""
        return request.path_url

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()
        super().close()


class _Connection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock: socket.socket | None = connect_socket(self._path, _CONNECT_SECONDS)


class _Pool(HTTPConnectionPool):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def _new_conn(self) -> Any:
        return _Connection(self._path)

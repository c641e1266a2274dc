"""One call of the admin API: over TCP, over TLS, or over the socket in a home.

What `http.client` and `ssl` raise becomes one error for each thing that a person can do about it.
"""

from __future__ import annotations

import json
import os
import ssl
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection, IncompleteRead
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.control.admin.socket_file import connect_socket
from gateway.errors import ControlError

CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE = (
    "KITSERVE_ADMIN_CA_FILE",
    "KITSERVE_ADMIN_CERT_FILE",
    "KITSERVE_ADMIN_KEY_FILE",
)
"""The environment variables with the PEM files for an admin API that is asked over TLS."""
_CONNECT_SECONDS = 10.0


class NotRunning(ControlError):
    """Nobody listens where Kitserve is asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of a server, which may be any server."""

    status: int
    body: bytes

    @property
    def is_ok(self) -> bool:
        """Whether the call was done."""
        return self.status < 400

    def document(self) -> dict[str, Any] | None:
        """Return the JSON object that it has; None where it has another body."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return None
        return document if isinstance(document, dict) else None


class AdminServer:
    """The server at an address, which is asked call by call, each on a connection of its own.

    Args:
        address: what messages call the server.
        location: its socket, or its URL.
        headers: what is sent with every call.
    """

    def __init__(self, address: str, location: Path | str, headers: dict[str, str]) -> None:
        self._address = address
        self._location = location
        self._headers = headers

    def send(self, method: str, path: str, body: Any, seconds: float) -> Answer:
        """Make one call, with `body` as JSON unless it is None; returns the answer, whatever that says.

        Raises:
            NotRunning: when nobody answers.
            ControlError: when the call cannot be made for another reason, or takes longer than `seconds`.
        """
        prefix = "" if isinstance(self._location, Path) else urlsplit(self._location).path
        content = None if body is None else json.dumps(body).encode()
        headers = self._headers if content is None else {**self._headers, "Content-Type": "application/json"}
        connection: HTTPConnection | None = None
        try:
            connection = self._connection(seconds)
            connection.connect()
            connection.request(method, prefix + path, content, headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.read())
        except (OSError, HTTPException, ValueError) as error:
            is_connected = connection is not None and connection.sock is not None
            raise self._described(error, is_connected, seconds) from error
        finally:
            if connection is not None:
                connection.close()

    def _connection(self, seconds: float) -> HTTPConnection:
        if isinstance(self._location, Path):
            return _UnixConnection(self._location, seconds)
        parts = urlsplit(self._location)
        host = parts.hostname or ""
        if parts.scheme == "https":
            return HTTPSConnection(host, parts.port, timeout=seconds, context=_tls_context())
        return HTTPConnection(host, parts.port, timeout=seconds)

    def _described(self, error: Exception, is_connected: bool, seconds: float) -> ControlError:
        """Return what a person is told of an error."""
        if isinstance(error, ssl.SSLError):
            return ControlError(
                f"no TLS with {self._address}: {error}; without `admin_tls`, the admin API speaks http://"
            )
        if isinstance(error, TimeoutError) and is_connected:
            return ControlError(f"the server at {self._address} does not answer within {seconds:g} s")
        if isinstance(error, PermissionError):
            return ControlError(f"{self._address} is not asked: {error}")
        if isinstance(error, ValueError | IncompleteRead):
            return ControlError(f"the server at {self._address} cannot be asked: {error}")
        return NotRunning(
            f"no Kitserve answers at {self._address}; start one with `kitserve serve`, "
            "or give its address with --admin HOST:PORT"
        )


class _UnixConnection(HTTPConnection):
    """A connection to a socket whose listener is this user's, or root's."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path
        self._seconds = seconds

    def connect(self) -> None:
        self.sock = connect_socket(self._path, min(self._seconds, _CONNECT_SECONDS))
        self.sock.settimeout(self._seconds)


def _tls_context() -> ssl.SSLContext:
    """Return how servers are verified, and what they are shown, as the environment says.

    Raises:
        ControlError: when a file that it names cannot be used.
    """
    # Imported here, as few admin APIs are asked over TLS.
    import certifi

    authorities = Path(os.environ.get(CA_VARIABLE) or certifi.where())
    certificate = os.environ.get(CERTIFICATE_VARIABLE)
    try:
        if authorities.is_dir():
            context = ssl.create_default_context(capath=authorities)
        else:
            context = ssl.create_default_context(cafile=authorities)
        if certificate:
            context.load_cert_chain(certificate, os.environ.get(KEY_VARIABLE) or certificate)
    except OSError as error:
        names = f"${CA_VARIABLE}, ${CERTIFICATE_VARIABLE} and ${KEY_VARIABLE}"
        raise ControlError(f"the admin API is not asked: {error}; see the files that {names} name") from error
    return context

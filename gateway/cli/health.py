"""`python -m gateway.cli.health`: whether the edge runs, for health checks; exit code 0 or 1.

The edge is asked at its own socket, to which the home has a link: so the port in the config, TLS, keys and
certificates of clients do not matter. The standard library alone asks, as that is done every few seconds.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from gateway.cli.admin_address import default_home
from gateway.errors import StoreError
from gateway.wire.unix_sockets import short_path

LINK = "health.sock"
"""The link in a home to the socket at which the edge tells of its health, while it runs."""
_PATH = "/v2/health/live"
_SECONDS = 3.0
_FAILED = 1


@contextlib.contextmanager
def health_link(home: Path, edge_socket: Path) -> Iterator[None]:
    """Have a home link to the socket of an edge, in place of one that a killed Kitserve left.

    Raises:
        StoreError: when the home cannot be written.
    """
    link = home / LINK
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(edge_socket)
    except OSError as error:
        raise StoreError(f"{link} cannot be made: {error.strerror}") from error
    try:
        yield
    finally:
        link.unlink(missing_ok=True)


def check_health(home: Path) -> None:
    """Ask the edge of a home whether it runs.

    Raises:
        OSError: when nobody answers.
        http.client.HTTPException: when what answers is no edge, or says that it does not run.
    """
    connection = http.client.HTTPConnection("localhost", timeout=_SECONDS)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.closing(connection):
        connection.sock.settimeout(_SECONDS)
        with short_path(home / LINK) as name:
            connection.sock.connect(name)
        connection.request("GET", _PATH)
        status = connection.getresponse().status
    if status != http.client.OK:
        raise http.client.HTTPException(f"it answered {_PATH} with {status}")


def main() -> int:
    """Check the Kitserve of the default home; say why it is not healthy."""
    home = default_home().absolute()
    try:
        check_health(home)
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"no edge of a Kitserve answers at {home / LINK}: {error}\n")
        return _FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The Unix socket of the admin API: in the home, for its user alone."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from gateway.errors import StoreError
from gateway.home import make_private
from gateway.wire.unix_sockets import peer_user, short_path

SOCKET_FILE = "admin.sock"
"""The name of the socket in a home."""
_BACKLOG = 128


class ForeignListener(PermissionError):
    """Another user listens on a socket, to whom nothing is to be sent."""


def bind_socket(home: Path) -> socket.socket:
    """Listen on the socket of a home, which becomes private, in place of one that a killed gateway left.

    Raises:
        StoreError: when the home cannot be used for that.
    """
    make_private(home)
    path = home / SOCKET_FILE
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise StoreError(f"{path} is no socket; remove it")
            path.unlink()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The file has the mode of the open socket from its first moment on (unix(7)).
        os.fchmod(listening.fileno(), 0o600)
        with short_path(path) as name:
            listening.bind(name)
        path.chmod(0o600)
        listening.listen(_BACKLOG)
    except OSError as error:
        raise StoreError(f"{path}: the admin API cannot listen there: {error}") from error
    return listening


def connect_socket(path: Path, seconds: float) -> socket.socket:
    """Connect to the socket of a Kitserve that is this user's, or root's; root may connect to anybody's.

    Raises:
        OSError: when nobody listens there.
        ForeignListener: when another user does.
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(seconds)
        with short_path(path) as name:
            connected.connect(name)
        _check_listener(path, peer_user(connected))
    except BaseException:
        connected.close()
        raise
    return connected


def _check_listener(path: Path, user: int) -> None:
    if user not in (os.geteuid(), 0) and os.geteuid() != 0:
        raise ForeignListener(f"the process that listens on {path} is another user's (uid {user})")

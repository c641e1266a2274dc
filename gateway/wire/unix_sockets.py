"""Unix sockets: who is at the other end, and paths that are too long for the kernel."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Process, user and group (unix(7), SO_PEERCRED).
_CREDENTIALS = struct.Struct("3i")


def peer_user(connected: Any) -> int:
    """Return the number of the user who connected, or listens: the kernel noted it then.

    Args:
        connected: a socket, or what an event loop shows of one.
    """
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Yield a path of the same socket that fits into the 107 bytes that the kernel takes (unix(7)).

    Raises:
        OSError: when its directory cannot be opened.
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)

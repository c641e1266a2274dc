"""The Unix socket of an engine, in a directory that no other user can enter."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

NAME = "engine.sock"

_PREFIX = "kitserve-engine-"
_LONGEST = 107  # bytes of a path in sockaddr_un, without the NUL at its end (unix(7))
_SWEEP_AFTER = 30.0
_LONGEST_START = 24 * 3_600.0
_SECONDS = 5.0


def directory() -> Path:
    """Return a new directory, 0700, short enough for the path of a socket; remove what dead workers left."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) + len(f"/{_PREFIX}12345678/{NAME}") > _LONGEST:
        parent = "/tmp"  # noqa: S108 - the directory in it is our own
    _sweep(Path(parent))
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))


def status(path: Path, target: str, timeout: float = _SECONDS) -> int | None:
    """Return the status of GET `target` on the socket at `path`; None where nobody answers in time."""
    connection = UnixConnection(path, timeout)
    try:
        connection.request("GET", target)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class UnixConnection(http.client.HTTPConnection):
    """A connection of http.client to a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _sweep(parent: Path) -> None:
    """Remove the directories of engines whose worker was killed: nobody listens on their sockets."""
    for old in parent.glob(f"{_PREFIX}*"):
        try:
            status = old.stat()
        except OSError:
            continue
        age = time.time() - status.st_mtime
        if status.st_uid == os.getuid() and age > _SWEEP_AFTER and _is_left(old / NAME, age):
            shutil.rmtree(old, ignore_errors=True)


def _is_left(path: Path, age: float) -> bool:
    """Whether nobody listens on a socket, or it was not made for as long as no start takes."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except FileNotFoundError:
            return age > _LONGEST_START
        except OSError:
            return False
    return False

"""A directory for the files and sockets of one start: short, its user's alone, gone with `kitserve serve`.

It is in the home, unless its path were too long there for Unix sockets. Its lock tells that it is in use: to
the next start, which removes what a killed one left, and to systemd-tmpfiles, which would remove its files
after some days.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.cli.disk import shortage
from gateway.errors import StoreError
from gateway.files import lock_directory, remove_leftovers

# HAProxy's configuration and the command lines of Ray's workers take such a path without quotes.
_PLAIN = re.compile(r"/[A-Za-z0-9._/+-]*")
# The path of a Unix socket has 107 bytes (unix(7)). Ray's longest is so many longer than its directory's:
_RAY_SOCKET = "/ray/session_2026-11-28_19-32-12_123456_4194304/sockets/plasma_store"
_MAX_BYTES = 107 - len(_RAY_SOCKET)
_VARIABLES = ("RAY_TMPDIR", "TMPDIR")
_PLACES = ("/tmp", "/var/tmp", "/run", "/dev/shm")  # noqa: S108  what is made there is private


@dataclass(frozen=True, slots=True)
class _Place:
    """A directory that a run directory may be made in, named by a prefix and some random letters."""

    path: Path
    prefix: str
    random_letters: int

    def new_directory(self) -> Path:
        """Make a directory that was not there before, which nobody else may enter."""
        while True:
            directory = self.path / f"{self.prefix}{secrets.token_hex(self.random_letters // 2)}"
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=0o700)
                return directory

    def objection(self) -> str:
        """Return why the place will not do, "" where it will."""
        if not _PLAIN.fullmatch(str(self.path)):
            return "its path must begin with /, and have only letters, digits and ._+- in it"
        surplus = len(os.fsencode(self.path)) + len(f"/{self.prefix}") + self.random_letters - _MAX_BYTES
        if surplus > 0:
            return f"its path is {surplus} bytes too long for Unix sockets in it"
        if not self.path.is_dir():
            return "no such directory"
        return _exposure(self.path.resolve())


@contextmanager
def run_directory(bytes_needed: int, home: Path) -> Iterator[Path]:
    """Make the directory, with room for so many bytes, and remove it at the end.

    It is in the home, else in $RAY_TMPDIR or $TMPDIR, else in the first other place that will do.

    Raises:
        StoreError: when no place will do; it says why not, for each.
    """
    directory, lock = _make(_places(home), bytes_needed)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def run_directories(home: Path) -> list[Path]:
    """Return this user's directories that a start from a home may have made; killed ones leave theirs.

    Those in other places than the home may be of other homes; they are returned where the home has none.
    """
    first, *others = ([*place.path.glob(f"{place.prefix}*")] for place in _places(home))
    directories = first or [directory for place in others for directory in place]
    return [directory for directory in directories if directory.lstat().st_uid == os.geteuid()]


def _make(places: list[_Place], bytes_needed: int) -> tuple[Path, int]:
    """Return a new directory, and the open file that locks it."""
    reasons = []
    for place in places:
        with contextlib.suppress(OSError):
            remove_leftovers(place.path, place.prefix)
        reason = place.objection() or shortage(place.path, bytes_needed)
        if not reason:
            try:
                return _make_in(place)
            except OSError as error:
                reason = str(error.strerror)
        reasons.append(f"{place.path} ({reason})")
    raise StoreError(
        f"no directory will do for sockets and Ray's files: {', '.join(reasons)}; make room in one of them, "
        "or set TMPDIR to a directory with a short path"
    )


def _places(home: Path) -> list[_Place]:
    named = [os.environ[variable] for variable in _VARIABLES if os.environ.get(variable)]
    runtime = [os.environ["XDG_RUNTIME_DIR"]] if os.environ.get("XDG_RUNTIME_DIR") else []
    shared = dict.fromkeys([*named, *_PLACES, *runtime])
    prefix = f"kitserve-{os.getuid()}-"
    return [_Place(home, "run-", 4), *(_Place(Path(place), prefix, 8) for place in shared)]


def _exposure(place: Path) -> str:
    """Return where another user could replace a directory that is in `place`, "" for nowhere."""
    # Whoever owns the root directory can do so anyway; in a user namespace that is nobody with a number.
    trusted = (0, os.geteuid(), Path("/").stat().st_uid)
    for directory in (place, *place.parents):
        status = directory.stat()
        is_shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
        if is_shared or status.st_uid not in trusted:
            return f"another user may replace what is in {directory}"
    return ""


def _make_in(place: _Place) -> tuple[Path, int]:
    while True:
        directory = place.new_directory()
        try:
            _try_socket(directory)
            lock = lock_directory(directory)
        except OSError:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        if lock is not None and directory.is_dir():
            return directory, lock
        # Another start took it for a leftover in the moment before it was locked.


def _try_socket(directory: Path) -> None:
    """Raise OSError where the file system has no Unix sockets, as some that are shared with a host."""
    path = directory / "try.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    path.unlink()

"""A directory for the files and sockets of one start: short, its user's alone, gone with `kitserve serve`.

Its lock tells that it is in use: to the next start, which removes what a killed one left, and to
systemd-tmpfiles, which would remove its files after some days.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.cli.disk import shortage
from gateway.errors import StoreError

# HAProxy's configuration and the command lines of Ray's workers take such a path without quotes.
_PLAIN = re.compile(r"/[A-Za-z0-9._/+-]*")
# The path of a Unix socket has 107 bytes (unix(7)). Ray's longest is so many longer than its directory's:
_RAY_SOCKET = "/ray/session_2026-11-28_19-32-12_123456_4194304/sockets/plasma_store"
_RANDOM_LETTERS = 8
_MAX_BYTES = 107 - len(_RAY_SOCKET) - _RANDOM_LETTERS
_VARIABLES = ("RAY_TMPDIR", "TMPDIR")
_PLACES = ("/tmp", "/var/tmp", "/run", "/dev/shm")  # noqa: S108  what is made there is private


@contextmanager
def run_directory(bytes_needed: int) -> Iterator[Path]:
    """Make the directory, with room for so many bytes, and remove it at the end.

    It is in $RAY_TMPDIR or $TMPDIR where that will do, else in the first other place that does.

    Raises:
        StoreError: when no place will do; it says why not, for each.
    """
    prefix = f"kitserve-{os.getuid()}-"
    directory, lock = _make(prefix, bytes_needed)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _make(prefix: str, bytes_needed: int) -> tuple[Path, int]:
    """Return a new directory, and the open file that locks it."""
    reasons = []
    for place in _places():
        _remove_leftovers(place, prefix)
        reason = _objection(place, prefix) or shortage(place, bytes_needed)
        if not reason:
            try:
                return _make_in(place, prefix)
            except OSError as error:
                reason = str(error.strerror)
        reasons.append(f"{place} ({reason})")
    raise StoreError(
        f"no directory will do for sockets and Ray's files: {', '.join(reasons)}; make room in one of them, "
        "or set TMPDIR to a directory with a short path"
    )


def _places() -> list[Path]:
    named = [os.environ[variable] for variable in _VARIABLES if os.environ.get(variable)]
    runtime = [os.environ["XDG_RUNTIME_DIR"]] if os.environ.get("XDG_RUNTIME_DIR") else []
    return [Path(place) for place in dict.fromkeys([*named, *_PLACES, *runtime])]


def _objection(place: Path, prefix: str) -> str:
    """Return why a place will not do, "" where it will."""
    if not _PLAIN.fullmatch(str(place)):
        return "its path must begin with /, and have only letters, digits and ._+- in it"
    surplus = len(os.fsencode(place)) + len(f"/{prefix}") - _MAX_BYTES
    if surplus > 0:
        return f"its path is {surplus} bytes too long for Unix sockets in it"
    return "" if place.is_dir() else "no such directory"


def _make_in(place: Path, prefix: str) -> tuple[Path, int]:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        lock = _lock(directory)
        if lock is not None and directory.is_dir():
            return directory, lock
        # Another start took it for a leftover in the moment before it was locked.


def _remove_leftovers(place: Path, prefix: str) -> None:
    """Remove the directories of this user's starts that were killed."""
    with contextlib.suppress(OSError):
        for directory in place.glob(f"{prefix}*"):
            if directory.is_symlink() or directory.stat().st_uid != os.getuid():
                continue
            lock = _lock(directory)
            if lock is not None:
                shutil.rmtree(directory, ignore_errors=True)
                os.close(lock)


def _lock(directory: Path) -> int | None:
    """Lock a directory; returns the open file, None where another process has locked it, or it is gone."""
    try:
        file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError:
        os.close(file)
        raise
    return file

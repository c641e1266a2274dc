"""Leases: what is in use on this node, known by file locks that end with the process that has them.

A lease's file also says when the thing was last used: its modification time.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Lease:
    """Shared use of something, given back by `release`, with the object, or with the process."""

    def __init__(self, path: Path) -> None:
        self._file: int | None = _locked(path, fcntl.LOCK_SH)
        self.touch()

    def touch(self) -> None:
        """Note that the thing is used now."""
        if self._file is not None:
            os.utime(self._file)

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.release()


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Tell whether nobody has a lease, and let nobody take one within the block if so."""
    try:
        file = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        os.close(file)


def last_used(path: Path) -> float:
    """Return when a lease was last taken or touched, in seconds since the epoch; 0.0 for never."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _locked(path: Path, how: int) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, how)
            if _is_at(file, path):
                return file
        except BaseException:
            os.close(file)
            raise
        # Whoever had it for himself removed the file meanwhile: this lock is on nothing.
        os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False

"""Leases: file locks that show what is in use on this node; they end with the process that holds them.

The modification time of a lease's file is when the leased thing was last used.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Lease:
    """A shared lock on a file, held until `release`, or until the object or the process is gone."""

    def __init__(self, path: Path) -> None:
        self._file: int | None = _open_locked(path, fcntl.LOCK_SH)
        self.touch()

    def touch(self) -> None:
        """Record that the leased thing is used now."""
        if self._file is not None:
            os.utime(self._file)

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.release()


@contextmanager
def try_claim(path: Path) -> Iterator[bool]:
    """Yield True where nobody has a lease; then nobody can take one within the block."""
    try:
        file = _open_locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        os.close(file)


def lock_holder(path: Path) -> int | None:
    """Return the process that holds a lock on a file (proc(5), /proc/locks); None where it cannot be told."""
    try:
        status, lines = path.stat(), Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in lines:
        fields = line.split()
        # A line with `->` is a process that waits.
        if "->" not in fields and len(fields) > 5 and fields[5] == device and int(fields[4]) > 0:
            return int(fields[4])
    return None


def last_used(path: Path) -> float:
    """Return when a lease was last taken or touched, in seconds since the epoch; 0.0 for never."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _open_locked(path: Path, operation: int) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, operation)
            if _is_same_file(file, path):
                return file
        except BaseException:
            os.close(file)
            raise
        # The holder of an exclusive lock removed the file meanwhile, so this lock protects nothing.
        os.close(file)


def _is_same_file(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False

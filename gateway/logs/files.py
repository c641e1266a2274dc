"""A file of lines that several processes write to, and that is rotated by size without losing one.

Each line is appended in one write, so lines never mix. Whoever finds the file full renames it: `NAME` becomes
`NAME.1`, `NAME.1` becomes `NAME.2`, and so on; the oldest goes. The others notice at their next line that the
name leads elsewhere, and open it again. A writer holds a shared lock on the directory from that look to the
end of its write, and who renames holds it alone: so no line goes to a file that was given up meanwhile.

Nobody waits long: a process that was stopped with the lock must not stop the others. Where the lock cannot
be had, the file grows until it can, and a line is written all the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from gateway.files import open_in_shared

MAX_BYTES = 20 * 1024 * 1024
"""A file is rotated before it is larger than this."""
BACKUPS = 4
"""How many older files are kept."""
_TRIES = 50
_PAUSE_SECONDS = 0.002


def backup(path: Path, number: int) -> Path:
    """Return the name of an older file; 1 is the newest."""
    return path.with_name(f"{path.name}.{number}")


class SharedFile:
    """One process's way into the file; safe to use from several threads."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES, backups: int = BACKUPS) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._lock = threading.Lock()
        self._file: int | None = None
        self._directory: int | None = None

    def write(self, line: bytes) -> None:
        """Append a whole line, or several.

        Raises:
            OSError: when the directory is gone, or the disk full.
        """
        with self._lock:
            if self._size() + len(line) > self._max_bytes:
                self._rotate(len(line))
            with self._locked(fcntl.LOCK_SH):
                file = self._current()
                while line:
                    line = line[os.write(file, line) :]

    def close(self) -> None:
        """Close the file; another line opens it again."""
        with self._lock:
            for file in (self._file, self._directory):
                if file is not None:
                    os.close(file)
            self._file = self._directory = None

    def _size(self) -> int:
        try:
            return self._path.lstat().st_size
        except FileNotFoundError:
            return 0

    def _current(self) -> int:
        """Return the file that the name leads to now, open to append."""
        if self._file is not None:
            try:
                named, opened = self._path.lstat(), os.fstat(self._file)
                if (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino):
                    return self._file
            except FileNotFoundError:
                pass
            os.close(self._file)
            self._file = None
        self._file = open_in_shared(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        return self._file

    def _rotate(self, more_bytes: int) -> None:
        """Rename the file and the older ones, unless another process just did, or another writes."""
        with self._locked(fcntl.LOCK_EX) as is_locked:
            size = self._size()
            if not is_locked or not size or size + more_bytes <= self._max_bytes:
                return
            for number in range(self._backups, 0, -1):
                older = self._path if number == 1 else backup(self._path, number - 1)
                with contextlib.suppress(FileNotFoundError):
                    older.replace(backup(self._path, number))

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[bool]:
        """Hold the directory's lock, and tell whether it could be had."""
        if self._directory is None:
            self._directory = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        is_locked = self._try_lock(self._directory, kind)
        try:
            yield is_locked
        finally:
            if is_locked:
                fcntl.flock(self._directory, fcntl.LOCK_UN)

    def _try_lock(self, directory: int, kind: int) -> bool:
        for _ in range(_TRIES):
            try:
                fcntl.flock(directory, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_PAUSE_SECONDS)
            except OSError:
                # A file system without locks.
                return False
            else:
                return True
        return False

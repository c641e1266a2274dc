"""The files of one model's records: a new one when the last is full; the oldest goes when all are too many.

They are named by the time when they were begun, and nobody but the gateway writes to them.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

SUFFIX = ".jsonl"
_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z\.jsonl")
_FILES = 8
"""So many files share the bytes that a model may have."""
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class PayloadFiles:
    """Writes to the files in a directory; for one thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: int | None = None
        self._path = directory

    def write(self, lines: Sequence[bytes], max_bytes: int) -> None:
        """Append lines, and delete the oldest files where all have more than `max_bytes`.

        Raises:
            OSError: when the lines cannot be written, as where the disk is full; none of them is then.
        """
        data = b"".join([line + b"\n" for line in lines])
        file = self._current(len(data), max_bytes // _FILES)
        size = os.fstat(file).st_size
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError:
            # No line stays there in part.
            with contextlib.suppress(OSError):
                os.ftruncate(file, size)
            raise
        self._delete_oldest(max_bytes)

    def close(self) -> None:
        """Close the file; the next lines begin another."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _current(self, more_bytes: int, limit: int) -> int:
        """Return the file to append to: a new one where the last is full, deleted or of an earlier start."""
        if self._file is not None:
            state = os.fstat(self._file)
            if state.st_nlink and (not state.st_size or state.st_size + more_bytes <= limit):
                return self._file
            self.close()
        for directory in (self._directory.parent, self._directory):
            directory.mkdir(mode=stat.S_IRWXU, exist_ok=True)
        name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ") + SUFFIX
        self._path = self._directory / name
        self._file = os.open(self._path, _FLAGS, stat.S_IRUSR | stat.S_IWUSR)
        return self._file

    def _delete_oldest(self, max_bytes: int) -> None:
        """Delete whole files, the oldest first, but never the one that is written to."""
        sizes = {
            path: path.stat(follow_symlinks=False).st_size
            for path in sorted(self._directory.iterdir())
            if _NAME.fullmatch(path.name)
        }
        total = sum(sizes.values())
        for path, size in sizes.items():
            if total <= max_bytes:
                return
            if path != self._path:
                path.unlink(missing_ok=True)
                total -= size

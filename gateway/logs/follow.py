"""The lines that are added to a node's log, as they come, also while it is rotated."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from gateway.files import open_regular

_LOOK_SECONDS = 0.25
_STOP_SECONDS = 2.0
_PIECE_BYTES = 256 * 1024
# No line of Kitserve's is so long; a kit that runs code may write one without end, which comes in parts.
_MAX_LINE_BYTES = 1024 * 1024


class Follower:
    """Hands each line that is written from now on to `write`, in a thread of its own.

    Where an open `file` is given, the log as it was or is, its lines come first from where it is read to.
    """

    def __init__(self, path: Path, write: Callable[[bytes], None], file: BinaryIO | None = None) -> None:
        self._path = path
        self._write = write
        self._rest = b""
        self._stopping = threading.Event()
        self._file = file
        if file is None and (opened := self._open()) is not None:
            opened.seek(0, os.SEEK_END)
            self._file = opened
        self._thread = threading.Thread(target=self._run, name="log-follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Hand on what was written so far, and end."""
        self._stopping.set()
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            self._look()
        self._look()
        if self._file is not None:
            self._file.close()

    def _look(self) -> None:
        if self._file is None:
            self._file = self._open()
        while self._file is not None:
            self._hand_on(self._file)
            if not self._is_renamed(self._file):
                return
            # What was written between the last read and the renaming.
            self._hand_on(self._file)
            self._file.close()
            self._file = self._open()

    def _hand_on(self, file: BinaryIO) -> None:
        while piece := file.read(_PIECE_BYTES):
            *lines, self._rest = (self._rest + piece).split(b"\n")
            if len(self._rest) > _MAX_LINE_BYTES:
                lines.append(self._rest)
                self._rest = b""
            if lines:
                self._write(b"\n".join(lines) + b"\n")

    def _is_renamed(self, file: BinaryIO) -> bool:
        opened = os.fstat(file.fileno())
        try:
            named = self._path.lstat()
        except OSError:
            # No other process has begun a new one yet.
            return False
        return (named.st_dev, named.st_ino) != (opened.st_dev, opened.st_ino)

    def _open(self) -> BinaryIO | None:
        try:
            return os.fdopen(open_regular(self._path, follows_link=False), "rb")
        except OSError:
            return None

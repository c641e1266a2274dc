"""The lines of a node's log, the oldest first, over its older files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from gateway.files import open_regular
from gateway.logs.files import BACKUPS, backup

# No line of Kitserve's is so long; a kit that runs code may write one without end, which comes in parts.
_MAX_LINE_BYTES = 1024 * 1024


class History:
    """The log's files as they are now, open: what is renamed or removed from now on is read all the same.

    `rest` is the file that is written to now, after all that was read of it; None where there is none yet.
    """

    def __init__(self, path: Path, backups: int = BACKUPS) -> None:
        self._stack = ExitStack()
        self.rest: BinaryIO | None = None
        opened: dict[tuple[int, int], BinaryIO] = {}
        # The newest first: one that is renamed meanwhile is met a second time, and none is missed.
        for number in range(backups + 1):
            try:
                handle = open_regular(backup(path, number) if number else path, follows_link=False)
            except PermissionError:
                raise
            except OSError:
                # It is not there, or no log: workers, which write to the directory, may run code of kits.
                continue
            file = os.fdopen(handle, "rb")
            status = os.fstat(file.fileno())
            if opened.setdefault((status.st_dev, status.st_ino), file) is not file:
                file.close()
                continue
            if number:
                self._stack.enter_context(file)
            else:
                self.rest = file
        self._files = list(reversed(opened.values()))

    def close(self) -> None:
        """Close what is still open. Safe to call twice."""
        self._stack.close()
        if self.rest is not None:
            self.rest.close()

    def lines(self) -> Iterator[bytes]:
        """Yield each whole line; of one that is being written, the beginning is left in `rest`."""
        with self._stack:
            for file in self._files:
                while line := file.readline(_MAX_LINE_BYTES):
                    if line.endswith(b"\n") or len(line) == _MAX_LINE_BYTES:
                        yield line
                    elif file is self.rest:
                        file.seek(-len(line), os.SEEK_CUR)
                        return

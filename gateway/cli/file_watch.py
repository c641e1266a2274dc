"""A file that is looked at again and again: whether it has become another one, and is complete.

Editors write a new file and rename it; Kubernetes changes the link that leads to a ConfigMap's files; others
write into the file, piece by piece. So a change counts once the file has stayed the same for a second.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

_QUIET_SECONDS = 1.0

Clock = Callable[[], float]
_Stamp = tuple[int, int, int, int]


class FileWatch:
    """Tells of each change of a file once; that it is gone is one, too."""

    def __init__(self, path: Path, clock: Clock = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._settled = self._candidate = _stamp(path)
        self._since = clock()

    def has_changed(self) -> bool:
        """Look at the file; returns whether it is another one than before, and has stayed so for a while."""
        stamp, now = _stamp(self._path), self._clock()
        if stamp != self._candidate:
            self._candidate, self._since = stamp, now
        if stamp == self._settled or now - self._since < _QUIET_SECONDS:
            return False
        self._settled = stamp
        return True

    def settle(self) -> None:
        """Take the file as it is for one whose change was told."""
        self._settled = self._candidate = _stamp(self._path)


def foreign_writer(path: Path) -> str:
    """Return who else may change a file than this user and root; "" for nobody.

    Raises:
        OSError: when there is no such file.
    """
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0):
        return f"it is another user's (uid {status.st_uid})"
    if status.st_mode & stat.S_IWOTH:
        return "every user may write to it"
    # Also that of a link: who may replace either decides what is read a moment after this look.
    for directory in dict.fromkeys((path.absolute().parent, path.resolve().parent)):
        if _is_everybodys(directory):
            return f"every user may replace it in {directory}"
    return ""


def _is_everybodys(directory: Path) -> bool:
    mode = directory.stat().st_mode
    if not mode & stat.S_IWOTH or mode & stat.S_ISVTX:
        return False
    # A ConfigMap of Kubernetes has such a mode, and is mounted so that nobody writes.
    return not os.statvfs(directory).f_flag & os.ST_RDONLY


def _stamp(path: Path) -> _Stamp | None:
    """Return what changes when the file does; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size

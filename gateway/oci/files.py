"""Files that are replaced atomically and survive a crash, and the disk space that files take."""

import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_ABANDONED_AFTER = 60.0  # seconds without a write


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all, even if this process or the machine dies."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def remove_unfinished(directory: Path) -> None:
    """Remove the temporary files of processes that died in `replace_file`."""
    for path in directory.glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if path.is_file() and time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                path.unlink()


def disk_use(paths: Iterable[Path]) -> int:
    """Return the bytes of these files; one with several names counts once, one that is gone not at all."""
    sizes = {}
    for path in paths:
        with suppress(FileNotFoundError, NotADirectoryError):
            status = path.lstat()
            sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def _sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

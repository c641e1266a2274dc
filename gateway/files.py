"""Small files that a user names: read only if they are regular files, and no larger than they may be."""

import os
import stat
from pathlib import Path

TEXT_BYTES = 1024 * 1024
"""The most bytes of a file that holds a key, certificates, a password or a config."""


def read_regular(path: Path, limit: int = TEXT_BYTES) -> bytes:
    """Return the bytes of a regular file, or of one that a link leads to.

    Nothing else is waited for or read: a pipe or a device may never end.

    Raises:
        OSError: when it cannot be opened, is no regular file, or is larger than `limit` bytes.
    """
    # Without O_NONBLOCK, opening a pipe waits for somebody who writes to it.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"it is {_kind(status.st_mode)}, not a regular file")
        data = bytearray()
        # One byte more shows a file that is too large.
        while len(data) <= limit and (piece := os.read(handle, limit + 1 - len(data))):
            data += piece
    finally:
        os.close(handle)
    if len(data) > limit:
        raise OSError(f"it is larger than {limit} bytes")
    return bytes(data)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "a special file"

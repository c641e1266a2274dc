"""Files of this machine: regular ones to read, private ones to write, and locks of directories in use."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

TEXT_BYTES = 1024 * 1024
"""The most bytes of a file that holds a key, certificates, a password or a config."""
_TRIES = 3
_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


def read_regular(path: Path, limit: int = TEXT_BYTES) -> bytes:
    """Return the bytes of a regular file, or of one that a link leads to.

    Nothing else is waited for or read: a pipe or a device may never end.

    Raises:
        OSError: when it cannot be opened, is no regular file, or is larger than `limit` bytes.
    """
    handle = open_regular(path)
    try:
        data = bytearray()
        # One byte more shows a file that is too large.
        while len(data) <= limit and (piece := os.read(handle, limit + 1 - len(data))):
            data += piece
    finally:
        os.close(handle)
    if len(data) > limit:
        raise OSError(f"it is larger than {limit} bytes")
    return bytes(data)


def open_regular(path: Path, *, follows_link: bool = True) -> int:
    """Open a regular file to read it; the caller closes it.

    Raises:
        OSError: when it cannot be opened, or is no regular file.
    """
    # Without O_NONBLOCK, opening a pipe waits for somebody who writes to it.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        handle = os.open(path, flags if follows_link else flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP and not follows_link:
            raise OSError(errno.ELOOP, "it is a symbolic link, which is not followed") from None
        raise
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise OSError(f"it is {_kind(mode)}, not a regular file")
    return handle


def compression_of(beginning: bytes) -> str:
    """Return the program by which a file is compressed that begins so; "" for no known one."""
    return next((name for magic, name in _COMPRESSIONS.items() if beginning.startswith(magic)), "")


def create_private(path: Path, text: str) -> None:
    """Write a new file that only its owner may read.

    Raises:
        FileExistsError: when there is a file, or a link.
        OSError: when it cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, stat.S_IRUSR | stat.S_IWUSR), "w", encoding="utf-8") as file:
        file.write(text)


def replace_private(path: Path, text: str) -> None:
    """Replace a file in one step, so that no reader sees half of it; only its owner may read it.

    Raises:
        OSError: when it cannot be written; what was there stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        create_private(temporary, text)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def open_in_shared(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a regular file to write it, in a directory that workers write to; the caller closes it.

    Their kits may have put a link, a pipe or the like there: it is removed, and never followed.

    Raises:
        OSError: when it cannot be opened.
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    for _ in range(_TRIES):
        try:
            handle = os.open(path, flags, mode)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
        else:
            if stat.S_ISREG(os.fstat(handle).st_mode):
                return handle
            os.close(handle)
        path.unlink(missing_ok=True)
    raise OSError(errno.ELOOP, "it is no regular file, and comes again", str(path))


@contextlib.contextmanager
def locked_in_shared(path: Path) -> Iterator[None]:
    """Wait for the lock of a file in a directory that workers write to, and hold it in the block."""
    handle = open_in_shared(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def read_held(path: Path, limit: int) -> bytes | None:
    """Return at most `limit` bytes of a file that its living writer has locked; None where it is gone.

    Raises:
        ValueError: when nobody holds it, or it is no regular file.
    """
    try:
        file = os.fdopen(open_regular(path, follows_link=False), "rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError("no regular file") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read(limit)
    raise ValueError("held by nobody")


def lock_directory(directory: Path) -> int | None:
    """Lock a directory for as long as the file that is returned is open.

    None where another process has locked it, or it is gone.

    Raises:
        OSError: when it cannot be locked at all.
    """
    try:
        file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
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


def remove_leftovers(parent: Path, prefix: str, min_age: float = 0.0) -> None:
    """Remove the directories of this user's processes that were killed: nobody holds their locks.

    Args:
        parent: where they are.
        prefix: what their names begin with.
        min_age: in seconds; younger ones may have been made and not yet locked.
    """
    for directory in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            status = directory.lstat()
            is_own = status.st_uid == os.getuid() and stat.S_ISDIR(status.st_mode)
            if not is_own or time.time() - status.st_ctime < min_age:
                continue
            lock = lock_directory(directory)
            if lock is not None:
                shutil.rmtree(directory, ignore_errors=True)
                os.close(lock)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "a special file"

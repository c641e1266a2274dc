"""Landlock: which files a thread, and all that it starts, may read, write and run (landlock(7)).

Until Linux 7 a ruleset binds the thread that asks for it and the threads and processes that it starts
afterwards; others of its process stay as they are.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runtimes.containment import kernel

# linux/landlock.h: what may be done with a file, and with what is below a directory.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_SOCK, _MAKE_FIFO, _MAKE_SYM = 1 << 9, 1 << 10, 1 << 12
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_OF_ABI_1 = (1 << 13) - 1
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READING = _READ_FILE | _READ_DIR
_TCP = 1 << 0 | 1 << 1  # bind, connect
_SCOPES = 1 << 0 | 1 << 1  # Unix sockets without a path, signals
_VERSION = 1 << 0
_PATH_BENEATH = 1
_ALL_THREADS = 1 << 3
_ABI_OF_ALL_THREADS = 8


@dataclass(frozen=True, slots=True)
class Files:
    """What may be done with which files and directories; those that are not there are passed over."""

    readable: tuple[Path, ...]
    writable: tuple[Path, ...] = ()
    """May be read, too."""
    devices: tuple[Path, ...] = ()
    """May be read, written and told what to do (ioctl)."""
    programs: tuple[Path, ...] = ()
    """May be started."""
    shared: tuple[Path, ...] = ()
    """Others use them as well: as `writable`, but no links, pipes and sockets are made there."""


def abi() -> int:
    """Return the version of the kernel's Landlock; 0 where it has none, or it is off."""
    if not kernel.IS_KNOWN:
        return 0
    try:
        return kernel.call("landlock_create_ruleset", None, 0, _VERSION)
    except OSError:
        return 0


def restrict(files: Files, *, may_use_tcp: bool, may_signal: bool) -> None:
    """Leave this thread, and all that it starts, nothing but `files`.

    Args:
        files: what may be used.
        may_use_tcp: whether it may connect and bind by TCP; kept from Linux 6.7 on.
        may_signal: whether it may send signals to processes that are not restricted so, and connect to their
            Unix sockets without a path; kept from Linux 6.12 on.

    Raises:
        OSError: where the kernel refuses.
    """
    version = abi()
    handled = _OF_ABI_1
    handled |= _REFER if version >= 2 else 0
    handled |= _TRUNCATE if version >= 3 else 0
    handled |= _IOCTL_DEV if version >= 5 else 0
    tcp = _TCP if version >= 4 and not may_use_tcp else 0
    scopes = _SCOPES if version >= 6 and not may_signal else 0
    # struct landlock_ruleset_attr, as long as this kernel knows it.
    fields = [handled, tcp, scopes][: 1 if version < 4 else 2 if version < 6 else 3]
    attributes = (ctypes.c_uint64 * len(fields))(*fields)
    ruleset = kernel.call("landlock_create_ruleset", ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    try:
        _allow(ruleset, files.readable, _READING)
        writing = handled & ~(_EXECUTE | _IOCTL_DEV)
        _allow(ruleset, files.writable, writing)
        _allow(ruleset, files.shared, writing & ~(_MAKE_SOCK | _MAKE_FIFO | _MAKE_SYM))
        _allow(ruleset, files.devices, handled & (_READING | _WRITE_FILE | _IOCTL_DEV))
        _allow(ruleset, files.programs, _READ_FILE | _EXECUTE)
        kernel.give_up_new_privileges()
        flags = _ALL_THREADS if version >= _ABI_OF_ALL_THREADS else 0
        kernel.call("landlock_restrict_self", ruleset, flags)
    finally:
        os.close(ruleset)


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def _allow(ruleset: int, paths: Iterable[Path], access: int) -> None:
    for path in dict.fromkeys(paths):
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            is_directory = stat.S_ISDIR(os.fstat(place).st_mode)
            rule = _PathBeneath(access if is_directory else access & _OF_FILES, place)
            kernel.call("landlock_add_rule", ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
        except OSError as error:
            # What is on no file system, such as a pipe, is not restricted, either.
            if error.errno != errno.EBADFD:
                raise
        finally:
            os.close(place)

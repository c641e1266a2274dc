"""How much room there is on a disk, before anything is begun that needs it."""

from __future__ import annotations

import os
from pathlib import Path

from rich.filesize import decimal

_FILES = 200
"""The files that a start makes, at most."""


def shortage(directory: Path, bytes_needed: int) -> str:
    """Return what a directory's disk lacks for so many bytes, "" where it lacks nothing."""
    try:
        disk = os.statvfs(directory)
    except OSError as error:
        return str(error.strerror)
    blocks, files = (disk.f_bfree, disk.f_ffree) if os.getuid() == 0 else (disk.f_bavail, disk.f_favail)
    free = blocks * disk.f_frsize
    if free < bytes_needed:
        return f"{decimal(free)} free, {decimal(bytes_needed)} needed"
    # Some file systems count no files.
    if disk.f_files and files < _FILES:
        return f"its disk has room for {files} more files, {_FILES} needed"
    return ""

"""The environment of a process, reduced to what a list names: tokens and passwords are often in there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

# Those that are not below the home where they are set.
_CACHES = ("HF_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "KERAS_HOME", "CUDA_CACHE_PATH")
_BEGIN, _END = 47, 48  # env_start and env_end in proc_pid_stat(5), counted from the third field


def scrub(may_stay: Callable[[str], bool]) -> None:
    """Remove the variables that may not stay, by name; and their values from where the process got them.

    The kernel shows that place as `/proc/PID/environ` for as long as the process lives.
    """
    for name in [name for name in os.environ if not may_stay(name)]:
        del os.environ[name]
    with contextlib.suppress(OSError, ValueError, IndexError):
        _overwrite(may_stay)


def move_home(directory: Path) -> None:
    """Have libraries look for their settings and caches in `directory`, and put temporary files there."""
    os.environ["HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = str(directory)
    for name in _CACHES:
        os.environ.pop(name, None)


def _overwrite(may_stay: Callable[[str], bool]) -> None:
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[_BEGIN]), int(fields[_END])
    content = Path("/proc/self/environ").read_bytes()
    if not begin or end - begin != len(content):
        return
    position = begin
    for entry in content.split(b"\0"):
        name, separator, value = entry.partition(b"=")
        if separator and not may_stay(os.fsdecode(name)):
            ctypes.memset(position + len(name) + 1, 0, len(value))
        position += len(entry) + 1

"""What Kitserve needs of its host: open files, and room on disk. Checked before Ray starts."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

from gateway.cli.disk import shortage
from gateway.config.callers import Callers
from gateway.control.loop.environment import OBJECT_STORE_BYTES
from gateway.edge.bounds import (
    MAX_CONNECTIONS,
    MIN_FILES,
    RAISE_THE_LIMIT,
    CallerLimits,
    EdgeBounds,
    edge_bounds,
)
from gateway.errors import ControlError, StoreError

# With many more, a program that closes every file it might have open takes seconds for that.
_MAX_FILES = 65536
_HOME_BYTES = 16_000_000
_RUN_BYTES = 16_000_000
_EDGE_BYTES = 1_000_000
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  it is only measured


def raise_open_files() -> int:
    """Raise the number of files that each process may have open; returns how many that are, for the edge.

    Raises:
        ControlError: when the hard limit is too low to serve.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = _MAX_FILES if hard == resource.RLIM_INFINITY else hard
    if highest < MIN_FILES:
        raise ControlError(
            f"this process may have {highest} files open (ulimit -Hn), and Kitserve needs {MIN_FILES}: "
            f"{RAISE_THE_LIMIT}"
        )
    files = min(highest, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files


def callers_bounds(callers: Callers, files: int, say: Callable[[str], None]) -> EdgeBounds:
    """Return how much the edge takes with so many open files; where they are few, that is said.

    Raises:
        EdgeError: when the config wants more than they are enough for.
    """
    limits = CallerLimits(**callers.model_dump(exclude={"trusted_proxies"}))
    bounds = edge_bounds(files, limits, len(os.sched_getaffinity(0)))
    if limits.max_connections is None and bounds.connections < MAX_CONNECTIONS:
        say(
            f"the edge takes {bounds.connections} connections at a time and not {MAX_CONNECTIONS}, as this "
            f"process may have {files} files open (ulimit -Hn); for more, {RAISE_THE_LIMIT}"
        )
    return bounds


def check_disks(home: Path) -> None:
    """Check that there is room in the home for state and logs, and some shared memory for HAProxy.

    Raises:
        StoreError: when there is not.
    """
    reason = shortage(home, _HOME_BYTES)
    if reason:
        raise StoreError(
            f"{home}: the disk is full ({reason}); free some, or name another directory with --home"
        )
    if _SHARED_MEMORY.is_dir():
        # HAProxy keeps the messages of its start there, and dies without a word where it cannot.
        reason = shortage(_SHARED_MEMORY, _EDGE_BYTES)
        if reason:
            raise StoreError(f"{_SHARED_MEMORY} is full ({reason}): remove what is in it, or make it larger")


def run_bytes() -> int:
    """Return how much room the run directory needs, for Ray's objects too where shared memory is small."""
    return _RUN_BYTES + (OBJECT_STORE_BYTES if shortage(_SHARED_MEMORY, OBJECT_STORE_BYTES) else 0)

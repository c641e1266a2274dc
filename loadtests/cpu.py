"""CPU time of processes (Linux: from /proc, in ticks of 10 ms)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_LOOK_SECONDS = 0.2
_IDLE_SHARE = 0.3
_PATIENCE_SECONDS = 10

Processes = Callable[[], Iterable[int]]


def seconds(processes: Iterable[int]) -> float:
    """User and system time of processes so far; one that is gone counts nothing."""
    return sum(_seconds(process) for process in processes)


def settle(processes: Processes) -> None:
    """Wait until they are idle: calls whose caller left are still being worked on."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    before = seconds(processes())
    while time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        now = seconds(processes())
        if now - before < _IDLE_SHARE * _LOOK_SECONDS:
            return
        before = now


def _seconds(process: int) -> float:
    try:
        text = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK

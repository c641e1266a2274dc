"""CPU time and memory of processes (Linux: from /proc)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LOOK_SECONDS = 0.2
_IDLE_SHARE = 0.3
_PATIENCE_SECONDS = 10

Processes = Callable[[], Iterable[int]]


def cpu_seconds(processes: Iterable[int]) -> float:
    """Return the user and system time of processes, to 10 ms; a process that is gone counts 0."""
    return sum(_cpu_seconds(process) for process in processes)


def pss_mib(processes: Iterable[int]) -> float:
    """Return the resident memory of processes in MiB; a shared page counts once (Pss of smaps_rollup)."""
    return sum(_pss_kib(process) for process in processes) / 1024


def rss_mib(processes: Iterable[int]) -> float:
    """Return the resident memory of processes in MiB; a shared page counts for each process."""
    return sum(_rss_pages(process) for process in processes) * _PAGE / 2**20


def settle(processes: Processes) -> None:
    """Wait until processes are idle: they may still compute for callers that have left."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    before = cpu_seconds(processes())
    while time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        now = cpu_seconds(processes())
        if now - before < _IDLE_SHARE * _LOOK_SECONDS:
            return
        before = now


def _cpu_seconds(process: int) -> float:
    with suppress(OSError):
        text = Path(f"/proc/{process}/stat").read_text(errors="replace")
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK
    return 0.0


def _pss_kib(process: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def _rss_pages(process: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return 0

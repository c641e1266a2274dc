"""Which processes belong to one, and their end (Linux: read from /proc)."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import defaultdict
from pathlib import Path


def descendants(root: int) -> dict[int, str]:
    """The children of a process, theirs, and so on, each with its start time (ids are used again)."""
    children: dict[int, list[int]] = defaultdict(list)
    started: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(entry.name))
        if fields is not None:
            started[int(entry.name)] = fields[1]
            children[fields[0]].append(int(entry.name))
    found: dict[int, str] = {}
    waiting = list(children[root])
    while waiting:
        process = waiting.pop()
        found[process] = started[process]
        waiting += children[process]
    return found


def end_all(processes: dict[int, str], seconds: float) -> list[int]:
    """Wait for processes to end, and kill those that do not; returns whom it killed."""
    deadline = time.monotonic() + seconds
    while alive := [process for process, start in processes.items() if _lives(process, start)]:
        if time.monotonic() > deadline:
            for process in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            return alive
        time.sleep(0.05)
    return []


def _lives(process: int, start: str) -> bool:
    fields = _stat(process)
    return fields is not None and fields[1] == start and fields[2] != "Z"


def _stat(process: int) -> tuple[int, str, str] | None:
    """Parent, start time and state of a process, None when it is gone (proc(5), /proc/pid/stat)."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), fields[19], fields[0]

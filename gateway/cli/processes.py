"""The descendants of a process, and how they are ended (Linux: read from /proc)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_REAP_SECONDS = 1.0


def descendants(root: int) -> dict[int, str]:
    """Return the children of a process, their children, and so on, each with its start time.

    Linux uses ids again: only id and start time together name a process.
    """
    children: dict[int, list[int]] = defaultdict(list)
    started: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(entry.name))
        if fields is not None:
            started[int(entry.name)] = fields[1]
            children[fields[0]].append(int(entry.name))
    family: dict[int, str] = {}
    pending = list(children[root])
    while pending:
        process = pending.pop()
        family[process] = started[process]
        pending += children[process]
    return family


def end_all(processes: dict[int, str], seconds: float) -> list[int]:
    """Wait for processes to end, and kill those that do not; returns the ids of these."""
    deadline = time.monotonic() + seconds
    while alive := [process for process, start in processes.items() if _lives(process, start)]:
        if time.monotonic() > deadline:
            for process in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            return alive
        time.sleep(0.05)
    return []


def adopt_orphans() -> None:
    """Have processes become children of this one when their parent, a descendant of it, dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants(seconds: float, spared: int | None = None) -> None:
    """End every descendant of this process, also those that are started meanwhile: wait, then kill them.

    The process `spared` and its descendants are left alone.
    """
    adopt_orphans()
    while processes := _living(_descendants_but(spared)):
        end_all(processes, seconds)
        seconds = 0.1
    # Those too that had ended before.
    reap(_descendants_but(spared), _REAP_SECONDS)


def _descendants_but(spared: int | None) -> dict[int, str]:
    left_alone = set() if spared is None else {spared, *descendants(spared)}
    return {
        process: start for process, start in descendants(os.getpid()).items() if process not in left_alone
    }


def _living(processes: dict[int, str]) -> dict[int, str]:
    return {process: start for process, start in processes.items() if _lives(process, start)}


def process_state(process: int, start: str) -> str | None:
    """Return the state of a process (proc(5)) by id and start time; None when it has ended."""
    fields = _stat(process)
    return fields[2] if fields is not None and fields[1] == start and fields[2] not in "ZX" else None


def reap(processes: Iterable[int], seconds: float) -> None:
    """Wait some seconds for the end of children, so that no zombie is left (waitpid(2))."""
    deadline = time.monotonic() + seconds
    for process in processes:
        # One that is no child, or that its Popen has waited for already, raises.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(process, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
                time.sleep(0.01)


def _lives(process: int, start: str) -> bool:
    return process_state(process, start) is not None


def _stat(process: int) -> tuple[int, str, str] | None:
    """Return parent, start time and state of a process, None when it is gone (proc(5), /proc/pid/stat)."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), fields[19], fields[0]

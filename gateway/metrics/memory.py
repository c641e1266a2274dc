"""How much memory processes have (Linux: read from /proc)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(process: int | None = None) -> int:
    """Return the resident memory of a process, or of this one; 0 when it is gone (proc(5), statm)."""
    try:
        fields = Path(f"/proc/{process or 'self'}/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * _PAGE_BYTES


def total_resident_bytes(processes: Iterable[int]) -> int:
    """Return the resident memory of several processes; pages that they share count for each."""
    return sum(resident_bytes(process) for process in processes)

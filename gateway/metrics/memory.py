"""How much memory processes have (Linux: read from /proc)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from gateway.gpus.devices import Gpus

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


def family_resident_bytes() -> int:
    """Return the resident memory of this process and of all that it started, and they started."""
    return total_resident_bytes(family())


def family() -> Iterable[int]:
    """Return this process and all that it started, and they started."""
    return _family(os.getpid(), _parents())


def family_gpu_bytes(gpus: Gpus) -> int | None:
    """Return what this process, and all that it started, have of the GPUs' memory; None where it is not told.

    NVML counts processes as the machine does: within a container of its own count, it tells of none.
    """
    if not any(gpu.processes or any(part.processes for part in gpu.slices) for gpu in gpus):
        return None
    sizes = [gpus.process_bytes(process) for process in family()]
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


def _family(process: int, parents: Mapping[int, int]) -> Iterable[int]:
    yield process
    for child in [child for child, parent in parents.items() if parent == process]:
        yield from _family(child, parents)


def _parents() -> Mapping[int, int]:
    """Return the parent of each process (proc(5), stat; not every kernel has the lists of children)."""
    parents = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                text = (directory / "stat").read_text()
            except OSError:
                continue
            # The name stands in parentheses, and may have any sign in it.
            parents[int(directory.name)] = int(text.rpartition(")")[2].split()[1])
    return parents

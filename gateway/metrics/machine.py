"""How much memory this machine has, and how much of it is free (Linux: read from /proc and the cgroups).

A container's limit counts as the machine's memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_KIB = 1024
_KEPT_FREE = 20
"""The part of a machine's memory that stays free, as a divisor: Ray stops workers where 95 % are in use."""


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """Bytes of memory that this process may use.

    Files in the page cache count as free, except for what a process has mapped: a model's weights that an
    engine reads from there would be read from the disk again and again if another model took their place.
    """

    total: int
    free: int

    @property
    def reserve(self) -> int:
        """The bytes that models leave free."""
        return self.total // _KEPT_FREE


def usable_memory() -> MachineMemory:
    """Return the memory of this machine, of which models may use what is free.

    Raises OSError where it cannot be read.
    """
    machine = machine_memory()
    return MachineMemory(machine.total, max(0, machine.free - machine.reserve))


def machine_memory(root: Path = Path("/")) -> MachineMemory:
    """Return how much memory there is, by the tightest of the machine and the cgroups of this process.

    `root` is where /proc and /sys are. Raises OSError where /proc/meminfo cannot be read.
    """
    limits = [_of_machine(root), *_of_cgroups(root)]
    return MachineMemory(min(limit.total for limit in limits), min(max(0, limit.free) for limit in limits))


def is_mapped(path: Path, root: Path = Path("/")) -> bool:
    """Tell whether a process has a file mapped, under this or another name (proc(5), maps).

    Processes of other users are not seen.
    """
    status = path.stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    inode = str(status.st_ino)
    for maps in root.glob("proc/[0-9]*/maps"):
        with suppress(OSError), maps.open(encoding="utf-8", errors="replace") as lines:
            if any(line.split(None, 5)[3:5] == [device, inode] for line in lines):
                return True
    return False


def _of_machine(root: Path) -> MachineMemory:
    """Read /proc/meminfo (proc_meminfo(5))."""
    pairs = (line.split()[:2] for line in (root / "proc/meminfo").read_text().splitlines())
    sizes = {name.rstrip(":"): int(number) * _KIB for name, number in pairs}
    # Shared memory is no file, and does not count as free anyway.
    mapped = max(0, sizes.get("Mapped", 0) - sizes.get("Shmem", 0))
    return MachineMemory(sizes["MemTotal"], sizes["MemAvailable"] - mapped)


def _of_cgroups(root: Path) -> Iterator[MachineMemory]:
    """Yield the limits of this process's cgroup and those above it, of both versions of cgroups."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for directory in _upwards(root / "sys/fs/cgroup", path):
                yield from _limit(directory, "memory.max", "memory.current", "file", "file_mapped")
        elif "memory" in controllers.split(","):
            for directory in _upwards(root / "sys/fs/cgroup/memory", path):
                files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
                yield from _limit(directory, *files, "total_cache", "total_mapped_file")


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """Yield the directories of a cgroup and those above; in a container, the path may be the host's."""
    directory = mount / path.lstrip("/")
    yield from (place for place in (directory, *directory.parents) if place.is_relative_to(mount))


def _limit(directory: Path, limit: str, usage: str, cached: str, mapped: str) -> Iterator[MachineMemory]:
    """Yield the limit of one cgroup; none where it has none, or is not here."""
    with suppress(OSError, ValueError):
        # "max" is no number, which ends this.
        total, used = int((directory / limit).read_text()), int((directory / usage).read_text())
        statistics = _statistics(directory / "memory.stat")
        files = statistics.get(cached, 0) - statistics.get("shmem", statistics.get("total_shmem", 0))
        reclaimable = max(0, files - statistics.get(mapped, 0))
        yield MachineMemory(total, total - used + reclaimable)


def _statistics(path: Path) -> Mapping[str, int]:
    return {name: int(number) for name, number in (line.split() for line in path.read_text().splitlines())}

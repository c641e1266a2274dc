"""How much memory a worker's process may take: more is refused by the kernel, so that only a call fails.

The kernel counts what the process has reserved for itself alone to write to (`RLIMIT_DATA`, `VmData`),
resident or not: the heap, stacks and buffers, but no mapped weights and no libraries. A bound of the address
space would count those too. Engines take memory that they are refused for an error of the call. Other
threads, such as Ray's, would not live through it. So before the last of it is used up, the worker gets a
reserve and is replaced.

On GPUs, drivers reserve more than they use; there the resident memory is watched, and nothing is refused.
"""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

from gateway.errors import UnusableModel

_MIB = 1024 * 1024
_RESERVE = 256 * _MIB
_PAUSE = 0.25
_STATUS = Path("/proc/self/status")


class MemoryLimit:
    """The bound of this process, in bytes, and of those that it starts from now on."""

    def __init__(self, memory: int, has_gpu: bool) -> None:
        self._memory = memory
        self._has_gpu = has_gpu
        reserved, resident = _usage()
        # What is reserved and never used, such as most of each stack, is not held against the model.
        self._limit = memory + max(0, reserved - resident)
        if not has_gpu:
            self._set(self._limit)

    @property
    def left(self) -> int:
        """How many bytes may still be taken."""
        reserved, resident = _usage()
        return self._memory - resident if self._has_gpu else self._limit - reserved

    @property
    def is_used_up(self) -> bool:
        """Whether so little is left that what is no call may be refused memory, too."""
        return self.left < min(self._memory // 20, 64 * _MIB)

    def check_loaded(self, reference: object) -> None:
        """Raise UnusableModel where a model that was just loaded leaves too little for any call."""
        if self.is_used_up:
            raise UnusableModel(f"{reference}: loaded, the model leaves nothing of {self}")

    def __str__(self) -> str:
        return f"the {self._memory // _MIB} MiB of `resources.memory`; give it more"

    def release(self) -> None:
        """Allow more, for what is to be done before the process ends."""
        if not self._has_gpu:
            self._set(self._limit + _RESERVE)

    async def used_up(self) -> str:
        """Return that the memory is used up, once it is; the process has a reserve then."""
        while not self.is_used_up:
            await asyncio.sleep(_PAUSE)
        self.release()
        return f"it has used up {self}"

    @staticmethod
    def _set(limit: int) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


def _usage() -> tuple[int, int]:
    """Return how many bytes this process has reserved to write to, and how many of its own are resident."""
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)

    def size(name: str) -> int:
        return int(fields[name].split()[0]) * 1024

    # Not every kernel tells what is resident and no file's.
    return size("VmData"), size("RssAnon" if "RssAnon" in fields else "VmRSS")

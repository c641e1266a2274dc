"""What the GPUs of this machine have and do, as the driver's own command tells it."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_PROGRAM = "nvidia-smi"
_FIELDS = ("index", "uuid", "memory.total", "memory.used", "utilization.gpu")
_SECONDS = 20.0  # it takes some where the driver is not loaded yet
_FRESH_SECONDS = 10.0
_MIB = 1024 * 1024
_PERCENT = 100.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; None for what it does not tell."""

    index: str
    uuid: str
    memory_bytes: int | None
    used_bytes: int | None
    utilization: float | None
    """The part of the last moment in which it computed."""


class GpuWatch:
    """The GPUs as they were a moment ago, for who asks often: the command is run in a thread of its own.

    `read` is what asks for them. Where there is no driver, nothing is ever run.
    """

    def __init__(self, read: Callable[[], tuple[Gpu, ...]] | None = None) -> None:
        self._read = read or (gpus if shutil.which(_PROGRAM) else None)
        self._lock = threading.Lock()
        self._gpus: tuple[Gpu, ...] = ()
        self._told_at = float("-inf")
        self._is_asking = False

    def latest(self) -> tuple[Gpu, ...]:
        """Return what was told last, and have it be asked for anew where that is old."""
        now = time.monotonic()
        with self._lock:
            # A command that hangs holds up no scrape, and no second one is run beside it.
            if self._read is not None and not self._is_asking and now - self._told_at > _FRESH_SECONDS:
                self._is_asking = True
                threading.Thread(target=self._ask, args=(self._read,), name="gpus", daemon=True).start()
            return self._gpus

    def _ask(self, read: Callable[[], tuple[Gpu, ...]]) -> None:
        latest = read()
        with self._lock:
            self._gpus, self._told_at, self._is_asking = latest, time.monotonic(), False


def gpus() -> tuple[Gpu, ...]:
    """Return each GPU of this machine; none where it has none, or no driver of NVIDIA's."""
    return tuple(_parsed(_query(*_FIELDS)))


def gpu_memory() -> list[int]:
    """Return the free bytes of each GPU of this machine; none where it has none, or no driver of NVIDIA's."""
    # A GPU that does not tell has a word in place of the number.
    lines = _query("memory.free").split("\n")
    return [int(line) * _MIB for line in lines if line.strip().isdigit()]


def _query(*fields: str) -> str:
    command = (_PROGRAM, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout


def _parsed(text: str) -> Iterator[Gpu]:
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(_FIELDS):
            continue
        index, uuid, *numbers = fields
        total, used, percent = (int(number) if number.isdigit() else None for number in numbers)
        size, used_size = (None if mib is None else mib * _MIB for mib in (total, used))
        utilization = None if percent is None else percent / _PERCENT
        yield Gpu(index, uuid, size, used_size, utilization)

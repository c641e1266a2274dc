"""The GPUs of a node's workers: which one each gets before its engine loads, by the memory that is free.

Each worker has a claim, a file that it keeps locked for as long as it lives: on which GPUs it is, and how
many bytes of them it may still take. What it has taken is no longer free, by NVML.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.files import locked_in_shared, read_held
from gateway.gpus.devices import Gpus
from gateway.gpus.nvml import read_gpus
from gateway.gpus.placement import Claim, Demand, Device, Unplaced, cuda_environment, describe, place

GPU_DIRECTORY = "gpus"
"""Where in a home the claims are."""
_LOCK = "lock"
_PAUSE = 0.5
_MAX_BYTES = 4096
_WAIT_SECONDS = 30.0
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(slots=True)
class Placed:
    """The GPUs of this worker; `file` is its claim, which is held until the process ends."""

    devices: tuple[Device, ...]
    demand: Demand
    file: int
    read: Callable[[], Gpus]

    @property
    def names(self) -> str:
        """How people are told of them."""
        return ", ".join(map(describe, self.devices))

    def used(self, processes: Iterable[int]) -> int | None:
        """Return the bytes that processes have on GPUs.

        Where NVML tells of no processes, as in a container: what all have taken since; None where that is not
        told either.
        """
        now = self.read()
        sizes = [size for process in processes if (size := now.process_bytes(process)) is not None]
        if sizes:
            return sum(sizes)
        frees = [(device.free, now.device(device.uuid)) for device in self.devices]
        taken = [
            before - after.free
            for before, after in frees
            if before is not None and after is not None and after.free is not None
        ]
        return max(0, sum(taken)) if len(taken) == len(self.devices) else None

    def loaded(self, used: int | None) -> None:
        """Write down how much of its share this worker has taken, as it is no longer free."""
        size = self.demand.size or 0
        each = (used or 0) // max(1, len(self.devices))
        _write(self.file, Claim(_uuids(self.devices), max(0, size - each), self.demand.is_whole))

    def release(self) -> None:
        """Give the GPUs back."""
        os.close(self.file)


class GpuAdmission:
    """The claims on a node's GPUs, in `directory`.

    Args:
        directory: where they are.
        read: tells of the GPUs.
        environment: that of this process, by which CUDA finds its GPUs.
        visible: the GPUs that may be used at all, as CUDA_VISIBLE_DEVICES names them; None: all.
        waits: called, more than once, with the reason, while there is no room.
    """

    def __init__(
        self,
        directory: Path,
        read: Callable[[], Gpus] = read_gpus,
        environment: MutableMapping[str, str] = os.environ,
        visible: str | None = None,
        waits: Callable[[str], None] = lambda _: None,
        wait_seconds: float = _WAIT_SECONDS,
    ) -> None:
        self._directory = directory
        self._read = read
        self._environment = environment
        self._visible = visible
        self._waits = waits
        self._wait_seconds = wait_seconds

    def admit(self, demand: Demand, *, is_reserved: bool) -> Placed | None:
        """Claim GPUs, and have CUDA see these alone; None where Ray chose them and NVML does not know them.

        Waits a while for room, where versions that nobody calls may make some.

        Args:
            demand: what the worker is to get.
            is_reserved: whether Ray has chosen the GPUs, and named them in the environment.

        Raises:
            Unplaced: where there is no GPU with the room.
        """
        if is_reserved:
            names = tuple(name for name in self._environment.get(_VISIBLE, "").split(",") if name)
            gpus = self._read()
            if not names or any(gpus.device(name) is None for name in names):
                return None
            demand = Demand(demand.size, demand.terms, names, demand.is_whole)
        end = time.monotonic() + self._wait_seconds
        while True:
            try:
                return self._claim(demand)
            except Unplaced as error:
                if not error.may_pass or time.monotonic() > end:
                    raise
                self._waits(str(error))
            time.sleep(_PAUSE)

    def _claim(self, demand: Demand) -> Placed:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked_in_shared(self._directory / _LOCK):
            gpus = self._read()
            devices = place(demand, gpus, list(self._claims()), self._visible)
            file, _ = tempfile.mkstemp(dir=self._directory)
            fcntl.flock(file, fcntl.LOCK_EX)
            # One whose need nobody knows may take all that is free.
            is_whole = demand.is_whole or demand.size is None
            _write(file, Claim(_uuids(devices), demand.size or 0, is_whole))
        self._environment.update(cuda_environment(devices, gpus))
        return Placed(devices, demand, file, self._read)

    def _claims(self) -> Iterator[Claim]:
        """Yield the claims of workers that live; remove the others."""
        for path in self._directory.iterdir():
            if path.name == _LOCK:
                continue
            try:
                claim = _read_claim(path)
            except ValueError:
                # A worker's kit may have put anything there, a directory too, which is left.
                with suppress(OSError):
                    path.unlink()
            else:
                if claim is not None:
                    yield claim


def _uuids(devices: tuple[Device, ...]) -> tuple[str, ...]:
    return tuple(device.uuid for device in devices)


def _write(file: int, claim: Claim) -> None:
    text = json.dumps({"devices": claim.devices, "size": claim.size, "whole": claim.is_whole})
    os.pwrite(file, text.ljust(_MAX_BYTES // 4).encode(), 0)


def _read_claim(path: Path) -> Claim | None:
    """Return a claim; None where it is gone.

    Raises:
        ValueError: when nobody holds it, or it is none.
    """
    text = read_held(path, _MAX_BYTES)
    if text is None:
        return None
    try:
        document = json.loads(text)
        return Claim(tuple(map(str, document["devices"])), int(document["size"]), bool(document["whole"]))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("no claim") from error

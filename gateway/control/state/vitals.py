"""How the gateway itself and its machine are: what its metrics tell beside models and calls."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from gateway.control.state.database import State
from gateway.control.state.status import Status
from gateway.errors import EdgeError
from gateway.files import read_regular
from gateway.gpus.watch import GpuWatch
from gateway.logs.counts import LineCounts
from gateway.metrics.control_plane import ControlPlaneSample
from gateway.metrics.machine import MachineMemory, machine_memory


class Reconciling(Protocol):
    """What a reconcile loop tells of itself."""

    status: Status
    succeeded_at: float
    failures: int


class Vitals:
    """The gateway of a home; safe to use from several threads.

    Args:
        home: its directory.
        loop: its reconcile loop.
        state: its state.
        lines: what counts the lines of its log.
        certificates: the PEM files in use by where they are used; those that are not there are left out.
    """

    def __init__(
        self,
        home: Path,
        loop: Reconciling,
        state: State,
        lines: LineCounts,
        certificates: Mapping[str, Path | bytes],
    ) -> None:
        self._home = home
        self._loop = loop
        self._state = state
        self._lines = lines
        self._certificates = certificates
        self._gpus = GpuWatch()
        self._started = time.time()

    def sample(self) -> ControlPlaneSample:
        """Return how all is now; what cannot be read is left out."""
        return ControlPlaneSample(
            started=self._started,
            reconciled=self._loop.succeeded_at,
            failed_ticks=self._loop.failures,
            state_errors=self._state.errors,
            generation=self._state.generation,
            observed_generation=self._loop.status.generation,
            log_lines=self._lines.totals(),
            certificate_ends=dict(self._certificate_ends()),
            disk=_disk(self._home),
            memory=_memory(),
            gpus=self._gpus.latest(),
        )

    def _certificate_ends(self) -> dict[str, float]:
        if not self._certificates:
            return {}
        # Imported here: without TLS, nothing reads certificates.
        from gateway.edge.certificates import first_end

        ends = {}
        for port, pem in self._certificates.items():
            with suppress(OSError, EdgeError):
                ends[port] = first_end(read_regular(pem) if isinstance(pem, Path) else pem).timestamp()
        return ends


def _disk(directory: Path) -> tuple[int, int] | None:
    """Return the size of a directory's file system, and what its user may fill of it, in bytes."""
    try:
        status = os.statvfs(directory)
    except OSError:
        return None
    return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize


def _memory() -> MachineMemory | None:
    try:
        return machine_memory()
    except OSError:
        return None

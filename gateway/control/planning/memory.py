"""How much memory workers take now, and with another config: what is measured, and what files tell. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.contract import Announcement
from gateway.control.planning.documents import MemoryPlan, MemoryUse, ModelPlan, Source
from gateway.control.state.snapshot import Observed, Recorded
from gateway.control.state.versions import Version
from gateway.metrics.machine import MachineMemory


def memory_use(version: Version, estimate: int | None, recorded: Recorded, observed: Observed) -> MemoryUse:
    """Return what the workers of a version take, or will.

    Args:
        version: the version.
        estimate: what its model takes by its files, in bytes; None where they do not tell it.
        recorded: what is remembered.
        observed: the workers that there are.
    """
    own = _measured(observed, [version.app])
    same_kit = [
        app
        for app, other in recorded.versions.items()
        if (other.model, other.digest) == (version.model, version.digest)
    ]
    measured = own or _measured(observed, same_kit)
    if measured:
        each: int | None = sum(worker.memory_bytes for worker in measured) // len(measured)
        source = Source.MEASURED
    else:
        each, source = estimate, Source.UNKNOWN if estimate is None else Source.ESTIMATED
    is_new = version.app not in observed.apps
    scaling = version.serving.scaling
    workers = scaling.first if is_new else min(max(len(own), scaling.min), scaling.max)
    return MemoryUse(version.model, version.label, workers, each, source, is_new)


def memory_plan(observed: Observed, models: Iterable[ModelPlan], machine: MachineMemory | None) -> MemoryPlan:
    """Return what all workers take together, before and after."""
    uses = [use for model in models for use in model.memory]
    before = sum(worker.memory_bytes for worker in observed.workers)
    return MemoryPlan(
        before=before,
        during=before + _total(use for use in uses if use.is_new),
        after=_total(uses),
        unknown=tuple(dict.fromkeys(use.model for use in uses if use.bytes_each is None)),
        free=None if machine is None else machine.free,
        total=None if machine is None else machine.total,
    )


def _measured(observed: Observed, apps: Sequence[str]) -> list[Announcement]:
    return [worker for worker in observed.workers if worker.app in apps and worker.memory_bytes]


def _total(uses: Iterable[MemoryUse]) -> int:
    return sum(use.workers * use.bytes_each for use in uses if use.bytes_each is not None)

"""New versions, judged before a worker is started for them: what cannot be served is refused at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence
from functools import partial
from pathlib import Path

from gateway.control.loop.library import open_library
from gateway.control.loop.tasks import Tasks
from gateway.control.state.database import State
from gateway.control.state.versions import Kind, Version
from gateway.errors import KitError, KitserveError, UnusableModel
from gateway.gpus.devices import Gpus
from gateway.gpus.nvml import read_gpus
from gateway.gpus.placement import Unplaced, place
from gateway.kits.examination import Examined, examine, is_small
from gateway.kits.gpu_memory import gpu_demand
from gateway.kits.kit import Kit
from gateway.kits.library import Library
from gateway.kits.memory import check_total
from gateway.kits.policy import Policy
from gateway.metrics.machine import MachineMemory, usable_memory

# A large file takes a core while it is read, and a registry that is slow holds a thread.
_THREADS = 4

log = logging.getLogger(__name__)


class Judge:
    """Judges versions, in threads of its own, as `kitserve inspect` does; those that cannot be served fail.

    Only what the kit itself is counts: where a registry is away or a disk is full, the worker finds out, and
    says what is wrong. `finished` is called after each version.
    """

    def __init__(
        self, state: State, home: Path, finished: Callable[[], None], *, is_workers_machine: bool = True
    ) -> None:
        """`is_workers_machine` is whether all workers run on this machine, so that its memory is theirs."""
        self._state = state
        self._home = home
        self._machine = usable_memory if is_workers_machine else None
        self._tasks = Tasks(_THREADS, "judge", finished)
        self._admitted: set[Kind] = set()

    def admitted(self, versions: Sequence[Version], deployed: Container[str]) -> list[Version]:
        """Return the versions that may be deployed; begin to judge the others.

        Those whose apps were `deployed` before are not judged again: a kit that answers calls stays.
        """
        self._admitted &= {version.kind for version in versions}
        admitted = []
        for version in versions:
            if version.app in deployed or version.kind in self._admitted:
                admitted.append(version)
            else:
                self._tasks.begin(("judge", version.app), partial(self._judge, version))
        return admitted

    def stop(self) -> None:
        """Judge no more."""
        self._tasks.stop()

    def _judge(self, version: Version) -> None:
        desired = self._state.desired()
        model = desired.model(version.model)
        if model is None:
            return
        try:
            machine = self._machine() if self._machine is not None else None
            if machine is not None and not model.surge:
                check_gpus(version, read_gpus())
            check_version(open_library(self._home, desired), version, model.policy, machine)
        except KitError as error:
            names = {"app": version.app, "kit": str(version.reference)}
            log.warning("version.refused", extra={**names, "reason": str(error)})
            self._state.fail(version.kind, desired.generation, str(error))
            return
        except (KitserveError, OSError) as error:
            # A worker finds out what could not be found out here.
            log.info("version.not_judged", extra={"app": version.app, "reason": str(error)})
        self._admitted.add(version.kind)


def check_version(
    library: Library, version: Version, policy: Policy, machine: MachineMemory | None = None
) -> None:
    """Check that a version can be served, as far as it is known without its model's engine.

    A kit that is large and not on this node is not fetched: of it, only what its manifest and Kitfile say is
    known. `machine` is the memory that its workers have, None where that is not known here; whether enough of
    it is free is found out by each worker.

    Raises:
        KitError: where it cannot be served.
        KitserveError: where that cannot be found out, as `Library.open` raises it.
    """
    kit = library.describe(version.reference.reference, policy, parents=version.parent_references)
    if is_small(library, kit):
        examine_version(library, kit, version, policy, machine)
    else:
        library.judge(kit, policy)


def check_gpus(version: Version, gpus: Gpus) -> None:
    """Check that a version could have a GPU if all were empty, before the one that it follows is stopped.

    Raises:
        UnusableModel: where there is no such GPU.
    """
    resources = version.serving.resources
    if not resources.wants_gpu or resources.may_use_cpu or resources.reserved_gpus:
        return
    try:
        place(gpu_demand(resources, None, None), gpus, ())
    except Unplaced as error:
        if not error.may_pass:
            raise UnusableModel(f"{version.reference}: {error}") from error


def examine_version(
    library: Library, kit: Kit, version: Version, policy: Policy, machine: MachineMemory | None = None
) -> Examined:
    """Bring a version's kit to this node and check it, see `check_version`; the kit is not kept leased."""
    examined = examine(
        library, kit, policy, runtime=version.runtime, file=version.file, serving=version.serving
    )
    examined.unpacked.lease.release()
    if machine is not None and examined.need is not None and not version.serving.resources.wants_gpu:
        check_total(examined.unpacked, examined.need, machine)
    return examined

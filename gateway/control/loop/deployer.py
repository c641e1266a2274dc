"""Versions in Serve: deployed with all that their workers need to know, removed once nobody calls them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial

from gateway.contract import AppName, NodeSettings, WorkerSpec
from gateway.control.loop import ray_serve
from gateway.control.loop.starts import Starts
from gateway.control.loop.tasks import Tasks
from gateway.control.loop.watch import Watch
from gateway.control.state.database import State
from gateway.control.state.desired import Desired, DesiredModel
from gateway.control.state.versions import Version, memory_key
from gateway.edge.edge import Edge
from gateway.errors import EdgeError, KitserveError
from gateway.kits.library import Library, cache_directory
from gateway.oci.pinned import PinnedReference
from gateway.wire.limits import DRAIN_SECONDS

# A version that no route names any more keeps its workers for this long, for calls on their way to it.
_LINGER_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeploySettings:
    """What is the same for all versions of a gateway."""

    node: NodeSettings
    reserve_cpus: bool
    """Whether Ray reserves for workers the CPUs that the config names."""
    parallel_starts: int = 3
    """How many versions may start at a time, see `Starts`."""


class Deployer:
    """Has Serve start and end versions, in a thread of its own: Serve builds no two applications at a time.

    `is_awaited` tells whether held calls wait for an app; `finished` is called after each task.
    """

    def __init__(
        self,
        state: State,
        edge: Edge,
        watch: Watch,
        settings: DeploySettings,
        is_awaited: Callable[[AppName], bool],
        finished: Callable[[], None],
    ) -> None:
        self._state = state
        self._edge = edge
        self._watch = watch
        self._settings = settings
        self._is_awaited = is_awaited
        self._tasks = Tasks(1, "serve", finished)
        self._starts = Starts(settings.parallel_starts)
        self._surplus_since: dict[AppName, float] = {}

    def deploy(self, versions: Sequence[Version]) -> None:
        """Begin to deploy versions: those that run, and so many others as may start now."""
        applications, reported = self._watch.applications(), self._watch.reported()
        for version in versions:
            if version.app not in applications and not self._starts.may_begin(version.app, reported):
                continue
            self._tasks.begin(("deploy", version.app), partial(self._deploy, version))

    def remove(self, surplus: Sequence[AppName], condemned: Set[AppName], is_off_edge: bool) -> None:
        """Begin to remove apps that nothing wants any more, once no call can be on its way to them.

        `condemned` are those that are being removed already. `is_off_edge` says whether the edge has a
        table without them.
        """
        now = time.monotonic()
        self._surplus_since = {app: self._surplus_since.get(app, now) for app in surplus}
        for app, since in self._surplus_since.items():
            if app not in condemned:
                if not is_off_edge or not self._may_go(app, now - since):
                    continue
                # Here, not in the task: no tick may route to it again before the task runs.
                self._state.condemn_version(app)
            self._tasks.begin(("delete", app), partial(self._delete, app))

    def stop(self) -> None:
        """Deploy and remove no more."""
        self._tasks.stop()

    def _may_go(self, app: AppName, surplus_seconds: float) -> bool:
        """Tell whether no held call waits for an app, and no earlier HAProxy process has calls in flight."""
        if surplus_seconds <= _LINGER_SECONDS:
            return False
        try:
            has_drained = surplus_seconds > DRAIN_SECONDS or not self._edge.old_processes()
        except EdgeError:
            return False
        return has_drained and not self._is_awaited(app)

    def _deploy(self, version: Version) -> None:
        """Have Serve run a version, or scale one that runs as the config says now."""
        desired = self._state.desired()
        model = desired.model(version.model)
        if model is None:
            return
        is_running = version.app in self._watch.applications()
        if is_running and self._state.versions().get(version.app) == version:
            # Another task has deployed it since the tick that began this one.
            return
        if not is_running:
            self._state.keep_version(version)
        spec = worker_spec(version, model, desired, self._settings.node)
        measured = self._state.gpu_memory().get(memory_key(version))
        spec = replace(spec, parents=_parents(spec), gpu_bytes=measured)
        log.info("version.deployed", extra={"app": version.app, "kit": str(version.reference)})
        ray_serve.deploy(version, spec, self._settings.reserve_cpus, is_running)
        if is_running:
            # Only now: until Serve has taken the new scaling, each tick finds that it must be told.
            self._state.keep_version(version)
        self._watch.look()

    def _delete(self, app: AppName) -> None:
        # No tick may see it in Serve once it is forgotten here.
        self._watch.look()
        if app in self._watch.applications():
            log.info("version.removed", extra={"app": app})
            ray_serve.delete(app)
            # Those that answer calls drain.
            ray_serve.kill_starting(app, self._watch.started(app))
            self._watch.look()
        else:
            self._state.drop_version(app)


def worker_spec(version: Version, model: DesiredModel, desired: Desired, node: NodeSettings) -> WorkerSpec:
    """Return what a worker of a model's version needs to know, but for parents that no config says."""
    return WorkerSpec(
        app=version.app,
        model=version.model,
        reference=version.reference,
        parents=version.parents,
        runtime=version.runtime,
        file=version.file,
        serving=version.serving,
        golden=None if model.plan is None else model.plan.golden,
        policy=model.policy,
        sources=desired.sources,
        cache_limit=desired.cache_limit,
        # Which calls are logged may have changed since the gateway was started.
        node=replace(node, access_log=desired.fixed.logged if desired.fixed.access_log else node.access_log),
    )


def _parents(spec: WorkerSpec) -> tuple[PinnedReference, ...]:
    """Return a kit's parents as they were when it was resolved, so that all its workers use the same ones."""
    library = Library(cache_directory(spec.node.home), spec.sources, spec.cache_limit)
    try:
        pinned = [parent.reference for parent in spec.parents]
        kit = library.describe(spec.reference.reference, spec.policy, parents=pinned)
    except KitserveError as error:
        # The workers find out for themselves, and say what is wrong.
        log.warning("parents.unknown", extra={"app": spec.app, "reason": str(error)})
        return spec.parents
    return tuple(PinnedReference(parent.reference) for parent in kit.parents)

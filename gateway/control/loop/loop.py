"""The reconcile loop: read, decide, write, act, and again.

One thread ticks. What takes long (asking registries, Serve) is done by a few others, one task for one
subject at a time, so that a tick never waits: a worker that announces itself is at the edge at once.
Everything is level-triggered: what fails or is forgotten is seen again at the next tick.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from gateway.control.loop import serving
from gateway.control.loop.deployer import Deployer, WorkerSettings
from gateway.control.loop.reconcile import Plan, reconcile
from gateway.control.loop.resolver import Resolver
from gateway.control.loop.serving import Application
from gateway.control.loop.watch import Watch
from gateway.control.rollouts.driver import Rollouts
from gateway.control.state.database import State
from gateway.control.state.snapshot import Known, Observed
from gateway.control.state.status import Status
from gateway.control.state.versions import kind_of
from gateway.control.state.workers import Workers, ready_workers
from gateway.edge.edge import Edge
from gateway.edge.routes import RoutingTable
from gateway.errors import EdgeError
from gateway.rollout.state import Phase

_TICK_SECONDS = 0.5
_EDGE_SECONDS = 5.0
_WARM_UP_LEAST_SECONDS = 3.0
_WARM_UP_MOST_SECONDS = 15.0

log = logging.getLogger(__name__)


class ReconcileLoop:
    """Makes what runs here what the config asks for."""

    def __init__(
        self,
        state: State,
        workers: Workers,
        edge: Edge,
        rollouts: Rollouts,
        settings: WorkerSettings,
        is_awaited: Callable[[str], bool],
    ) -> None:
        self._state = state
        self._workers = workers
        self._edge = edge
        self._rollouts = rollouts
        self._watch = Watch(workers, serving.applications, self.wake)
        self._resolver = Resolver(state, settings.home, self.wake)
        self._deployer = Deployer(state, edge, self._watch, settings, is_awaited, self.wake)
        self._started = time.monotonic()
        self._warm = False
        self._last_words: dict[str, str] = {}
        # Kept from one look to the next: Serve forgets it while a version fails to wake.
        self._proven: frozenset[str] = frozenset()
        self._applied: RoutingTable | None = None
        self._applied_at = float("-inf")
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self.status = Status()
        self.beat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)

    def start(self, has_workers: bool) -> None:
        """Begin to tick; where workers may run from before, act once they were heard again."""
        self._warm = not has_workers
        self._watch.start()
        self._thread.start()

    def stop(self) -> None:
        """End after the tick in progress."""
        self._watch.stop()
        self._stopping.set()
        self._wake.set()
        self._thread.join(10)
        self._resolver.stop()
        self._deployer.stop()

    def wake(self) -> None:
        """Tick now: something has changed."""
        self._wake.set()

    def tick(self) -> None:
        """Look at everything once, and start what is to be done."""
        self.beat = time.monotonic()
        applications = self._watch.applications()
        observed = self._observe(applications)
        self._note_failures(applications, observed)
        known = self._known()
        if not self._is_warm(known, observed):
            self._end_failed(known)
            return
        late = frozenset(news.app for news in self._workers.late())
        known = replace(known, rollouts=self._rollouts.tick(known, observed, late))
        plan = reconcile(known, observed)
        if plan.routed != known.routed:
            self._state.route(plan.routed)
        trouble = self._route(plan.table)
        self._begin(plan, known)
        self.status = Status(known.desired.generation, plan.models, trouble)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self.tick()
            except Exception as error:
                log.exception("tick.failed")
                self.status = replace(self.status, trouble=str(error) or type(error).__name__)
            self._wake.wait(_TICK_SECONDS)

    def _known(self) -> Known:
        desired = self._state.desired()
        return Known(
            desired=desired,
            pins=self._state.pins(desired.generation),
            notes=self._state.notes(desired.generation),
            failures=self._state.failures(),
            versions=self._state.versions(),
            routed=self._state.routed(),
            condemned=self._state.condemned(),
        )

    def _observe(self, applications: Mapping[str, Application]) -> Observed:
        workers = self._workers.present()
        answering = {worker.app for worker in ready_workers(workers)}
        proven = {app for app, application in applications.items() if application.was_ready}
        self._proven = (self._proven | answering | proven) & applications.keys()
        troubles = {app: application.trouble for app, application in applications.items()}
        return Observed(troubles, workers, self._proven)

    def _note_failures(self, applications: Mapping[str, Application], observed: Observed) -> None:
        """A version that fails before it ever answered is given up; one that did is left to Serve."""
        told = {news.app: news.detail for news in self._workers.take_failed()}
        given_up = {
            app: application.trouble for app, application in applications.items() if application.gave_up
        }
        if not told and not given_up:
            return
        self._last_words |= told
        answering = {worker.app for worker in ready_workers(observed.workers)}
        answered = {app for at in self._state.routed().values() for app in (at.stable, at.canary)}
        for app in told.keys() & answered:
            log.warning("worker.failed", extra={"app": app, "reason": told[app]})
        # One that fails to wake is tried again by the next call.
        sleepers = {app for app in given_up if self._may_sleep(app, observed)} & answered
        failed = {*given_up, *told.keys() - answered} - sleepers - answering - self._state.condemned()
        generation = self._state.desired().generation
        for app in failed:
            reason = self._last_words.pop(app, "") or given_up[app]
            log.warning("version.failed", extra={"app": app, "reason": reason})
            self._state.fail(kind_of(app), generation, reason)
            self._state.condemn_version(app)

    def _is_warm(self, known: Known, observed: Observed) -> bool:
        """Whether to act: a config was applied, and after a restart the workers were heard again."""
        if not self._state.is_configured():
            return False
        if not self._warm:
            age = time.monotonic() - self._started
            routed = {app for at in known.routed.values() for app in (at.stable, at.canary) if app}
            heard = {worker.app for worker in ready_workers(observed.workers)}
            heard |= {app for app in routed if self._may_sleep(app, observed)}
            self._warm = age > _WARM_UP_MOST_SECONDS or (age > _WARM_UP_LEAST_SECONDS and routed <= heard)
        return self._warm

    def _end_failed(self, known: Known) -> None:
        """Abort rollouts as people order it, before the workers were heard that a whole table is made of."""
        for model, at in known.routed.items():
            rollout = self._rollouts.get(model)
            if at.canary is not None and rollout is not None and rollout.phase is Phase.DEGRADED:
                self._edge.end_canary(model)

    def _may_sleep(self, app: str, observed: Observed) -> bool:
        version = self._state.versions().get(app)
        return version is not None and observed.may_sleep(version)

    def _route(self, table: RoutingTable) -> str:
        """Bring the table to the edge when it changed, and now and then in any case."""
        now = time.monotonic()
        if table == self._applied and now - self._applied_at < _EDGE_SECONDS:
            return ""
        try:
            self._edge.apply(table)
        except (EdgeError, OSError) as error:
            log.warning("edge.failed", extra={"reason": str(error)})
            self._applied = None
            return str(error)
        if table != self._applied:
            log.info("routes.applied", extra={"routes": _summary(table)})
        self._applied, self._applied_at = table, now
        return ""

    def _begin(self, plan: Plan, known: Known) -> None:
        """Begin what takes long."""
        self._resolver.resolve(plan.resolve, known.desired.generation)
        self._resolver.follow(known)
        self._deployer.deploy(plan.deploy)
        self._deployer.remove(plan.surplus, known.condemned, is_off_edge=self._applied == plan.table)


def _summary(table: RoutingTable) -> dict[str, dict[str, int]]:
    """Each model's versions and their percent, for the log."""
    return {
        route.model: {
            backend.version: (route.weight if backend is route.canary else route.stable_weight)
            for backend in route.backends()
        }
        for route in table.routes
    }

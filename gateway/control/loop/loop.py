"""The reconcile loop: it makes what runs here what the config asks for.

A tick comes every half second, or every second where nothing is under way, and at once when something has
changed. Its steps:

    observe    what Serve runs, and which workers report; versions that failed are given up
    remember   the config in force, what its references mean, the versions and the routes, from the state
    roll out   rollouts take what is observed as events (control/rollouts/driver.py), and are saved
    decide     what to do next: pure, see reconcile.py
    route      save the routes, then bring their table to the edge
    begin      resolve references, judge and deploy versions, remove surplus ones: tasks in other threads
    report     the status of all models, for the admin API

Who does what, in which thread:

    reconcile     this loop: it alone decides, writes the routes, condemns apps and changes HAProxy
    watch (2)     ask Serve each second what it runs; ask silent workers whether they still listen
    resolve (32)  ask registries what references mean, and note it in the state
    judge (4)     check that new versions can be served, as far as that is known without a worker
    serve (1)     has Serve deploy and delete: Serve builds no two applications at a time
    others        hear workers and the admin API's callers, note what they say, and `wake` the loop

Rules:

1. Level-triggered: a tick goes by how things are, not by what changed. What fails, or is forgotten in a
   crash, is seen again at the next tick and begun again.
2. A tick waits for the database and for HAProxy's socket, and for nothing else. So a worker that reports
   that it is ready is at the edge at once, whatever a registry or Serve is busy with.
3. What is decided is saved before it is done: a route before the edge takes it, a version before Serve
   deploys it, that an app is condemned before Serve deletes it. Other scaling of an app that runs is saved
   once Serve has taken it: until then, each tick finds that Serve must be told.
4. Nothing is routed to what is condemned, and no app's name is used again: see reconcile.py.
5. Workers come before routes and go after them. A version is condemned once the edge has the table without
   it for a moment, no HAProxy of before a reload has calls in flight, and no held call waits for it.
6. A version whose worker fails is given up until the next config, unless it takes calls already: then Serve
   starts the worker again. Where Serve gives up, so does the loop, unless the version can sleep: then the
   next call tries again. A version with another worker that is ready is never given up. What failed for a
   reason that may pass, or was stable and ready before, is tried again under the same config, after longer
   and longer pauses: see retries.py.
7. After a restart of the gateway, nothing is routed, deployed or removed before the workers have reported
   again: a table without them would take the models from their callers. Only a canary whose rollout was
   aborted ends at once.
8. A tick that raises changes nothing more: the edge goes on as it is, the status says what is wrong, and the
   next tick tries again.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gateway.contract import MAX_REST_SECONDS, Announcement, AppName, Passing
from gateway.control.loop import ray_serve
from gateway.control.loop.deployer import Deployer, DeploySettings
from gateway.control.loop.judge import Judge
from gateway.control.loop.model_status import unreachable
from gateway.control.loop.ray_serve import Application
from gateway.control.loop.reconcile import Plan, reconcile
from gateway.control.loop.resolver import Resolver
from gateway.control.loop.retries import Retries, failures_among, host_of
from gateway.control.loop.room import making_room
from gateway.control.loop.silence import Silence
from gateway.control.loop.situation import routed_apps
from gateway.control.loop.watch import Watch
from gateway.control.rollouts.driver import Rollouts
from gateway.control.state.database import State
from gateway.control.state.restarts import Restarts
from gateway.control.state.snapshot import Observed, Recorded
from gateway.control.state.status import ModelState, Status
from gateway.control.state.versions import Kind, Version
from gateway.control.state.workers import Workers, ready_workers
from gateway.edge.edge import Edge
from gateway.edge.routes import RoutingTable
from gateway.errors import EdgeError
from gateway.foreign_text import foreign_text
from gateway.rollout.state import Phase

_TICK_SECONDS = 0.5
_QUIET_TICK_SECONDS = 1.0
_AT_REST = (ModelState.READY, ModelState.ASLEEP, ModelState.FAILED)
# The edge is given its table again now and then: HAProxy may have been started again.
_EDGE_SECONDS = 5.0
# After a restart the workers report within a second or two, or when their rest is over; one that died
# meanwhile never does.
_MIN_HEARING_SECONDS = 3.0
_RESTED_SECONDS = MAX_REST_SECONDS + 2.0
_MAX_HEARING_SECONDS = 15.0
_STOP_SECONDS = 10.0

log = logging.getLogger(__name__)


class ReconcileLoop:
    """The loop in a thread of its own; `is_awaited` tells whether held calls wait for an app."""

    def __init__(
        self,
        state: State,
        workers: Workers,
        edge: Edge,
        rollouts: Rollouts,
        settings: DeploySettings,
        is_awaited: Callable[[AppName], bool],
        restarts: Restarts,
    ) -> None:
        self._state = state
        self._restarts = restarts
        self._workers = workers
        self._edge = edge
        self._rollouts = rollouts
        self._watch = Watch(workers, ray_serve.applications, self.wake)
        self._retries = Retries()
        self._resolver = Resolver(state, settings.node.home, self._retries, self.wake)
        # On a cluster, workers listen on the addresses of their nodes.
        is_single = bool(settings.node.host)
        self._judge = Judge(state, settings.node.home, self.wake, is_workers_machine=is_single)
        self._deployer = Deployer(state, edge, self._watch, settings, is_awaited, self.wake)
        self._silence = Silence()
        self.making_room: AppName | None = None
        """The version that is to sleep, as another one waits for room on a GPU."""
        self._started = time.monotonic()
        self._has_heard_workers = False
        self._failure_reports: Mapping[AppName, Announcement] = {}
        # Kept from one tick to the next: Serve forgets it while a version fails to wake.
        self._proven: frozenset[AppName] = frozenset()
        self._asleep: frozenset[AppName] = frozenset()
        self._applied: RoutingTable | None = None
        self._applied_at = float("-inf")
        self._routed: RoutingTable | None = None
        """The last table that the edge took, also where it takes no later one."""
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self.status = Status()
        """All models, as of the last tick."""
        self.view: tuple[Recorded, Observed] | None = None
        """What the last tick that acted went by; None before the first one."""
        self.beat = time.monotonic()
        """When the last tick began."""
        self.succeeded_at = 0.0
        """When the last tick came through, in seconds since 1970; 0 before."""
        self.failures = 0
        """How many ticks did not."""
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)

    def start(self, has_workers: bool) -> None:
        """Begin to tick; where workers may run from before, act once they were heard."""
        self._has_heard_workers = not has_workers
        self._watch.start()
        self._thread.start()

    def stop(self) -> None:
        """End after the tick in progress."""
        self._watch.stop()
        self._stopping.set()
        self._wake.set()
        self._thread.join(_STOP_SECONDS)
        self._resolver.stop()
        self._judge.stop()
        self._deployer.stop()

    def wake(self) -> None:
        """Tick now: something has changed."""
        self._wake.set()

    def tick(self) -> None:
        """Look at everything once, and begin what is to be done."""
        self.beat = time.monotonic()
        applications = self._watch.applications()
        reports = {worker.app: worker for worker in self._workers.take_failed()}
        observed = self._observe(applications, reports)
        self._give_up_failed(applications, observed, reports)
        recorded = self._remember()
        if not self._may_act(recorded, observed, applications):
            self._end_aborted_canaries(recorded)
            return
        late = frozenset(worker.app for worker in self._workers.late())
        recorded = replace(recorded, rollouts=self._rollouts.tick(recorded, observed, late))
        recorded = replace(recorded, fallbacks=self._rollouts.swaps.fallbacks(recorded))
        self.view = (recorded, observed)
        plan = reconcile(recorded, observed)
        if plan.routes != recorded.routes:
            self._state.save_routes(plan.routes)
        self._rollouts.swaps.look(recorded, plan.routes)
        edge_trouble = self._route(plan.table)
        self._restarts.advance(observed.workers, recorded.versions, observed.apps)
        self._make_room(recorded, observed)
        self._begin(plan, recorded)
        models = unreachable(plan.models, self._routed, edge_trouble) if edge_trouble else plan.models
        self.status = Status(recorded.desired.generation, models, edge_trouble)
        self._watch.is_quiet = not edge_trouble and _is_quiet(plan, recorded)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self.tick()
                self.succeeded_at = time.time()
            except Exception as error:
                self.failures += 1
                self._watch.is_quiet = False
                log.exception("tick.failed")
                self.status = replace(self.status, trouble=foreign_text(error) or type(error).__name__)
            self._wake.wait(_QUIET_TICK_SECONDS if self._watch.is_quiet else _TICK_SECONDS)

    def _observe(
        self, applications: Mapping[AppName, Application], reports: Mapping[AppName, Announcement]
    ) -> Observed:
        """Return what is there; `reports` are those of workers that failed since the last tick."""
        workers = self._workers.present()
        ready = {worker.app for worker in ready_workers(workers)}
        silent = self._silence.troubles(applications, workers)
        were_ready = {app for app, application in applications.items() if application.was_ready}
        versions = self._state.versions()
        for app in ready & versions.keys():
            self._retries.settle(versions[app].kind)
        self._proven = ((self._proven | ready | were_ready) & applications.keys()) - silent.keys()
        troubles = {app: silent.get(app, application.trouble) for app, application in applications.items()}
        sleepers = {app for app, version in versions.items() if version.serving.scaling.may_sleep}
        self._asleep = (self._asleep | sleepers) & (self._proven - ready)
        settled = ready | self._state.condemned()
        self._failure_reports = {
            app: report for app, report in {**self._failure_reports, **reports}.items() if app not in settled
        }
        failing = {app: report.detail for app, report in self._failure_reports.items()}
        return Observed(troubles, workers, self._proven, self._asleep, failing)

    def _give_up_failed(
        self,
        applications: Mapping[AppName, Application],
        observed: Observed,
        reports: Mapping[AppName, Announcement],
    ) -> None:
        """Note the versions that cannot be served, and condemn their apps (rule 6)."""
        given_up = {app for app, application in applications.items() if application.gave_up}
        if not reports and not given_up:
            return
        ready = {worker.app for worker in ready_workers(observed.workers)}
        routes = self._state.routes().values()
        routed, stable = routed_apps(routes), {route.stable for route in routes}
        for app in reports.keys() & routed:
            log.warning("worker.failed", extra={"app": app, "reason": reports[app].detail})
        sleepers = {app for app in given_up if self._can_be_woken(app, observed)} & routed
        failed = {*given_up, *reports.keys() - routed} - sleepers - ready - self._state.condemned()
        generation, versions = self._state.desired().generation, self._state.versions()
        for app in failed & versions.keys():
            report = self._failure_reports.get(app)
            reason = (report.detail if report else "") or applications[app].trouble
            log.warning("version.failed", extra={"app": app, "reason": reason})
            version, passing = versions[app], report.passing if report else None
            if passing is None and app in stable & observed.proven:
                # The same served before: what is wrong now, such as a lack of memory, may pass.
                passing = Passing()
            if passing is None:
                self._state.fail(version.kind, generation, reason)
                self._retries.settle(version.kind)
            else:
                host = host_of(version.reference.reference)
                self._retries.fail(version.kind, host, generation, reason, passing)
            self._state.condemn_version(app)

    def _remember(self) -> Recorded:
        desired = self._state.desired()
        self._retries.use(desired.generation)
        retries = self._retries.waiting()
        return Recorded(
            desired=desired,
            pins=self._state.pins(desired.generation),
            notes=self._state.notes(desired.generation),
            failures={**self._state.failures(), **failures_among(retries)},
            versions=self._state.versions(),
            routes=self._state.routes(),
            condemned=self._state.condemned(),
            earlier=self._state.earlier_versions(),
            retries=retries,
        )

    def _may_act(
        self, recorded: Recorded, observed: Observed, applications: Mapping[AppName, Application]
    ) -> bool:
        """Tell whether a config was applied in this start of Kitserve, and workers were heard (rule 7)."""
        if not self._state.is_configured():
            return False
        if not self._has_heard_workers:
            routed = routed_apps(recorded.routes.values())
            ready = Counter(worker.app for worker in ready_workers(observed.workers))
            silent = {app for app in routed - ready.keys() if not self._can_be_woken(app, observed)}
            may_rest = any(applications[app].running > ready[app] for app in routed & applications.keys())
            seconds = time.monotonic() - self._started
            least = _RESTED_SECONDS if may_rest else _MIN_HEARING_SECONDS
            self._has_heard_workers = seconds > (_MAX_HEARING_SECONDS if silent else least)
        return self._has_heard_workers

    def _end_aborted_canaries(self, recorded: Recorded) -> None:
        """Give no more calls to canaries whose rollout was aborted while nothing else is decided."""
        for model, route in recorded.routes.items():
            rollout = self._rollouts.get(model)
            if route.canary is not None and rollout is not None and rollout.phase is Phase.DEGRADED:
                self._edge.end_canary(model)

    def _can_be_woken(self, app: AppName, observed: Observed) -> bool:
        version = self._state.versions().get(app)
        return version is not None and observed.can_be_woken(version)

    def _route(self, table: RoutingTable) -> str:
        """Bring a table to the edge, if it is new or not confirmed of late; returns what is wrong there."""
        now = time.monotonic()
        if table == self._applied and now - self._applied_at < _EDGE_SECONDS:
            return ""
        try:
            self._edge.apply(table)
        except (EdgeError, OSError) as error:
            log.warning("edge.failed", extra={"reason": str(error)})
            self._applied = None
            return str(error)
        weights = _weights(table)
        # A table also changes with each worker that comes or goes, which is logged as that.
        if self._applied is None or weights != _weights(self._applied):
            log.info("routes.applied", extra={"routes": weights})
        self._applied = self._routed = table
        self._applied_at = now
        return ""

    def _begin(self, plan: Plan, recorded: Recorded) -> None:
        """Begin what takes long."""
        self._resolver.resolve(plan.resolve, recorded.desired.generation)
        self._resolver.follow(recorded)
        self._try_again(plan.retry)
        admitted = self._judge.admitted((*plan.deploy, *plan.swaps), recorded.versions)
        self._condemn_predecessors([version for version in admitted if version in plan.swaps], recorded)
        deployed = [version for version in admitted if version not in plan.swaps]
        self._deployer.deploy(self._restarts.scaled(deployed, recorded.versions))
        self._deployer.remove(plan.surplus, recorded.condemned, is_off_edge=self._applied == plan.table)

    def _condemn_predecessors(self, successors: Sequence[Version], recorded: Recorded) -> None:
        """Condemn the stable versions whose place others are to take, as there is room for one alone."""
        for successor in successors:
            app = recorded.routes[successor.model].stable
            if app is not None and app in recorded.versions:
                names = {"model": successor.model, "app": app, "successor": successor.app}
                log.warning("version.swapped", extra=names)
                self._rollouts.swaps.begin(recorded.versions[app], successor)
                self._state.condemn_version(app)

    def _make_room(self, recorded: Recorded, observed: Observed) -> None:
        """Choose the version that is to sleep, where a worker waits for a GPU."""
        sleeper = making_room(observed.workers, recorded.versions)
        if sleeper is not None and sleeper != self.making_room:
            log.info("version.makes_room", extra={"app": sleeper})
        self.making_room = sleeper

    def _try_again(self, versions: Sequence[Version]) -> None:
        """Have versions that failed be deployed anew, once they are due; they count as failed no longer."""
        kinds = {version.kind for version in versions}
        self._retries.forget(lambda subject: not isinstance(subject, Kind) or subject in kinds)
        for version in random.sample(versions, len(versions)):
            if self._retries.begin(version.kind, host_of(version.reference.reference)):
                log.info("version.retried", extra={"app": version.app})
                self.wake()


def _is_quiet(plan: Plan, recorded: Recorded) -> bool:
    """Tell whether nothing is under way: no rollout, whose windows are ticks, and nothing that was begun."""
    begun = (plan.resolve, plan.deploy, plan.surplus, plan.retry, recorded.condemned, recorded.retries)
    has_rollout = any(rollout.phase is not Phase.HEALTHY for rollout in recorded.rollouts.values())
    return not has_rollout and not any(begun) and all(model.state in _AT_REST for model in plan.models)


def _weights(table: RoutingTable) -> dict[str, dict[str, int]]:
    """Return each model's versions and their percent, for the log."""
    return {
        route.model: {
            backend.version: (route.weight if backend is route.canary else route.stable_weight)
            for backend in route.backends()
        }
        for route in table.routes
    }

"""The reconcile loop: read, decide, write, act, and again.

One thread ticks. What takes long (asking registries, Serve) is done by a few others, one task for one
subject at a time, so that a tick never waits: a worker that announces itself is at the edge at once.
Everything is level-triggered: what fails or is forgotten is seen again at the next tick.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from gateway.config.config import GatewayConfig
from gateway.contract import WorkerSpec
from gateway.control.loop import serving
from gateway.control.loop.reconcile import Plan, reconcile
from gateway.control.loop.watch import Watch
from gateway.control.rollouts.driver import Rollouts
from gateway.control.state.database import State
from gateway.control.state.snapshot import Known, Observed, ready
from gateway.control.state.status import Status
from gateway.control.state.versions import Version, kind_of
from gateway.control.state.workers import Workers
from gateway.edge.edge import Edge
from gateway.edge.routes import RoutingTable
from gateway.engine.limits import Batching, QueueLimits
from gateway.errors import EdgeError, KitError, KitserveError, NotTrusted, RegistryUnavailable
from gateway.kits.library import Kit, Library, cache_directory
from gateway.oci.reference import parse_reference
from gateway.rollout.state import Phase
from gateway.wire.limits import DRAIN_SECONDS
from runtimes.base import Resources

_TICK_SECONDS = 0.5
_EDGE_SECONDS = 5.0
# A registry that does not answer holds a thread for minutes; other models must find one.
_RESOLVERS = 32
_AGAIN_SECONDS = 5.0
# A version that no route names any more keeps its workers for this long, for calls on their way to it.
_LINGER_SECONDS = 1.0
_WARM_UP_LEAST_SECONDS = 3.0
_WARM_UP_MOST_SECONDS = 15.0
_RETRY_SECONDS = (2.0, 5.0, 10.0, 20.0, 40.0)

log = logging.getLogger(__name__)


class ReconcileLoop:
    """Makes what runs here what the config asks for."""

    def __init__(
        self,
        state: State,
        workers: Workers,
        edge: Edge,
        home: Path,
        worker_host: str,
        edge_key: str,
        reserve_cpus: bool,
        fresh: bool,
        is_awaited: Callable[[str], bool],
        rollouts: Rollouts,
    ) -> None:
        self._state = state
        self._workers = workers
        self._edge = edge
        self._home = home
        self._worker_host = worker_host
        self._edge_key = edge_key
        self._reserve_cpus = reserve_cpus
        self._is_awaited = is_awaited
        self._rollouts = rollouts
        self._started = time.monotonic()
        self._warm = fresh
        self._resolving = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="resolve")
        # One thread: Serve builds no two applications at a time.
        self._serving = ThreadPoolExecutor(1, thread_name_prefix="serve")
        self._running: set[str] = set()
        self._again: dict[str, float] = {}
        self._attempts: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._followed: dict[str, float] = {}
        self._surplus_since: dict[str, float] = {}
        self._last_words: dict[str, str] = {}
        self._watch = Watch(workers, serving.applications, self.wake)
        # Kept from one look to the next: Serve forgets it while a version fails to wake.
        self._proven: frozenset[str] = frozenset()
        self._applied: RoutingTable | None = None
        self._applied_at = float("-inf")
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self.status = Status()
        self.beat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)

    def start(self) -> None:
        """Begin to tick."""
        self._watch.start()
        self._thread.start()

    def stop(self) -> None:
        """End after the tick in progress."""
        self._watch.stop()
        self._stopping.set()
        self._wake.set()
        self._thread.join(10)
        for tasks in (self._resolving, self._serving):
            tasks.shutdown(wait=False, cancel_futures=True)

    def wake(self) -> None:
        """Tick now: something has changed."""
        self._wake.set()

    def tick(self) -> None:
        """Look at everything once, and start what is to be done."""
        self.beat = time.monotonic()
        observed = self._observe()
        self._note_failures(observed)
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

    def _observe(self) -> Observed:
        apps = self._watch.applications()
        workers = self._workers.present()
        answering = {worker.app for worker in ready(workers)}
        proven = {app for app, application in apps.items() if application.proven}
        self._proven = (self._proven | answering | proven) & apps.keys()
        return Observed({app: known.trouble for app, known in apps.items()}, workers, self._proven)

    def _note_failures(self, observed: Observed) -> None:
        """A version that fails before it ever answered is given up; one that did is left to Serve."""
        told = {news.app: news.detail for news in self._workers.take_failed()}
        given_up = {app: trouble for app, trouble in observed.apps.items() if serving.has_failed(trouble)}
        if not told and not given_up:
            return
        self._last_words |= told
        answering = {worker.app for worker in ready(observed.workers)}
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
            heard = {worker.app for worker in ready(observed.workers)}
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
        now = time.monotonic()
        generation = known.desired.generation
        for reference in plan.resolve:
            key = f"{generation} {reference}"
            if now >= self._not_before.get(key, 0.0):
                self._task(self._resolving, f"resolve {key}", self._resolve, reference, generation)
        self._followed = {
            subject: at for subject, at in self._followed.items() if subject.split()[1] == str(generation)
        }
        for model in known.desired.config.models:
            if model.track is not None and model.kit in known.pins:
                subject = f"follow {generation} {model.kit}"
                since = self._followed.setdefault(subject, now)
                if now - since >= model.track:
                    self._followed[subject] = now
                    self._task(self._resolving, subject, self._follow, model.kit, generation)
        for version in plan.deploy:
            self._task(self._serving, f"deploy {version.app}", self._deploy, version)
        self._surplus_since = {app: self._surplus_since.get(app, now) for app in plan.surplus}
        for app, since in self._surplus_since.items():
            if app not in known.condemned:
                if now - since <= _LINGER_SECONDS or self._applied != plan.table or not self._lets_go(since):
                    continue
                if self._is_awaited(app):
                    continue
                # Here, not in the task: no tick may route to it again before the task runs.
                self._state.condemn_version(app)
            self._task(self._serving, f"delete {app}", self._delete, app)

    def _lets_go(self, since: float) -> bool:
        """Whether no HAProxy of before a reload has calls in flight to what is surplus since then."""
        try:
            return time.monotonic() - since > DRAIN_SECONDS or not self._edge.old_processes()
        except EdgeError:
            return False

    def _task(
        self, tasks: ThreadPoolExecutor, subject: str, work: Callable[..., None], *arguments: object
    ) -> None:
        now = time.monotonic()
        if subject in self._running or now < self._again.get(subject, now):
            return
        self._running.add(subject)
        # What is not seen to be done by then is done again.
        self._again = {key: at for key, at in self._again.items() if at > now} | {
            subject: now + _AGAIN_SECONDS
        }

        def run() -> None:
            try:
                work(*arguments)
                if tasks is self._serving:
                    self._watch.look()
            except Exception:
                log.exception("task.failed", extra={"subject": subject})
            finally:
                self._running.discard(subject)
                self.wake()

        tasks.submit(run)

    def _resolve(self, kit: str, generation: int) -> None:
        """Find what a reference means now, and that it is a kit; note it, or why not."""
        desired = self._state.desired()
        library = self._library(desired.config)
        key = f"{generation} {kit}"
        try:
            found = _describe(library, kit, desired.config)
        except RegistryUnavailable as error:
            known = self._state.last_pin(kit)
            if known is not None:
                log.warning("registry.unavailable", extra={"kit": kit, "digest": known, "reason": str(error)})
                note = f"its registry did not answer, so this is what {kit} was before: {error}"
                self._state.pin(kit, known, generation, note)
                return
            attempt = self._attempts[key] = self._attempts.get(key, 0) + 1
            if attempt > len(_RETRY_SECONDS):
                self._state.fail(kit, generation, str(error))
                return
            log.warning("resolve.retried", extra={"kit": kit, "attempt": attempt, "reason": str(error)})
            self._not_before[key] = time.monotonic() + _RETRY_SECONDS[attempt - 1]
        except KitserveError as error:
            log.warning("resolve.failed", extra={"kit": kit, "reason": str(error)})
            self._state.fail(kit, generation, str(error))
        else:
            log.info("kit.resolved", extra={"kit": kit, "digest": str(found.digest)})
            self._state.pin(kit, str(found.digest), generation)

    def _follow(self, kit: str, generation: int) -> None:
        """Look whether a tag has moved; a registry that does not answer changes nothing."""
        desired = self._state.desired()
        try:
            digest = str(_describe(self._library(desired.config), kit, desired.config).digest)
        except KitserveError as error:
            log.warning("follow.failed", extra={"kit": kit, "reason": str(error)})
            return
        if desired.generation == generation and digest != self._state.pins(generation).get(kit):
            log.info("tag.moved", extra={"kit": kit, "digest": digest})
            self._state.pin(kit, digest, generation)

    def _library(self, config: GatewayConfig) -> Library:
        return Library(cache_directory(self._home), config.source_options(), config.cache.max_size)

    def _deploy(self, version: Version) -> None:
        self._state.keep_version(version)
        config = self._state.desired().config
        spec = WorkerSpec(
            app=version.app,
            model=version.model,
            version=version.label,
            digest=version.digest,
            reference=version.reference,
            parents=self._parents(version, config),
            runtime=version.runtime,
            resources=Resources(version.cpus, version.gpus),
            home=self._home,
            sources=config.source_options(),
            policy=config.policy(config.model(version.model)),
            cache_limit=config.cache.max_size,
            gateway=serving.GATEWAY_APP,
            host=self._worker_host,
            edge_key=self._edge_key,
            drain_seconds=DRAIN_SECONDS,
            limits=QueueLimits(version.max_queued_requests, version.max_queued_bytes, version.timeout),
            batching=(
                Batching(version.max_batch_size, version.max_batch_delay) if version.max_batch_size else None
            ),
        )
        log.info("version.deployed", extra={"app": version.app, "kit": version.reference})
        serving.deploy(version, spec, self._reserve_cpus)

    def _parents(self, version: Version, config: GatewayConfig) -> tuple[str, ...]:
        """Return a version's parents as they were when it was resolved, the same for all its workers."""
        policy = config.policy(config.model(version.model))
        try:
            kit = self._library(config).describe(parse_reference(version.reference), policy)
        except KitserveError as error:
            # The workers find out for themselves, and say what is wrong.
            log.warning("parents.unknown", extra={"app": version.app, "reason": str(error)})
            return ()
        return tuple(str(parent.reference) for parent in kit.parents)

    def _delete(self, app: str) -> None:
        # No tick may see it in Serve once it is forgotten here.
        self._watch.look()
        if app in self._watch.applications():
            log.info("version.removed", extra={"app": app})
            serving.delete(app)
        else:
            self._state.drop_version(app)


def _describe(library: Library, kit: str, config: GatewayConfig) -> Kit:
    """Find what a reference is, as the first of its models allows to; each worker judges for its own."""
    refusal: NotTrusted | None = None
    for policy in config.policies(kit):
        try:
            return library.describe(parse_reference(kit), policy)
        except NotTrusted as error:
            refusal = error
    raise refusal or KitError(f"{kit}: no model uses it any more")


def _summary(table: RoutingTable) -> dict[str, dict[str, int]]:
    """Each model's versions and their percent, for the log."""
    return {
        route.model: {
            backend.version: (route.weight if backend is route.canary else route.stable_weight)
            for backend in route.backends()
        }
        for route in table.routes
    }

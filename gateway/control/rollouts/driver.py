"""Rollouts as they run here: what the config asks for and what is observed becomes events of the machine.

Every state is saved before anything acts by it. The loop asks at each tick; people's orders come in
between, from the admin API. A revision is a kit's reference, pinned to its digest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace

from gateway.config.config import Model
from gateway.contract import Announcement, Description, Mirroring
from gateway.control.rollouts.golden_gate import GoldenGate
from gateway.control.rollouts.signature_gate import signature_faults
from gateway.control.rollouts.windows import NOTHING, Seen, Windows
from gateway.control.state.database import State
from gateway.control.state.rollout_status import (
    RolloutEvent,
    digest_of,
    event_from_json,
    event_to_json,
)
from gateway.control.state.snapshot import Known, Observed, version_for
from gateway.control.state.versions import Version, kind_of
from gateway.control.state.workers import ready_workers
from gateway.errors import ControlError
from gateway.oci.reference import Digest, parse_reference
from gateway.rollout.documents import rollout_from_json, rollout_to_json
from gateway.rollout.events import (
    Abort,
    Action,
    CanaryFailed,
    CanaryLost,
    CanaryReady,
    Changed,
    Event,
    GateFailed,
    GatesPassed,
    Promote,
    Refused,
    Resumed,
    Retry,
    Rollback,
    Stable,
    Target,
    Tick,
)
from gateway.rollout.evidence import Evidence
from gateway.rollout.machine import advance
from gateway.rollout.plan import Agreement, Plan
from gateway.rollout.state import LIVE, Reason, Rollout, Stage

_SAVE_SECONDS = 5.0

log = logging.getLogger(__name__)


class Rollouts:
    """All models' rollouts; safe to use from several threads.

    `describe` tells what a version's model takes and gives, None while nobody knows; `tell` is called with
    what happens, once it is saved.
    """

    def __init__(
        self,
        state: State,
        describe: Callable[[str], Description | None],
        golden: GoldenGate,
        tell: Callable[[RolloutEvent], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._describe = describe
        self._golden = golden
        self._tell = tell
        self._clock = clock
        self._lock = threading.Lock()
        self._windows = Windows()
        self._rollouts: dict[str, Rollout] = {}
        self._saved_at: dict[str, float] = {}
        self._mirroring: Mapping[str, Mirroring] = {}
        for model, document in state.rollouts().items():
            self._rollouts[model], _ = advance(rollout_from_json(document), Resumed(), clock())

    def tick(self, known: Known, observed: Observed, late: frozenset[str]) -> Mapping[str, Rollout]:
        """Bring all rollouts up to what is observed; returns those of the models that have one.

        `late` are the apps of which a worker's report is overdue.
        """
        with self._lock:
            seen = self._windows.look(observed.workers)
            planned: dict[str, tuple[Model, Plan]] = {
                model.name: (model, model.rollout.plan())
                for model in known.desired.config.models
                if model.rollout is not None
            }
            for name in [name for name in self._rollouts if name not in planned]:
                del self._rollouts[name]
                self._state.drop_rollout(name)
            for name, (model, plan) in planned.items():
                if name not in self._rollouts and not self._start(model, plan, known):
                    continue
                known = replace(known, rollouts=dict(self._rollouts))
                for event in self._asked(model, plan, known):
                    self._advance(name, event)
                known = replace(known, rollouts=dict(self._rollouts))
                for event in self._observed(model, known, observed, seen, late):
                    self._advance(name, event)
            self._mirroring = dict(self._mirrors(known, observed))
            return {name: self._rollouts[name] for name in planned if name in self._rollouts}

    def mirroring(self, app: str) -> Mirroring | None:
        """Which of an app's calls are to be mirrored, and where."""
        return self._mirroring.get(app)

    def order(self, model: str, event: Promote | Abort | Retry | Rollback) -> Rollout:
        """Do what a person asks for.

        Raises:
            ControlError: when it makes no sense now; nothing has changed then.
        """
        with self._lock:
            if model not in self._rollouts:
                raise ControlError(f"model {model} has no rollout: give it `rollout:` in the config")
            if isinstance(event, Retry):
                self._forgive(model)
            if isinstance(event, Rollback):
                event = Rollback(self._earlier(model, event.revision))
            for action in self._advance(model, event):
                if isinstance(action, Refused):
                    raise ControlError(f"model {model}: {action.message}")
            return self._rollouts[model]

    def history(self, model: str) -> list[RolloutEvent]:
        """What happened to a model's rollouts, the latest first."""
        return [event_from_json(document) for document in self._state.rollout_events(model)]

    def get(self, model: str) -> Rollout | None:
        """A model's rollout."""
        with self._lock:
            return self._rollouts.get(model)

    def _start(self, model: Model, plan: Plan, known: Known) -> bool:
        """Begin to watch a model of which a version serves already."""
        app = known.routed[model.name].stable if model.name in known.routed else None
        if app is None or app not in known.versions:
            return False
        serving = known.versions[app].reference
        # Numbers go on where a model had rollouts before, so that its history tells them apart.
        number = max((event.number for event in self.history(model.name)), default=0)
        self._rollouts[model.name] = Rollout(
            stable=serving, declared=serving, plan=plan, number=number, clock=self._clock()
        )
        self._save(model.name)
        return True

    def _asked(self, model: Model, plan: Plan, known: Known) -> Iterator[Event]:
        """What the config asks for now."""
        digest = known.pins.get(model.kit)
        rollout = self._rollouts[model.name]
        if digest is None:
            if plan != rollout.plan and rollout.declared:
                yield Target(rollout.declared, plan)
            return
        wanted = str(parse_reference(model.kit).pinned(Digest.parse(digest)))
        if wanted != rollout.stable and digest == digest_of(rollout.stable):
            # The same kit under another tag needs no trial.
            yield Stable(wanted)
        yield Target(wanted, plan)

    def _observed(
        self,
        model: Model,
        known: Known,
        observed: Observed,
        seen: Mapping[str, Seen],
        late: frozenset[str],
    ) -> Iterator[Event]:
        """What happened to a model's versions since the last tick."""
        rollout = self._rollouts[model.name]
        stable = version_for(model, rollout.stable, known)
        canary = version_for(model, rollout.trial, known) if rollout.trial else None
        if stable is None or canary is None:
            yield Tick()
            return
        reason = known.failures.get(kind_of(canary.app))
        running = ready_workers(observed.workers, canary.app)
        if reason is not None:
            yield CanaryFailed(reason)
        for _ in set(rollout.workers) - {worker.worker for worker in observed.workers}:
            yield CanaryLost("a worker of the canary died")
        if rollout.stage is Stage.LOADING and (
            len(running) >= canary.first_replicas or observed.may_sleep(canary)
        ):
            yield CanaryReady()
        if rollout.stage is Stage.GATING:
            yield from self._gates(model, stable, canary, known, running)
        trouble = ""
        if {stable.app, canary.app} & late:
            trouble = "the numbers of a worker did not come in time"
        base, trial = seen.get(stable.app, NOTHING), seen.get(canary.app, NOTHING)
        mirrored = replace(trial.mirrored, dropped=base.mirrored.dropped + trial.mirrored.dropped)
        yield Tick(
            Evidence(base.side, trial.side, mirrored, trouble),
            up=bool(running) or observed.may_sleep(canary),
            workers=tuple(sorted(worker.worker for worker in running)),
        )

    def _mirrors(self, known: Known, observed: Observed) -> Iterator[tuple[str, Mirroring]]:
        """Who is to mirror what, by app."""
        for name, rollout in self._rollouts.items():
            model = known.desired.config.model(name)
            if model is None or not rollout.mirror:
                continue
            stable, canary = (version_for(model, at, known) for at in (rollout.stable, rollout.canary))
            if stable is None or canary is None:
                continue
            targets = tuple(
                sorted((worker.host, worker.port) for worker in ready_workers(observed.workers, canary.app))
            )
            if targets:
                agreement = rollout.plan.checks.agreement or Agreement()
                yield stable.app, Mirroring(rollout.mirror, targets, agreement)

    def _gates(
        self, model: Model, stable: Version, canary: Version, known: Known, running: list[Announcement]
    ) -> Iterator[Event]:
        """The gates' verdict, once it is there."""
        rollout = self._rollouts[model.name]
        before, now = self._describe(stable.app), self._describe(canary.app)
        if before is None or now is None:
            return
        faults = signature_faults(before.signature, now.signature)
        if faults and not rollout.plan.allow_signature_change:
            message = f"{'; '.join(faults)} (allow_signature_change lets it pass)"
            yield GateFailed(Reason.SIGNATURE_CHANGED, message)
        elif rollout.plan.golden is None:
            yield GatesPassed()
        elif running:
            outcome = self._golden.ask(
                rollout.number,
                rollout.plan.golden,
                model,
                known.desired.config,
                canary,
                now.signature,
                running[0],
            )
            if outcome is not None:
                yield outcome

    def _advance(self, model: str, event: Event) -> tuple[Action, ...]:
        """Feed one event to the machine; what comes of it is saved before anybody sees it."""
        before = self._rollouts[model]
        after, actions = advance(before, event, self._clock())
        self._rollouts[model] = after
        changes = [action for action in actions if isinstance(action, Changed)]
        due = self._clock() - self._saved_at.get(model, float("-inf")) > _SAVE_SECONDS
        if changes or _timeless(after) != _timeless(before) or (due and after.stage in LIVE):
            events = tuple(self._event(model, after, change) for change in changes)
            try:
                self._save(model, events)
            except BaseException:
                self._rollouts[model] = before
                raise
            for happened in events:
                log.info("rollout.changed", extra=_fields(happened))
                self._tell(happened)
        return actions

    def _save(self, model: str, events: tuple[RolloutEvent, ...] = ()) -> None:
        document = rollout_to_json(self._rollouts[model])
        self._state.save_rollout(model, document, [event_to_json(event) for event in events])
        self._saved_at[model] = self._clock()

    def _event(self, model: str, rollout: Rollout, change: Changed) -> RolloutEvent:
        return RolloutEvent(
            time.time(),
            model,
            rollout.number,
            rollout.phase.value,
            change.reason.value,
            change.message,
            rollout.stable,
            rollout.canary,
            rollout.weight,
            rollout.verdicts,
        )

    def _forgive(self, model: str) -> None:
        """Have a canary that could not be loaded be loaded again."""
        revision = self._rollouts[model].canary
        if revision:
            reference = parse_reference(revision)
            short = Digest.parse(digest_of(revision)).short
            self._state.forgive(f"{model}.{reference.label}.{short}.")

    def _earlier(self, model: str, asked: str) -> str:
        """The earlier revision that a person means: by digest, its beginning or tag; "" is the one before."""
        rollout = self._rollouts[model]
        served = [rollout.stable, rollout.previous, *(event.stable for event in self.history(model))]
        known = list(dict.fromkeys(revision for revision in served if revision))
        if not asked:
            if len(known) < 2:
                raise ControlError(f"model {model}: no earlier version is known")
            return known[1]
        found = [
            revision
            for revision in known
            if asked in (parse_reference(revision).label, revision)
            or digest_of(revision).startswith((asked, f"sha256:{asked}"))
        ]
        if len({digest_of(revision) for revision in found}) == 1:
            return found[0]
        what = "no version that served was" if not found else "several versions that served were"
        raise ControlError(f"model {model}: {what} called {asked}; see `kitserve rollout history {model}`")


def _fields(event: RolloutEvent) -> dict[str, object]:
    """An event as the log takes it, which has a time and a message of its own."""
    told = asdict(event)
    return {**{name: told[name] for name in told if name not in ("time", "message")}, "text": event.message}


def _timeless(rollout: Rollout) -> Rollout:
    """A rollout but for what every tick changes."""
    return replace(rollout, clock=0.0, held=0.0, down=0.0)

"""What the config says and what is seen of versions and workers, as events of the rollout machine.

A revision is a kit's reference, pinned to its digest, as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from gateway.contract import Announcement, AppName, Description
from gateway.control.rollouts.activity import NO_ACTIVITY, Activity
from gateway.control.rollouts.golden_gate import GoldenGate
from gateway.control.rollouts.signature_gate import signature_faults
from gateway.control.state.database import AppRoute
from gateway.control.state.desired import DesiredModel
from gateway.control.state.snapshot import Observed, Recorded, version_for
from gateway.control.state.versions import Version, version_of
from gateway.control.state.workers import ready_workers
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Reference, parse_reference
from gateway.rollout.events import (
    CanaryFailed,
    CanaryLost,
    CanaryReady,
    Event,
    GateFailed,
    GatesPassed,
    NoTarget,
    Stable,
    StableLost,
    Target,
    Tick,
)
from gateway.rollout.evidence import Evidence
from gateway.rollout.plan import Plan
from gateway.rollout.state import Reason, Rollout, Stage
from gateway.rollout.units import History, Units
from runtimes.engines.task import Task

GENERATING = frozenset({Task.CHAT, Task.COMPLETION})
"""What models are asked for whose answers are text."""


@dataclass(frozen=True, slots=True)
class Observation:
    """All that one tick goes by; `late` are the apps of which a worker's report is overdue."""

    recorded: Recorded
    observed: Observed
    activity: Mapping[AppName, Activity]
    """What each app did since the last tick."""
    late: frozenset[AppName]


def stable_and_canary(
    model: DesiredModel, rollout: Rollout, recorded: Recorded, observed: Observed
) -> tuple[Version, Version] | None:
    """Return the two versions of a rollout on its way; None without one, or before both are known.

    Until the stable version answers, it is the one that still takes calls in its place.
    """
    if not rollout.active_canary:
        return None
    stable = version_for(model, parse_reference(rollout.stable), recorded)
    canary = version_for(model, parse_reference(rollout.active_canary), recorded)
    if stable is None or canary is None:
        return None
    app = recorded.routes.get(model.name, AppRoute()).stable
    if app is not None and app in recorded.versions and app not in {canary.app, *recorded.condemned}:
        routed = recorded.versions[app]
        if observed.answers(routed) and not observed.answers(stable):
            stable = routed
    return stable, canary


def first_rollout(model: DesiredModel, plan: Plan, recorded: Recorded, number: int = 0) -> Rollout | None:
    """Return where rollouts of a model begin, of which a version serves already; None where none does."""
    app = recorded.routes.get(model.name, AppRoute()).stable
    if app is None or app not in recorded.versions:
        return None
    revision = str(recorded.versions[app].reference)
    return Rollout(stable=revision, declared=revision, plan=plan, number=number)


def config_events(model: DesiredModel, plan: Plan, rollout: Rollout, recorded: Recorded) -> Iterator[Event]:
    """Yield what the config asks for now; nothing before its kit is resolved."""
    digest = recorded.pins.get(model.kit)
    if digest is None:
        if model.kit in recorded.failures and not _is_of(rollout.declared, model.kit):
            yield NoTarget()
        return
    reference = PinnedReference.of(model.kit, digest)
    revision = str(reference)
    if revision != rollout.stable and digest == parse_reference(rollout.stable).digest:
        # The same kit under another tag needs no trial.
        yield Stable(revision)
    yield Target(revision, plan, version_of(model, reference, 0).kind.fingerprint)


def _is_of(revision: str, kit: Reference) -> bool:
    """Tell whether a revision is what a kit's reference meant once; its registry may only be away."""
    if not revision:
        return False
    digest = parse_reference(revision).digest
    return digest is not None and kit.digest in (None, digest) and str(kit.pinned(digest)) == revision


class Observer:
    """The source of events on a model's versions.

    `describe` gives what a version's model takes and gives, None while nobody knows; `history` what an app
    did before the last tick.
    """

    def __init__(
        self,
        describe: Callable[[AppName], Description | None],
        golden: GoldenGate,
        history: Callable[[AppName], History],
    ) -> None:
        self._describe = describe
        self._golden = golden
        self._history = history

    def events(self, model: DesiredModel, rollout: Rollout, observation: Observation) -> Iterator[Event]:
        """Yield what happened since the last tick, and then the tick itself."""
        recorded, observed = observation.recorded, observation.observed
        versions = stable_and_canary(model, rollout, recorded, observed)
        if versions is None:
            yield Tick()
            return
        stable, canary = versions
        failure = recorded.failures.get(canary.kind)
        workers = ready_workers(observed.workers, canary.app)
        loss = _loss(stable, recorded, observed)
        is_up = observed.answers(canary)
        # Whether nobody knows yet what the config's kit means.
        is_undecided = not {model.kit} & (recorded.pins.keys() | recorded.failures.keys())
        # What may pass is tried again until the rollout's deadline.
        if failure is not None and canary.kind not in recorded.retries:
            yield CanaryFailed(failure)
        for _ in set(rollout.workers) - {worker.worker for worker in observed.workers}:
            yield CanaryLost("a worker of the canary died")
        enough = 1 if loss else canary.serving.scaling.first
        is_ready = len(workers) >= enough or observed.can_be_woken(canary)
        if rollout.stage is Stage.LOADING and is_ready and not is_undecided:
            yield CanaryReady()
        if rollout.stage is Stage.GATING and not is_undecided:
            yield from self._gate_events(model, rollout, versions, workers, is_alone=bool(loss))
        # Where neither can be woken, there may be more wrong than the stable version.
        can_take_over = bool(workers) or (is_up and canary.app not in observed.failing)
        if loss and can_take_over and not is_undecided:
            yield StableLost(loss)
        yield Tick(
            self._evidence(stable.app, canary.app, observation),
            is_up=is_up,
            is_waiting=is_undecided or bool(loss) or not observed.answers(stable),
            workers=tuple(sorted(worker.worker for worker in workers)),
            units=_units(stable.app, canary.app, observation),
            history=self._history(stable.app),
        )

    def _evidence(self, stable: AppName, canary: AppName, observation: Observation) -> Evidence:
        """Return what two apps did at the same time."""
        is_late = bool({stable, canary} & observation.late)
        base = observation.activity.get(stable, NO_ACTIVITY)
        trial = observation.activity.get(canary, NO_ACTIVITY)
        trouble = "the numbers of a worker did not come in time" if is_late else ""
        if self._generates(stable) and self._generates(canary):
            # Text is compared by the stable version's workers, tensors by the canary's.
            return Evidence(base.side, trial.side, base.mirrored, trouble, base.pairs)
        mirrored = replace(trial.mirrored, dropped=base.mirrored.dropped + trial.mirrored.dropped)
        return Evidence(base.side, trial.side, mirrored, trouble)

    def _generates(self, app: AppName) -> bool:
        """Tell whether a version's answers are text that it generates."""
        description = self._describe(app)
        return description is not None and bool(GENERATING & set(description.tasks))

    def _gate_events(
        self,
        model: DesiredModel,
        rollout: Rollout,
        versions: tuple[Version, Version],
        workers: list[Announcement],
        is_alone: bool,
    ) -> Iterator[Event]:
        """Yield the outcome of the gates, once it is known.

        A canary that is alone, as the stable version is lost, is compared with what is known of that.
        """
        stable, canary = versions
        before, after = self._describe(stable.app), self._describe(canary.app)
        if after is None or (before is None and not is_alone):
            return
        faults = signature_faults(before.signature, after.signature) if before is not None else []
        if faults and not rollout.plan.allow_signature_change:
            message = f"{'; '.join(faults)} (allow_signature_change lets it pass)"
            yield GateFailed(Reason.SIGNATURE_CHANGED, message)
        elif rollout.plan.golden is None:
            yield GatesPassed()
        elif workers:
            outcome = self._golden.check(
                rollout.number,
                rollout.plan.golden,
                model,
                canary,
                after.signature,
                workers[0],
            )
            if outcome is not None:
                yield outcome


def _units(stable: AppName, canary: AppName, observation: Observation) -> Units:
    """Return what two apps did at the same time, in units of which each tells something by itself."""
    base = observation.activity.get(stable, NO_ACTIVITY)
    trial = observation.activity.get(canary, NO_ACTIVITY)
    return Units(base.windows, trial.windows, base.callers, trial.callers)


def _loss(stable: Version, recorded: Recorded, observed: Observed) -> str:
    """Return why the stable version cannot be served any more; "" while it answers, or may yet.

    One that sleeps, and could not load when a call woke it, does not answer the next call either.
    """
    if ready_workers(observed.workers, stable.app):
        return ""
    reason = observed.failing.get(stable.app, "")
    if observed.can_be_woken(stable):
        return reason
    return recorded.failures.get(stable.kind) or reason

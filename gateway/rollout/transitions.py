"""The ways from one stage of a rollout to another. Each returns the new state and the actions."""

from __future__ import annotations

from dataclasses import replace

from gateway.rollout.events import Action, Changed
from gateway.rollout.evidence import Evidence
from gateway.rollout.plan import Step
from gateway.rollout.state import ALL_CALLS, LIVE, Reason, Rollout, Stage

Next = tuple[Rollout, tuple[Action, ...]]
"""The state after an event, and what happened."""


def enter(state: Rollout, stage: Stage, reason: Reason, message: str, **changes: object) -> Next:
    """Go to another stage; its time begins to count."""
    entered = replace(state, stage=stage, reason=reason, message=message, held=0.0, down=0.0, **changes)  # type: ignore[arg-type]  # fields of Rollout
    return entered, (Changed(reason, message),)


def begin(state: Rollout, revision: str, message: str, rollback: bool = False) -> Next:
    """Begin a new rollout: load a revision as the canary."""
    return enter(
        state,
        Stage.LOADING,
        Reason.CANARY_LOADING,
        message,
        canary=revision,
        number=state.number + 1,
        step=0,
        rollback=rollback,
        restarts=0,
        workers=(),
        evidence=Evidence(),
        trial=None,
        canary_workers={},
        verdicts=(),
    )


def degrade(state: Rollout, reason: Reason, message: str) -> Next:
    """End a rollout without success; the stable version takes all calls."""
    return enter(state, Stage.DEGRADED, reason, message)


def promote(state: Rollout, message: str, reason: Reason = Reason.COMPLETED) -> Next:
    """Make the canary the stable version."""
    return enter(
        state,
        Stage.HEALTHY,
        reason,
        message,
        stable=state.canary,
        previous=state.stable,
        canary="",
        step=0,
        rollback=False,
    )


def go_to(state: Rollout, number: int, note: str = "") -> Next:
    """Go to a step, counted from 0; beyond the last one is the promotion."""
    if number == len(state.plan.steps):
        return promote(state, "its only step passed" if number == 1 else f"all {number} steps passed")
    step = state.plan.steps[number]
    before = state.evidence if state.stage in LIVE else Evidence()
    # With every call at the canary, the stable version has no numbers but those of the step before.
    evidence = Evidence(stable=before.stable) if step.weight == ALL_CALLS else Evidence()
    message = f"step {number + 1} of {len(state.plan.steps)}: {describe(step)}" + (
        f"; {note}" if note else ""
    )
    stage, reason = (Stage.PAUSED, Reason.PAUSE_STEP) if step.pause else (Stage.STEPPING, Reason.STEP_RUNNING)
    workers = state.trial.workers if state.trial else state.canary_workers
    return enter(
        state,
        stage,
        reason,
        message,
        step=number,
        evidence=evidence,
        trial=None,
        canary_workers=workers,
        verdicts=(),
    )


def describe(step: Step) -> str:
    """Describe a step in words."""
    words = [f"weight {step.weight} %"]
    if step.match:
        words.append("and " + ", ".join(f"{rule.header}: {rule.value or '*'}" for rule in step.match))
    if step.mirror:
        words.append(f"{step.mirror * 100:g} % mirrored")
    words.append("until promoted" if step.pause else f"for {step.hold:g} s")
    return ", ".join(words)

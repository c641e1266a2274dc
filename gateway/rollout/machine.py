"""The rollout of one model as a table: (state, event, now) -> (state, actions).

Rules, each proved by a test:

1. Everything that must outlive the gateway is in `Rollout`. The caller saves it before it acts, and then
   acts by what the state *is* (`weight`, `mirror`, `wanted`), not by what changed: an action that was
   lost in a crash is taken again. Actions only tell people and hooks what happened.
2. Every pair of stage and event is in `TABLE`. An order that makes no sense in a stage is refused, with
   words, and changes nothing; an observation that says nothing new changes nothing.
3. The clock is monotonic and may start anew with the gateway: a state keeps how long it has been, never
   since when. `Resumed` sets the clock without letting time pass.
4. The canary takes calls only while stepping or paused. Every other stage has weight 0, so an abort is
   one change of stage. The stable version is never touched before the promotion.
5. Roles are places in a route: promotion renames the canary to stable, and copies and reloads nothing.
6. A rollout that failed stays so until the kit or the plan changes, or a person says `retry`.
7. No data never promotes: a step ends when its time is over and its checks are Successful. Without enough
   evidence before the deadline it pauses, and goes on by itself if the evidence still comes.

A revision is an opaque string (in Kitserve, a kit's digest). Stages group into the phases of Argo
Rollouts: Progressing (loading, gating, stepping), Paused, Degraded, Healthy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from gateway.rollout.analysis import Outcome, judge, overall
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
from gateway.rollout.plan import Plan, Step
from gateway.rollout.state import ALL_CALLS, LIVE, ON_THE_WAY, Reason, Rollout, Stage

Next = tuple[Rollout, tuple[Action, ...]]


def advance(state: Rollout, event: Event, now: float) -> Next:
    """Return what `event` makes of `state` at `now`, and what there is to tell."""
    if isinstance(event, Resumed):
        return replace(state, clock=now), ()
    passed = max(0.0, now - state.clock)
    down = isinstance(event, Tick) and not event.up and state.stage in LIVE
    state = replace(
        state,
        clock=max(now, state.clock),
        held=state.held + (0.0 if down else passed),
        down=state.down + (passed if down else 0.0),
        workers=event.workers if isinstance(event, Tick) else state.workers,
    )
    return TABLE[state.stage][type(event)](state, event)


def _ignore(state: Rollout, _event: Event) -> Next:
    """Nothing."""
    return state, ()


def _refuse(words: str) -> Callable[[Rollout, Event], Next]:
    def refuse(state: Rollout, _event: Event) -> Next:
        return state, (Refused(words),)

    refuse.__doc__ = "Refused."
    return refuse


def _enter(state: Rollout, stage: Stage, reason: Reason, message: str, **changes: object) -> Next:
    """Go to another stage; its time begins."""
    entered = replace(state, stage=stage, reason=reason, message=message, held=0.0, down=0.0, **changes)  # type: ignore[arg-type]  # fields of Rollout
    return entered, (Changed(reason, message),)


def _begin(state: Rollout, revision: str, message: str, rollback: bool = False) -> Next:
    return _enter(
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
        verdicts=(),
    )


def _degrade(state: Rollout, reason: Reason, message: str) -> Next:
    return _enter(state, Stage.DEGRADED, reason, message)


def _promote(state: Rollout, message: str) -> Next:
    return _enter(
        state,
        Stage.HEALTHY,
        Reason.COMPLETED,
        message,
        stable=state.canary,
        previous=state.stable,
        canary="",
        step=0,
        rollback=False,
    )


def _go_to(state: Rollout, number: int, why: str = "") -> Next:
    """Go to a step; beyond the last one is the promotion."""
    if number == len(state.plan.steps):
        return _promote(state, f"all {number} steps passed")
    step = state.plan.steps[number]
    before = state.evidence if state.stage in LIVE else Evidence()
    # With every call at the canary, the stable version has no numbers but those of the step before.
    evidence = Evidence(stable=before.stable) if step.weight == ALL_CALLS else Evidence()
    message = f"step {number + 1} of {len(state.plan.steps)}: {describe(step)}" + (f"; {why}" if why else "")
    stage, reason = (Stage.PAUSED, Reason.PAUSE_STEP) if step.pause else (Stage.STEPPING, Reason.STEP_RUNNING)
    return _enter(state, stage, reason, message, step=number, evidence=evidence, verdicts=())


def describe(step: Step) -> str:
    """A step in words."""
    words = [f"weight {step.weight} %"]
    if step.match:
        words.append("and " + ", ".join(f"{at.header}: {at.value or '*'}" for at in step.match))
    if step.mirror:
        words.append(f"{step.mirror * 100:g} % mirrored")
    words.append("until promoted" if step.pause else f"for {step.hold:g} s")
    return ", ".join(words)


# The config.


def _target(state: Rollout, event: Event) -> Next:
    """Another revision: a new rollout; another plan: goes on by it."""
    assert isinstance(event, Target)
    if event.revision == state.declared:
        return (state, ()) if event.plan == state.plan else _replan(state, event.plan)
    if not state.stable:
        return replace(state, declared=event.revision, plan=event.plan), ()
    state = replace(state, declared=event.revision, plan=event.plan, step=0)
    if event.revision != state.stable:
        return _begin(state, event.revision, "the config asks for another kit")
    if state.stage is Stage.HEALTHY:
        return state, ()
    message = "the config asks for what serves already"
    return _enter(state, Stage.HEALTHY, Reason.SUPERSEDED, message, canary="", rollback=False)


def _replan(state: Rollout, plan: Plan) -> Next:
    if state.stage is Stage.DEGRADED and state.declared == state.canary:
        return _begin(replace(state, plan=plan), state.canary, "the config of the rollout has changed")
    if state.stage not in LIVE:
        return replace(state, plan=plan, step=0), ()
    weights = [step.weight for step in plan.steps]
    # Weights only grow: the first step that gives as much as the canary has now.
    number = next((at for at, weight in enumerate(weights) if weight >= state.weight), len(weights) - 1)
    return _go_to(replace(state, plan=plan, step=number), number)


def _stable(state: Rollout, event: Event) -> Next:
    """Another one: the rollout is over if it is the canary, else begins anew."""
    assert isinstance(event, Stable)
    if event.revision == state.stable:
        return state, ()
    before, state = state.stable, replace(state, stable=event.revision)
    if state.canary == event.revision:
        message = "the canary serves all calls"
        return _enter(
            state,
            Stage.HEALTHY,
            Reason.COMPLETED,
            message,
            previous=before,
            canary="",
            step=0,
            rollback=False,
        )
    if state.stage in ON_THE_WAY:
        return _begin(state, state.canary, "the stable version has changed", state.rollback)
    return state, ()


# What is observed of the canary.


def _ready(state: Rollout, _event: Event) -> Next:
    """Gating; a rollback is over."""
    if state.rollback:
        return _promote(state, "rolled back")
    return _enter(state, Stage.GATING, Reason.GATES_RUNNING, "its signature and golden dataset are checked")


def _failed(state: Rollout, event: Event) -> Next:
    """Degraded (CanaryFailed)."""
    assert isinstance(event, CanaryFailed)
    return _degrade(state, Reason.CANARY_FAILED, event.message)


def _lost(state: Rollout, event: Event) -> Next:
    """Degraded (CanaryLost) after too many restarts."""
    assert isinstance(event, CanaryLost)
    state = replace(state, restarts=state.restarts + 1)
    if state.restarts <= state.plan.max_restarts:
        return state, ()
    return _degrade(state, Reason.CANARY_LOST, f"{event.message}; its workers died {state.restarts} times")


def _passed(state: Rollout, event: Event) -> Next:
    """The first step."""
    assert isinstance(event, GatesPassed)
    return _go_to(state, 0, event.message)


def _at_gate(state: Rollout, event: Event) -> Next:
    """Degraded (its reason)."""
    assert isinstance(event, GateFailed)
    return _degrade(state, event.reason, event.message)


# Time.


def _await(state: Rollout, _event: Event) -> Next:
    """Degraded (ProgressDeadlineExceeded) once too late."""
    if state.held <= state.plan.progress_deadline:
        return state, ()
    message = f"the canary was not {_AWAITED[state.stage]} within {state.plan.progress_deadline:g} s"
    return _degrade(state, Reason.DEADLINE, message)


_AWAITED = {Stage.LOADING: "ready", Stage.GATING: "through its gates"}


def _step(state: Rollout, event: Event) -> Next:
    """Failed: degraded; Successful and held long enough: next step; too late: paused."""
    state, outcome = _look(state, event)
    if outcome is Outcome.FAILED:
        return _fail(state)
    deadline = state.plan.progress_deadline
    if state.down > deadline:
        return _gone(state)
    hold = state.plan.steps[state.step].hold
    if outcome is Outcome.SUCCESSFUL and state.held >= hold:
        return _go_to(state, state.step + 1)
    if state.held < hold + deadline:
        return state, ()
    reason = Reason.ANALYSIS_ERROR if outcome is Outcome.ERROR else Reason.INCONCLUSIVE
    return _enter(state, Stage.PAUSED, reason, _words(state, outcome))


def _wait(state: Rollout, event: Event) -> Next:
    """Failed: degraded; Successful after a pause for lack of evidence: next step."""
    state, outcome = _look(state, event)
    if outcome is Outcome.FAILED:
        return _fail(state)
    if state.down > state.plan.progress_deadline:
        return _gone(state)
    if outcome is Outcome.SUCCESSFUL and state.reason is not Reason.PAUSE_STEP:
        return _go_to(state, state.step + 1)
    return state, ()


def _look(state: Rollout, event: Event) -> tuple[Rollout, Outcome]:
    assert isinstance(event, Tick)
    evidence = state.evidence + event.seen
    verdicts = judge(state.plan, state.step, evidence)
    return replace(state, evidence=evidence, verdicts=verdicts), overall(verdicts)


def _gone(state: Rollout) -> Next:
    message = f"the canary has not been up for {state.plan.progress_deadline:g} s"
    return _degrade(state, Reason.CANARY_LOST, message)


def _fail(state: Rollout) -> Next:
    return _degrade(state, Reason.ANALYSIS_FAILED, _words(state, Outcome.FAILED))


def _words(state: Rollout, outcome: Outcome) -> str:
    return "; ".join(verdict.message for verdict in state.verdicts if verdict.outcome is outcome)


# What people order.


def _promote_now(state: Rollout, event: Event) -> Next:
    """The next step, or all of them."""
    assert isinstance(event, Promote)
    if event.full:
        return _promote(state, "promoted by a person")
    return _go_to(state, state.step + 1)


def _abort(state: Rollout, event: Event) -> Next:
    """Degraded (RolloutAborted)."""
    assert isinstance(event, Abort)
    return _degrade(state, Reason.ABORTED, event.message or "aborted by a person")


def _retry(state: Rollout, _event: Event) -> Next:
    """A new rollout of what failed or was rolled back."""
    revision = state.canary if state.stage is Stage.DEGRADED else state.declared
    if not revision or not state.stable or revision == state.stable:
        return state, (Refused("there is nothing to try again: what the config asks for serves"),)
    return _begin(state, revision, "tried again", state.rollback)


def _rollback(state: Rollout, event: Event) -> Next:
    """Loading of that revision; of the stable one: an abort."""
    assert isinstance(event, Rollback)
    if not state.stable:
        return state, (Refused("no version serves yet"),)
    if event.revision != state.stable:
        return _begin(state, event.revision, "rolled back by a person", rollback=True)
    if state.stage in ON_THE_WAY:
        return _degrade(state, Reason.ABORTED, "rolled back by a person")
    return state, (Refused("that version serves already"),)


_RUNNING = _refuse("the rollout is still on its way: promote or abort it")
_IDLE = _refuse("no rollout is on its way")
_TOO_EARLY = _refuse("the canary is not ready for calls yet")
_OVER = _refuse("the rollout is over: retry it, or change the config")

Handler = Callable[[Rollout, Event], Next]


def _table(*rows: tuple[type[Event], *tuple[Handler, ...]]) -> Mapping[Stage, Mapping[type[Event], Handler]]:
    return {
        stage: {event: handlers[column] for event, *handlers in rows} for column, stage in enumerate(Stage)
    }


TABLE = _table(
    # event, and what is made of it in: healthy, loading, gating, stepping, paused, degraded
    (Target, _target, _target, _target, _target, _target, _target),
    (Stable, _stable, _stable, _stable, _stable, _stable, _stable),
    (CanaryReady, _ignore, _ready, _ignore, _ignore, _ignore, _ignore),
    (CanaryFailed, _ignore, _failed, _failed, _failed, _failed, _ignore),
    (CanaryLost, _ignore, _ignore, _lost, _lost, _lost, _ignore),
    (GatesPassed, _ignore, _ignore, _passed, _ignore, _ignore, _ignore),
    (GateFailed, _ignore, _ignore, _at_gate, _ignore, _ignore, _ignore),
    (Tick, _ignore, _await, _await, _step, _wait, _ignore),
    (Promote, _IDLE, _TOO_EARLY, _TOO_EARLY, _promote_now, _promote_now, _OVER),
    (Abort, _IDLE, _abort, _abort, _abort, _abort, _IDLE),
    (Retry, _retry, _RUNNING, _RUNNING, _RUNNING, _RUNNING, _retry),
    (Rollback, _rollback, _rollback, _rollback, _rollback, _rollback, _rollback),
)
"""What each stage makes of each event. `Resumed` is the same in all: it sets the clock."""

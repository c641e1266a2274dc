"""The rollout of one model as a table: (state, event, now) -> (state, actions).

Rules, each proved by a test:

1. Everything that must outlive the gateway is in `Rollout`. The caller saves it before it acts, and then
   acts by what the state *is* (`weight`, `mirror`, `wanted`), not by what changed: an action that was
   lost in a crash is taken again. Actions only tell people and webhooks what happened.
2. Every pair of stage and event is in `TABLE`. An order that makes no sense in a stage is refused, with
   words, and changes nothing; an observation that says nothing new changes nothing.
3. The clock is monotonic and may start anew with the gateway: a state keeps how long it has been, never
   since when. `Resumed` sets the clock without letting time pass. After a new start of Kitserve itself
   it forgets the canary's workers: they went with everything else, and count as no deaths.
4. The canary takes calls only while stepping or paused. Every other stage has weight 0, so an abort is
   one change of stage. The stable version is never touched before the promotion; where it is lost, there is
   nobody to protect, and a canary that has passed its gates is promoted.
5. Roles are places in a route: promotion renames the canary to stable, and copies and reloads nothing.
6. A rollout that failed stays so until the kit or the plan changes, or a person says `retry`.
7. No data never promotes: a step ends when its time is over and its checks are Successful. Without enough
   evidence before the deadline it pauses, and goes on by itself if the evidence still comes.
8. What the config asks for is in force at once, in every stage: another revision, or other settings of the
   one on trial, is another rollout; the stable one ends the rollout.

A revision is an opaque string (in Kitserve, a kit's reference with its digest). Stages group into the
phases of Argo Rollouts: Progressing (loading, gating, stepping), Paused, Degraded, Healthy. The docstring
of a handler is its cell of the table in docs/rollouts.md.
What becomes of a rollout as time passes is in `ticks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from gateway.rollout.events import (
    Abort,
    CanaryFailed,
    CanaryLost,
    CanaryReady,
    Event,
    GateFailed,
    GatesPassed,
    NoTarget,
    Promote,
    Refused,
    Resumed,
    Retry,
    Rollback,
    Stable,
    StableLost,
    Target,
    Tick,
)
from gateway.rollout.plan import Plan
from gateway.rollout.state import LIVE, ON_THE_WAY, Reason, Rollout, Stage
from gateway.rollout.ticks import check_deadline, is_waiting, tick_pause, tick_step
from gateway.rollout.transitions import Next, begin, degrade, enter, go_to, promote
from gateway.wording import counted


def advance(state: Rollout, event: Event, now: float) -> Next:
    """Return the state after `event` at `now`, in seconds of the caller's clock, and what happened."""
    if isinstance(event, Resumed):
        return replace(state, clock=now, workers=() if event.is_new_start else state.workers), ()
    passed = max(0.0, now - state.clock)
    is_down = isinstance(event, Tick) and not event.is_up and state.stage in LIVE
    state = replace(
        state,
        clock=max(now, state.clock),
        held=state.held + (0.0 if is_down or is_waiting(event) else passed),
        down=state.down + (passed if is_down else 0.0),
        workers=event.workers if isinstance(event, Tick) else state.workers,
    )
    return TABLE[state.stage][type(event)](state, event)


def _ignore(state: Rollout, _event: Event) -> Next:
    """Nothing."""
    return state, ()


def _refuse(message: str) -> Callable[[Rollout, Event], Next]:
    def refuse(state: Rollout, _event: Event) -> Next:
        return state, (Refused(message),)

    refuse.__doc__ = "Refused."
    return refuse


# What the config asks for.


def _target(state: Rollout, event: Event) -> Next:
    """Another revision, or other settings of the canary: a new rollout; another plan: goes on by it."""
    assert isinstance(event, Target)
    has_other_settings = state.settings not in ("", event.settings)
    state = replace(state, settings=event.settings)
    if event.revision in (state.declared, state.active_canary):
        state = replace(state, declared=event.revision)
        if has_other_settings and state.canary == state.declared:
            state = replace(state, plan=event.plan)
            return begin(state, state.canary, "the config of the model has changed", state.rollback)
        return (state, ()) if event.plan == state.plan else _replan(state, event.plan)
    if not state.stable:
        return replace(state, declared=event.revision, plan=event.plan), ()
    state = replace(state, declared=event.revision, plan=event.plan, step=0)
    if event.revision != state.stable:
        return begin(state, event.revision, "the config asks for another kit")
    if state.stage is Stage.HEALTHY:
        return state, ()
    message = "the config asks for what serves already"
    return enter(state, Stage.HEALTHY, Reason.SUPERSEDED, message, canary="", rollback=False)


def _no_target(state: Rollout, _event: Event) -> Next:
    """Nothing, until the config asks for something else."""
    return replace(state, declared=""), ()


def _replan(state: Rollout, plan: Plan) -> Next:
    if state.stage is Stage.DEGRADED and state.declared == state.canary:
        return begin(replace(state, plan=plan), state.canary, "the config of the rollout has changed")
    if state.stage not in LIVE:
        return replace(state, plan=plan, step=0), ()
    weights = [step.weight for step in plan.steps]
    # Weights only grow: the first step that gives as much as the canary has now.
    last = len(weights) - 1
    number = next((index for index, weight in enumerate(weights) if weight >= state.weight), last)
    return go_to(replace(state, plan=plan, step=number), number)


def _stable(state: Rollout, event: Event) -> Next:
    """Another one: the rollout is over if it is the canary, else begins anew."""
    assert isinstance(event, Stable)
    if event.revision == state.stable:
        return state, ()
    before, state = state.stable, replace(state, stable=event.revision)
    if state.canary == event.revision:
        message = "the canary serves all calls"
        return enter(
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
        return begin(state, state.canary, "the stable version has changed", state.rollback)
    return state, ()


def _stable_lost(state: Rollout, event: Event) -> Next:
    """Healthy (StableLost): the canary takes over."""
    assert isinstance(event, StableLost)
    message = f"the stable version cannot be served, so the canary takes over: {event.message}"
    return promote(state, message, Reason.STABLE_LOST)


# What is observed of the canary.


def _canary_ready(state: Rollout, _event: Event) -> Next:
    """Gating; a rollback is over."""
    if state.rollback:
        return promote(state, "rolled back")
    return enter(state, Stage.GATING, Reason.GATES_RUNNING, "its signature and golden dataset are checked")


def _canary_failed(state: Rollout, event: Event) -> Next:
    """Degraded (CanaryFailed)."""
    assert isinstance(event, CanaryFailed)
    return degrade(state, Reason.CANARY_FAILED, event.message)


def _canary_lost(state: Rollout, event: Event) -> Next:
    """Degraded (CanaryLost) after too many restarts."""
    assert isinstance(event, CanaryLost)
    state = replace(state, restarts=state.restarts + 1)
    if state.restarts <= state.plan.max_restarts:
        return state, ()
    return degrade(
        state, Reason.CANARY_LOST, f"{event.message}; its workers died {counted(state.restarts, 'time')}"
    )


def _gates_passed(state: Rollout, event: Event) -> Next:
    """The first step."""
    assert isinstance(event, GatesPassed)
    return go_to(state, 0, event.message)


def _gate_failed(state: Rollout, event: Event) -> Next:
    """Degraded (its reason)."""
    assert isinstance(event, GateFailed)
    return degrade(state, event.reason, event.message)


# What people order.


def _promote_by_order(state: Rollout, event: Event) -> Next:
    """The next step, or all of them."""
    assert isinstance(event, Promote)
    if event.full:
        return promote(state, "promoted by a person")
    return go_to(state, state.step + 1)


def _promote_past_gates(state: Rollout, event: Event) -> Next:
    """Refused, but for all steps: then the gates are passed over too."""
    assert isinstance(event, Promote)
    if event.full:
        return promote(state, "promoted by a person, before its gates were passed")
    return state, (Refused("the canary has not passed its gates yet: `promote --full` passes them over"),)


def _abort(state: Rollout, event: Event) -> Next:
    """Degraded (RolloutAborted)."""
    assert isinstance(event, Abort)
    return degrade(state, Reason.ABORTED, event.message or "aborted by a person")


def _retry(state: Rollout, _event: Event) -> Next:
    """A new rollout of what failed or was rolled back."""
    revision = state.canary if state.stage is Stage.DEGRADED else state.declared
    if not revision or not state.stable or revision == state.stable:
        return state, (Refused("there is nothing to try again: what the config asks for serves"),)
    return begin(state, revision, "tried again", state.rollback)


def _rollback(state: Rollout, event: Event) -> Next:
    """Loading of that revision; of the stable one: an abort."""
    assert isinstance(event, Rollback)
    if not state.stable:
        return state, (Refused("no version serves yet"),)
    if event.revision != state.stable:
        return begin(state, event.revision, "rolled back by a person", rollback=True)
    if state.stage in ON_THE_WAY:
        return degrade(state, Reason.ABORTED, "rolled back by a person")
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
    (NoTarget, _no_target, _no_target, _no_target, _no_target, _no_target, _no_target),
    (Stable, _stable, _stable, _stable, _stable, _stable, _stable),
    (StableLost, _ignore, _ignore, _ignore, _stable_lost, _stable_lost, _ignore),
    (CanaryReady, _ignore, _canary_ready, _ignore, _ignore, _ignore, _ignore),
    (CanaryFailed, _ignore, _canary_failed, _canary_failed, _canary_failed, _canary_failed, _ignore),
    (CanaryLost, _ignore, _ignore, _canary_lost, _canary_lost, _canary_lost, _ignore),
    (GatesPassed, _ignore, _ignore, _gates_passed, _ignore, _ignore, _ignore),
    (GateFailed, _ignore, _ignore, _gate_failed, _ignore, _ignore, _ignore),
    (Tick, _ignore, check_deadline, check_deadline, tick_step, tick_pause, _ignore),
    (Promote, _IDLE, _TOO_EARLY, _promote_past_gates, _promote_by_order, _promote_by_order, _OVER),
    (Abort, _IDLE, _abort, _abort, _abort, _abort, _IDLE),
    (Retry, _retry, _RUNNING, _RUNNING, _RUNNING, _RUNNING, _retry),
    (Rollback, _rollback, _rollback, _rollback, _rollback, _rollback, _rollback),
)
"""The handler of each stage and event. `Resumed` is the same in all, see rule 3."""

"""What becomes of a rollout as time passes: deadlines, and steps whose checks are judged at each tick.

`check_deadline`, `tick_step` and `tick_pause` are handlers of the table in `machine`.
"""

from __future__ import annotations

from dataclasses import replace

from gateway.rollout.analysis import false_alarm, judge
from gateway.rollout.events import Event, Tick
from gateway.rollout.evidence import Evidence
from gateway.rollout.state import Reason, Rollout, Stage
from gateway.rollout.transitions import Next, degrade, enter, go_to
from gateway.rollout.trial import Trial, begin_trial, observe
from gateway.rollout.verdict import Outcome, overall


def check_deadline(state: Rollout, _event: Event) -> Next:
    """Degraded (ProgressDeadlineExceeded) once too late."""
    if state.held <= state.plan.progress_deadline:
        return state, ()
    message = f"the canary was not {_DEADLINE_WORDS[state.stage]} within {state.plan.progress_deadline:g} s"
    return degrade(state, Reason.DEADLINE, message)


_DEADLINE_WORDS = {Stage.LOADING: "ready", Stage.GATING: "through its gates"}


def tick_step(state: Rollout, event: Event) -> Next:
    """Failed or down for too long: degraded; Successful and held long enough: next step; too late: paused."""
    state, outcome = _judge(state, event)
    if outcome is Outcome.FAILED:
        return _fail_checks(state)
    deadline = state.plan.progress_deadline
    if state.down > deadline:
        return _give_up(state)
    if is_waiting(event):
        return state, ()
    hold = state.plan.steps[state.step].hold
    if outcome is Outcome.SUCCESSFUL and state.held >= hold:
        return go_to(state, state.step + 1)
    if state.held < hold + deadline:
        return state, ()
    reason = Reason.ANALYSIS_ERROR if outcome is Outcome.ERROR else Reason.INCONCLUSIVE
    return enter(state, Stage.PAUSED, reason, _messages(state, outcome))


def tick_pause(state: Rollout, event: Event) -> Next:
    """Failed or down for too long: degraded; Successful after a pause for lack of evidence: next step."""
    state, outcome = _judge(state, event)
    if outcome is Outcome.FAILED:
        return _fail_checks(state)
    if state.down > state.plan.progress_deadline:
        return _give_up(state)
    if outcome is Outcome.SUCCESSFUL and state.reason is not Reason.PAUSE_STEP and not is_waiting(event):
        return go_to(state, state.step + 1)
    return state, ()


def _judge(state: Rollout, event: Event) -> tuple[Rollout, Outcome]:
    assert isinstance(event, Tick)
    # What a canary does that stands in for the stable version compares with nothing.
    evidence = state.evidence if event.is_waiting else state.evidence + event.evidence
    trial = state.trial if event.is_waiting else _observe(state, event, evidence)
    verdicts = judge(state.plan, state.step, evidence, trial)
    return replace(state, evidence=evidence, trial=trial, verdicts=verdicts), overall(verdicts)


def _observe(state: Rollout, event: Tick, evidence: Evidence) -> Trial | None:
    """Return the step's trial with what the tick tells; it begins with the first units."""
    trial = state.trial
    if event.units is None:
        return trial
    if trial is None:
        alarm = false_alarm(state.plan, evidence.is_text)
        workers = state.canary_workers
        trial = begin_trial(state.plan, state.step, evidence.is_text, event.history, workers, alarm)
    return observe(trial, state.plan, evidence, event.units)


def is_waiting(event: Event) -> bool:
    """Tell whether nothing may be concluded, so that the time of the step stands still."""
    return isinstance(event, Tick) and event.is_waiting


def _give_up(state: Rollout) -> Next:
    message = f"the canary has not been up for {state.plan.progress_deadline:g} s"
    return degrade(state, Reason.CANARY_LOST, message)


def _fail_checks(state: Rollout) -> Next:
    return degrade(state, Reason.ANALYSIS_FAILED, _messages(state, Outcome.FAILED))


def _messages(state: Rollout, outcome: Outcome) -> str:
    return "; ".join(verdict.message for verdict in state.verdicts if verdict.outcome is outcome)

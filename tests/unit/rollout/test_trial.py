"""A step's trial: which units a verdict goes by, what is kept of them, and what is not judged."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.metrics.counts import BUCKETS, MirroredCalls
from gateway.rollout.documents import rollout_from_json, rollout_to_json
from gateway.rollout.events import CanaryReady, GatesPassed, Target, Tick
from gateway.rollout.evidence import Evidence, Side
from gateway.rollout.machine import advance
from gateway.rollout.plan import Agreement, Checks, Plan, Step
from gateway.rollout.state import Rollout, Stage
from gateway.rollout.transitions import go_to
from gateway.rollout.units import CallerCounts, History, PairCounts, Units, Window
from gateway.rollout.verdict import TOO_LITTLE, Outcome

CHECKS = Checks(max_latency_ratio=1.5, agreement=Agreement())
PLAN = Plan(steps=(Step(50, hold=30), Step(100, hold=30)), checks=CHECKS)
CALLS = 40


def side(errors: int = 0, slow: int = 1) -> Side:
    counts = np.zeros(len(BUCKETS) + 1, int)
    counts[4], counts[6] = CALLS - slow, slow
    return Side(CALLS, errors, tuple(counts.tolist()))


PAST = History(
    tuple(Window(f"s{worker}", index, side()) for index in range(600) for worker in range(2)),
    {"c1": CallerCounts(20, 0, -120.0)},
)


def begun(plan: Plan = PLAN) -> Rollout:
    rollout = Rollout(stable="v1", declared="v1", plan=plan)
    for event in (Target("v2", plan), CanaryReady(), GatesPassed()):
        rollout, _ = advance(rollout, event, 0.0)
    return rollout


NONE = PairCounts()


def ticked(
    rollout: Rollout,
    ticks: int,
    canary: Side,
    worker: str = "c0",
    pairs: PairCounts = NONE,
    past: History = PAST,
) -> Rollout:
    """Let half seconds pass, in each of which one worker of each version answers."""
    for _ in range(ticks):
        index = 600 + round(rollout.clock * 2)
        units = Units((Window("s0", index, side()),), (Window(worker, index, canary, None, pairs),))
        mirrored = MirroredCalls(pairs.pairs, pairs.pairs - pairs.differing)
        tick = Tick(Evidence(side(), canary, mirrored), units=units, history=past)
        rollout, _ = advance(rollout, tick, rollout.clock + 0.5)
        if rollout.stage is not Stage.STEPPING:
            break
    return rollout


@pytest.mark.parametrize(
    ("canary", "pairs", "check"),
    [
        (side(errors=CALLS), PairCounts(), "error_rate"),
        (side(slow=CALLS), PairCounts(), "latency"),
        (side(), PairCounts(20, 20), "agreement"),
    ],
)
def test_gross_failure_ends_a_rollout_within_seconds(canary: Side, pairs: PairCounts, check: str) -> None:
    rollout = ticked(begun(), 20, canary, pairs=pairs)
    assert rollout.stage is Stage.DEGRADED
    assert rollout.clock <= 6
    verdict = next(verdict for verdict in rollout.verdicts if verdict.outcome is Outcome.FAILED)
    assert verdict.check == check


@pytest.mark.parametrize("is_mirrored", [True, False])
def test_a_canary_that_fails_all_calls_ends_within_five_seconds_without_history(is_mirrored: bool) -> None:
    checks = Checks(max_latency_ratio=1.5, agreement=Agreement() if is_mirrored else None)
    plan = Plan(steps=(Step(5, hold=30), Step(25, hold=30), Step(50, hold=30)), checks=checks)
    rollout = ticked(begun(plan), 20, side(errors=CALLS), past=History())
    assert rollout.stage is Stage.DEGRADED
    assert rollout.clock <= 5


def test_failures_of_three_seconds_end_none_without_history() -> None:
    rollout = ticked(ticked(begun(), 6, side(errors=CALLS), past=History()), 60, side(), past=History())
    assert rollout.stage is Stage.STEPPING


def test_a_spell_of_three_seconds_ends_none() -> None:
    rollout = ticked(ticked(begun(), 6, side(slow=CALLS)), 60, side())
    assert rollout.stage is Stage.STEPPING


def test_verdicts_say_by_which_units_they_were_made_and_by_how_many() -> None:
    rollout = ticked(begun(), 8, side(), pairs=PairCounts(3, 0))
    messages = {verdict.check: verdict.message for verdict in rollout.verdicts}
    assert "; judged by 4 worker-seconds, 24 pairs; " in messages["error_rate"]
    assert "; judged by 24 pairs; " in messages["agreement"]
    numbers = next(verdict.numbers for verdict in rollout.verdicts if verdict.check == "error_rate")
    assert (numbers["worker_seconds"], numbers["pairs"]) == (4, 24)


@pytest.mark.parametrize(
    ("ticks", "units"), [(1, "0.5 worker-seconds"), (2, "1 worker-second"), (4, "2 worker-seconds")]
)
def test_after_the_first_calls_a_verdict_says_that_it_takes_more(ticks: int, units: str) -> None:
    rollout = ticked(begun(), ticks, side())
    messages = {verdict.check: verdict.message for verdict in rollout.verdicts}
    assert messages["error_rate"].endswith(f"; judged by {units}; {TOO_LITTLE}")


@pytest.mark.parametrize(("steps", "message"), [(1, "its only step passed"), (2, "all 2 steps passed")])
def test_the_promotion_says_how_many_steps_passed(steps: int, message: str) -> None:
    plan = Plan(steps=(Step(50, hold=1),) * steps)
    rollout, _ = go_to(begun(plan), steps)
    assert rollout.message == message


def test_a_gateway_that_starts_again_goes_on_with_the_same_capitals() -> None:
    rollout = ticked(begun(), 5, side(slow=CALLS), pairs=PairCounts(3, 1))
    again = rollout_from_json(rollout_to_json(rollout))
    assert again.trial == rollout.trial
    assert ticked(again, 3, side(slow=CALLS)) == ticked(rollout, 3, side(slow=CALLS))


def test_a_worker_that_was_restarted_is_not_judged_on_its_first_seconds() -> None:
    slow, plan = side(slow=CALLS), PLAN
    rollout = ticked(ticked(begun(plan), 20, side()), 18, slow, worker="c1")
    assert rollout.stage is Stage.STEPPING, "10 s, unless the plan says otherwise"
    assert ticked(rollout, 20, slow, worker="c1").stage is Stage.DEGRADED


@pytest.mark.parametrize(
    ("canary", "stage"), [(side(slow=CALLS), Stage.STEPPING), (side(CALLS), Stage.DEGRADED)]
)
def test_in_a_warmup_only_gross_failure_counts(canary: Side, stage: Stage) -> None:
    plan = Plan(steps=PLAN.steps, checks=CHECKS, warmup=10.0)
    assert ticked(begun(plan), 18, canary).stage is stage


def test_callers_who_stick_are_no_evidence_by_their_windows_alone() -> None:
    rollout = begun(Plan(steps=PLAN.steps, checks=Checks()))
    failing = side(errors=4)
    for half in range(1, 81):
        # One caller of twenty fails always, as before; no other does.
        units = Units(
            (Window("s0", 600 + half, side(), Side()),),
            (Window("c0", 600 + half, failing, Side()),),
            {f"s{number}": CallerCounts(2, 0, -12.0) for number in range(20)},
            {f"c{number}": CallerCounts(2, 2 * (number < 2), -12.0) for number in range(20)},
        )
        past = History(
            PAST.windows, {f"c{number}": CallerCounts(20, 20 * (number < 2)) for number in range(20)}
        )
        tick = Tick(Evidence(side(), failing), units=units, history=past)
        rollout, _ = advance(rollout, tick, half / 2)
    assert rollout.stage is Stage.STEPPING
    verdict = next(verdict for verdict in rollout.verdicts if verdict.check == "error_rate")
    assert "judged by 20 callers" in verdict.message


def test_callers_who_stick_and_all_fail_end_a_rollout_within_five_seconds() -> None:
    rollout = begun(Plan(steps=(Step(5, hold=30), Step(50, hold=30)), checks=Checks()))
    for half in range(1, 11):
        units = Units(
            (Window("s0", 600 + half, side(), Side()),),
            (Window("c0", 600 + half, side(errors=CALLS), Side()),),
            {f"s{number}": CallerCounts(2, 0, -12.0) for number in range(95)},
            {f"c{number}": CallerCounts(2, 2, -12.0) for number in range(5)},
        )
        tick = Tick(Evidence(side(), side(errors=CALLS)), units=units)
        rollout, _ = advance(rollout, tick, half / 2)
    assert rollout.stage is Stage.DEGRADED


def test_what_varies_too_much_is_an_error_and_no_failure() -> None:
    windows = tuple(
        Window(f"s{worker}", index, side(errors=20 * (worker == 0 and 100 < index < 900)))
        for index in range(1200)
        for worker in range(3)
    )
    rollout, index = begun(), 1200
    units = Units((Window("s0", index, side()),), (Window("c0", index, side(CALLS)),))
    tick = Tick(Evidence(side(), side(CALLS)), units=units, history=History(windows))
    rollout, _ = advance(rollout, tick, 0.5)
    verdict = next(verdict for verdict in rollout.verdicts if verdict.check == "error_rate")
    assert verdict.outcome is Outcome.ERROR
    assert verdict.message.endswith("; these calls vary too much to judge by this check")

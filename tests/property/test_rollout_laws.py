"""Laws that hold whatever happens to a rollout, in whatever order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.metrics.counts import MirroredCalls
from gateway.rollout.documents import rollout_from_json, rollout_to_json
from gateway.rollout.events import (
    Abort,
    CanaryFailed,
    CanaryLost,
    CanaryReady,
    Changed,
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
from gateway.rollout.evidence import Evidence, Side
from gateway.rollout.machine import advance
from gateway.rollout.plan import Agreement, Checks, Plan, Step
from gateway.rollout.state import LIVE, ON_THE_WAY, Reason, Rollout, Stage
from gateway.rollout.verdict import Outcome, overall

REVISIONS = st.sampled_from(["v1", "v2", "v3"])


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    weights = sorted(draw(st.lists(st.integers(0, 100), min_size=1, max_size=4)))
    steps = tuple(
        Step(weight, hold=draw(st.sampled_from([0.0, 5.0, 30.0])), pause=draw(st.booleans()))
        for weight in weights
    )
    agreement = draw(st.none() | st.just(Agreement()))
    checks = Checks(min_requests=draw(st.integers(0, 30)), agreement=agreement)
    return Plan(steps, checks, progress_deadline=60, max_restarts=draw(st.integers(0, 2)))


@st.composite
def evidence(draw: st.DrawFn) -> Evidence:
    def side() -> Side:
        calls = draw(st.integers(0, 2000))
        return Side(calls, int(calls * draw(st.sampled_from([0.0, 0.001, 0.05, 1.0]))))

    compared = draw(st.integers(0, 500))
    mirrored = MirroredCalls(compared, compared * draw(st.sampled_from([0.0, 0.8, 1.0])))
    return Evidence(side(), side(), mirrored, draw(st.sampled_from(["", "", "broken"])))


EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Target, REVISIONS, plans(), st.sampled_from(["", "a", "b"])),
    st.builds(Stable, REVISIONS),
    st.just(NoTarget()),
    st.just(StableLost("its layers are gone")),
    st.just(CanaryReady()),
    st.just(CanaryReady()),
    st.just(CanaryFailed("no")),
    st.just(CanaryLost("killed")),
    st.just(GatesPassed()),
    st.just(GatesPassed()),
    st.just(GateFailed(Reason.GOLDEN_FAILED, "wrong")),
    st.builds(Tick, evidence(), st.booleans(), st.booleans()),
    st.builds(Tick, evidence()),
    st.builds(Promote, st.booleans()),
    st.just(Abort()),
    st.just(Retry()),
    st.builds(Rollback, REVISIONS),
    st.builds(Resumed, st.booleans()),
)
HISTORIES = st.lists(st.tuples(EVENTS, st.sampled_from([0.0, 1.0, 10.0, 100.0])), max_size=30)


def check(before: Rollout, event: Event, after: Rollout, actions: tuple[Any, ...]) -> None:
    assert 0 <= after.weight <= 100
    assert 0 <= after.mirror <= 1
    assert after.weight == 0 or after.stage in LIVE
    assert 0 <= after.step < len(after.plan.steps)
    assert bool(after.active_canary) == (after.stage in ON_THE_WAY)
    assert after.canary != after.stable or not after.canary
    assert after.stage in (Stage.HEALTHY, Stage.DEGRADED) or after.stable, "there is always one that serves"
    if isinstance(event, Abort):
        assert after.weight == 0
    if isinstance(event, Target):
        assert after.declared == event.revision, "the config is in force at once, in every stage"
        if event.revision == before.stable == before.declared and before.rollback:
            assert (after.stage, after.canary) == (before.stage, before.canary), (
                "the order of a person stands"
            )
        elif event.revision == before.stable:
            assert (after.stage, after.weight, after.canary) == (Stage.HEALTHY, 0, "")
        elif event.revision not in (before.declared, before.active_canary) and before.stable:
            assert (after.stage, after.canary) == (Stage.LOADING, event.revision)
            assert (after.number, after.plan) == (before.number + 1, event.plan)
        if after.stage in ON_THE_WAY and before.declared != before.stable:
            assert after.canary == event.revision or event.revision == before.declared
    if isinstance(event, NoTarget):
        assert after == replace(before, declared="", clock=after.clock, held=after.held, down=after.down)
    if isinstance(event, StableLost) and before.stage in LIVE:
        assert (after.stage, after.stable) == (Stage.HEALTHY, before.canary), "what is ready serves"
    if isinstance(event, Tick) and event.is_waiting:
        assert after.weight <= before.weight, "nothing is concluded for the canary"
        assert after.evidence == before.evidence
    if any(isinstance(action, Refused) for action in actions):
        assert (after.stage, after.canary, after.weight) == (before.stage, before.canary, before.weight)
    if after.stable != before.stable:
        assert isinstance(event, Stable) or after.stable == before.canary
        if isinstance(event, Tick):
            assert before.stage in LIVE
    moved = (after.stage, after.reason, after.step, after.number) != (
        before.stage,
        before.reason,
        before.step,
        before.number,
    )
    assert moved <= any(isinstance(action, Changed) for action in actions), "every change is reported"
    same = before.number == after.number and before.stage in LIVE and after.stage in LIVE
    if same and not isinstance(event, Target):
        assert after.weight >= before.weight, "weights only grow"
    if isinstance(event, Tick) and before.stage in LIVE and after.weight > before.weight:
        assert overall(after.verdicts) is not Outcome.FAILED
    if before.stage is Stage.DEGRADED and after.stage is not Stage.DEGRADED:
        assert isinstance(event, Target | Stable | Retry | Rollback), "no second try by itself"


@settings(deadline=None, max_examples=300)
@given(HISTORIES)
@example(
    [
        (Target("v2", Plan(), ""), 0.0),
        (Stable("v2"), 0.0),
        (Rollback("v1"), 0.0),
        (Target("v2", Plan(), ""), 0.0),
    ]
)
def test_the_laws_hold_after_every_event(history: list[tuple[Event, float]]) -> None:
    state, now = Rollout(), 0.0
    for event, seconds in history:
        now += seconds
        after, actions = advance(state, event, now)
        check(state, event, after, actions)
        state = after


@settings(deadline=None, max_examples=150)
@given(HISTORIES, st.integers(0, 30))
def test_a_saved_rollout_goes_on_the_same(history: list[tuple[Event, float]], crash: int) -> None:
    state, now, shift = Rollout(), 0.0, 0.0
    straight, clock = Rollout(), 0.0
    for number, (event, seconds) in enumerate(history):
        if number == crash:
            # The gateway dies, the clock of its machine starts anew, and no time has passed for the rollout.
            shift = 5000.0 - now
            state, _ = advance(rollout_from_json(rollout_to_json(state)), Resumed(), now + shift)
        now, clock = now + seconds, clock + seconds
        state, actions = advance(state, event, now + shift)
        straight, actions_straight = advance(straight, event, clock)
        assert actions == actions_straight
        assert (state.stage, state.step, state.weight, state.evidence, state.verdicts) == (
            straight.stage,
            straight.step,
            straight.weight,
            straight.evidence,
            straight.verdicts,
        )
        assert abs(state.held - straight.held) < 1e-6


@settings(deadline=None)
@given(HISTORIES, st.sampled_from(["good", "bad", "none", "dead"]))
def test_from_anywhere_it_comes_to_rest(history: list[tuple[Event, float]], canary: str) -> None:
    """Every stage ends, or waits for a person, whatever the canary is like."""
    state, now = Rollout(stable="v1", declared="v1"), 0.0
    for event, seconds in history:
        now += seconds
        state, _ = advance(state, event, now)
    evidence_of_tick = {
        "good": Evidence(Side(50000), Side(5000), MirroredCalls(2000, 2000)),
        "bad": Evidence(Side(50000), Side(5000, 4000), MirroredCalls(2000, 0)),
    }.get(canary, Evidence())
    for _ in range(60):
        now += 100
        for event in (
            *((CanaryReady(), GatesPassed()) if canary != "dead" else ()),
            Tick(evidence_of_tick, is_up=canary != "dead"),
        ):
            state, _ = advance(state, event, now)
    if state.stage is Stage.PAUSED:
        assert canary in ("good", "bad", "none")
        finished, _ = advance(state, Promote(full=True), now)
        assert finished.stage is Stage.HEALTHY
    else:
        assert state.stage in (Stage.HEALTHY, Stage.DEGRADED)


@settings(deadline=None)
@given(plans(), st.lists(st.sampled_from(["apply", "ready", "gates", "tick"]), max_size=12))
def test_applies_at_once_end_in_one_outcome(plan: Plan, order: list[str]) -> None:
    start = Rollout(stable="v1", declared="v1", plan=plan)
    events: dict[str, Event] = {
        "apply": Target("v2", plan),
        "ready": CanaryReady(),
        "gates": GatesPassed(),
        "tick": Tick(Evidence(Side(100), Side(10))),
    }
    one = many = advance(start, Target("v2", plan), 1.0)[0]
    for name in order:
        many, _ = advance(many, events[name], 1.0)
        if name != "apply":
            one, _ = advance(one, events[name], 1.0)
    assert one == many

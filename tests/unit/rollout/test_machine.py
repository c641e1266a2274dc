"""The rollout machine by its stories, one row of the table at a time."""

from __future__ import annotations

import typing
from dataclasses import replace

import pytest

from gateway.metrics.counts import MirroredCalls
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
from gateway.rollout.evidence import Evidence, Side
from gateway.rollout.machine import TABLE, advance
from gateway.rollout.plan import Agreement, Checks, Match, Plan, Step
from gateway.rollout.state import (
    Phase,
    Reason,
    Rollout,
    Stage,
)

PLAN = Plan(
    steps=(Step(5, hold=10), Step(25, pause=True), Step(50, hold=10, match=(Match("x-staff"),))),
    checks=Checks(min_requests=10),
    progress_deadline=100,
)
GOOD = Evidence(Side(20000, 0), Side(1000, 0))
BAD = Evidence(Side(20000, 0), Side(1000, 300))
SERVING = Rollout(stable="v1", declared="v1", plan=PLAN)


class Story:
    """A rollout that is fed with events, a second apart unless it says otherwise."""

    def __init__(self, state: Rollout = SERVING, now: float = 0.0) -> None:
        self.state, self.now = state, now
        self.actions: list[Action] = []

    def then(self, *events: Event, after: float = 1.0) -> Story:
        for event in events:
            self.now += after
            self.state, new = advance(self.state, event, self.now)
            self.actions += new
        return self

    @property
    def position(self) -> tuple[Stage, Reason, int]:
        return self.state.stage, self.state.reason, self.state.weight

    @property
    def kept(self) -> list[str]:
        return list(self.state.wanted)


def stepping() -> Story:
    return Story().then(Target("v2", PLAN), CanaryReady(), GatesPassed())


def test_a_good_version_goes_through_its_steps_to_promoted() -> None:
    story = Story().then(Target("v2", PLAN))
    assert story.position == (Stage.LOADING, Reason.CANARY_LOADING, 0)
    assert story.state.wanted == ("v1", "v2")
    story.then(CanaryReady())
    assert story.position == (Stage.GATING, Reason.GATES_RUNNING, 0)
    story.then(GatesPassed())
    assert story.position == (Stage.STEPPING, Reason.STEP_RUNNING, 5)
    story.then(Tick(GOOD))
    assert story.position == (Stage.STEPPING, Reason.STEP_RUNNING, 5)
    story.then(Tick(), after=10)
    assert story.position == (Stage.PAUSED, Reason.PAUSE_STEP, 25)
    story.then(Tick(GOOD), after=500)
    assert story.position == (Stage.PAUSED, Reason.PAUSE_STEP, 25)
    story.then(Promote())
    assert story.position == (Stage.STEPPING, Reason.STEP_RUNNING, 50)
    assert story.state.match == (Match("x-staff"),)
    story.then(Tick(GOOD), after=11)
    assert story.position == (Stage.HEALTHY, Reason.COMPLETED, 0)
    assert (story.state.stable, story.state.canary, story.state.previous) == ("v2", "", "v1")
    assert story.kept == ["v2", "v1"], "what was stable is kept for a while"
    story.then(Tick(), after=31)
    assert story.kept == ["v2"]
    assert [type(action) for action in story.actions] == [Changed] * 6
    assert story.actions[2] == Changed(Reason.STEP_RUNNING, "step 1 of 3: weight 5 %, for 10 s")


def test_clear_evidence_aborts_at_once() -> None:
    story = stepping().then(Tick(BAD))
    assert story.position == (Stage.DEGRADED, Reason.ANALYSIS_FAILED, 0)
    assert story.state.phase is Phase.DEGRADED
    assert story.state.message.startswith("canary fails 30 % of 1,000 calls")
    assert (story.state.stable, story.state.active_canary) == ("v1", "")
    assert story.state.verdicts


def test_a_pause_does_not_stop_the_checks() -> None:
    story = stepping().then(Promote(), Tick(BAD))
    assert story.position == (Stage.DEGRADED, Reason.ANALYSIS_FAILED, 0)


def test_without_data_it_waits_then_pauses_then_goes_on_when_data_comes() -> None:
    story = stepping().then(*[Tick()] * 10, after=10)
    assert story.position == (Stage.STEPPING, Reason.STEP_RUNNING, 5)
    story.then(Tick(), after=20)
    assert story.position == (Stage.PAUSED, Reason.INCONCLUSIVE, 5)
    assert story.state.message == "canary answered 0 of at least 10 calls; canary has answered no call yet"
    story.then(Tick(), after=1000)
    assert story.position == (Stage.PAUSED, Reason.INCONCLUSIVE, 5)
    story.then(Tick(GOOD))
    assert story.position == (Stage.PAUSED, Reason.PAUSE_STEP, 25)


def test_broken_measuring_pauses_and_neither_fails_nor_passes() -> None:
    story = stepping().then(Tick(replace(GOOD, trouble="no numbers for 12 s")), after=50)
    assert story.position == (Stage.STEPPING, Reason.STEP_RUNNING, 5)
    story.then(Tick(Evidence(trouble="no numbers for 70 s")), after=100)
    assert story.position == (Stage.PAUSED, Reason.ANALYSIS_ERROR, 5)
    assert "no numbers for 70 s" in story.state.message


def test_each_step_begins_with_fresh_evidence_but_the_last_knows_the_stable_version() -> None:
    plan = replace(PLAN, steps=(Step(5), Step(50), Step(100)))
    story = Story().then(Target("v2", plan), CanaryReady(), GatesPassed(), Tick(GOOD))
    assert story.state.evidence == Evidence()
    story.then(Tick(GOOD))
    assert (story.state.weight, story.state.mirror) == (100, 0)
    assert story.state.evidence == Evidence(stable=GOOD.stable)


@pytest.mark.parametrize("stage", ["loading", "gating"])
def test_a_canary_that_is_never_ready_is_given_up(stage: str) -> None:
    story = Story().then(Target("v2", PLAN))
    if stage == "gating":
        story.then(CanaryReady())
    story.then(Tick(), after=99)
    assert story.state.stage is Stage(stage)
    story.then(Tick(), after=99)
    assert story.position == (Stage.DEGRADED, Reason.DEADLINE, 0)


def test_failures_before_any_call_have_their_own_reasons() -> None:
    loading = Story().then(Target("v2", PLAN))
    loading.then(CanaryFailed("no runtime fits"))
    assert (loading.position, loading.state.message) == (
        (Stage.DEGRADED, Reason.CANARY_FAILED, 0),
        "no runtime fits",
    )
    assert loading.state.wanted == ("v1",)
    gating = Story().then(Target("v2", PLAN), CanaryReady())
    gating.then(GateFailed(Reason.SIGNATURE_CHANGED, "input 'x' is gone"))
    assert gating.position == (Stage.DEGRADED, Reason.SIGNATURE_CHANGED, 0)


def test_workers_that_die_too_often_end_it() -> None:
    story = stepping().then(*[CanaryLost("killed")] * 2)
    assert story.state.stage is Stage.STEPPING
    story.then(CanaryLost("killed"))
    assert story.position == (Stage.DEGRADED, Reason.CANARY_LOST, 0)


def test_a_canary_that_is_down_does_not_use_up_its_time_but_its_deadline() -> None:
    story = stepping().then(Tick(GOOD, is_up=False), after=50)
    assert (story.state.held, story.state.down) == (0, 50)
    assert story.state.stage is Stage.STEPPING
    story.then(Tick(is_up=False), after=51)
    assert story.position == (Stage.DEGRADED, Reason.CANARY_LOST, 0)
    paused = stepping().then(Promote()).then(Tick(is_up=False), after=101)
    assert paused.position == (Stage.DEGRADED, Reason.CANARY_LOST, 0)


def test_what_failed_is_tried_again_only_for_a_reason() -> None:
    story = stepping().then(Abort("a hunch"))
    assert (story.position, story.state.message) == ((Stage.DEGRADED, Reason.ABORTED, 0), "a hunch")
    story.then(Target("v2", PLAN), CanaryReady(), Tick(), Stable("v1"), CanaryFailed("late"))
    assert story.position == (Stage.DEGRADED, Reason.ABORTED, 0)
    retried = Story(story.state).then(Retry())
    assert (retried.position[0], retried.state.number) == (Stage.LOADING, 2)
    changed = Story(story.state).then(Target("v2", replace(PLAN, max_restarts=9)))
    assert (changed.position[0], changed.state.plan.max_restarts) == (Stage.LOADING, 9)
    moved = Story(story.state).then(Target("v3", PLAN))
    assert (moved.position[0], moved.state.canary) == (Stage.LOADING, "v3")
    back = Story(story.state).then(Target("v1", PLAN))
    assert (back.position, back.state.canary) == ((Stage.HEALTHY, Reason.SUPERSEDED, 0), "")


def test_another_kit_midway_begins_anew() -> None:
    story = stepping().then(Tick(GOOD), Target("v3", PLAN))
    assert story.position == (Stage.LOADING, Reason.CANARY_LOADING, 0)
    assert (story.state.canary, story.state.evidence, story.state.number) == ("v3", Evidence(), 2)


def test_another_plan_midway_never_lowers_the_weight() -> None:
    story = stepping().then(Promote())
    assert story.state.weight == 25
    finer = replace(PLAN, steps=tuple(Step(weight, hold=5) for weight in (1, 10, 30, 60)))
    story.then(Target("v2", finer))
    assert (story.state.step, story.state.weight) == (2, 30)
    lower = replace(PLAN, steps=(Step(10), Step(20)))
    story.then(Target("v2", lower))
    assert story.state.weight == 20


def test_two_applies_end_in_one_outcome() -> None:
    once = Story().then(Target("v2", PLAN), CanaryReady())
    twice = Story().then(Target("v2", PLAN), Target("v2", PLAN), CanaryReady(), Target("v2", PLAN))
    assert replace(twice.state, clock=0, held=0) == replace(once.state, clock=0, held=0)


def test_a_rollback_skips_gates_and_steps_and_the_config_does_not_undo_it() -> None:
    story = stepping().then(Promote(full=True))
    assert (story.state.stable, story.state.previous) == ("v2", "v1")
    story.then(Rollback("v1"))
    assert (story.position[0], story.state.wanted) == (Stage.LOADING, ("v2", "v1"))
    story.then(CanaryReady(), Target("v2", PLAN), Tick())
    assert story.position == (Stage.HEALTHY, Reason.COMPLETED, 0)
    assert story.state.stable == "v1"
    story.then(Retry())
    assert (story.position[0], story.state.canary, story.state.rollback) == (Stage.LOADING, "v2", False)


def test_a_rollback_stays_one_when_the_config_asks_for_the_same() -> None:
    story = stepping().then(Target("v2", PLAN, "of v2"), Promote(full=True), Rollback("v1"))
    story.then(Target("v1", PLAN, "of v1"))
    assert (story.position[0], story.state.canary, story.state.declared) == (Stage.LOADING, "v1", "v1")
    story.then(CanaryReady())
    assert (story.position, story.state.stable) == ((Stage.HEALTHY, Reason.COMPLETED, 0), "v1")


def test_a_rollback_to_what_serves_is_an_abort() -> None:
    assert stepping().then(Rollback("v1")).position == (Stage.DEGRADED, Reason.ABORTED, 0)


def test_a_rollback_that_cannot_be_loaded_leaves_the_stable_version_and_is_retried_as_one() -> None:
    story = Story().then(Rollback("v0"), CanaryFailed("its registry is gone"))
    assert (story.position[1], story.state.stable) == (Reason.CANARY_FAILED, "v1")
    assert story.then(Retry()).state.rollback
    assert story.then(CanaryReady()).state.stable == "v0"


def test_the_stable_version_may_change_by_itself() -> None:
    assert stepping().then(Stable("v2")).position == (Stage.HEALTHY, Reason.COMPLETED, 0)
    other = stepping().then(Tick(GOOD), Stable("v1b"))
    assert (other.position[0], other.state.stable, other.state.evidence) == (Stage.LOADING, "v1b", Evidence())
    first = Story(Rollout()).then(Target("v1", PLAN), Stable("v1"))
    assert (first.position[0], first.state.stable, first.state.declared) == (Stage.HEALTHY, "v1", "v1")


@pytest.mark.parametrize(
    ("story", "order"),
    [
        (Story(), Promote()),
        (Story(), Abort()),
        (Story(), Retry()),
        (Story(), Rollback("v1")),
        (Story().then(Target("v2", PLAN)), Promote(full=True)),
        (stepping(), Retry()),
        (stepping().then(Abort()), Promote()),
        (stepping().then(Abort()), Abort()),
        (stepping().then(Abort()), Rollback("v1")),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_with_words(story: Story, order: Event) -> None:
    after, actions = advance(story.state, order, story.now)
    assert after == story.state
    (refused,) = actions
    assert isinstance(refused, Refused)
    assert refused.message


def test_a_shadow_step_mirrors_and_takes_no_calls() -> None:
    plan = Plan(steps=(Step(0, hold=5, mirror=1.0), Step(10)), checks=Checks(agreement=Agreement()))
    story = Story().then(Target("v2", plan), CanaryReady(), GatesPassed())
    assert (story.state.weight, story.state.mirror) == (0, 1.0)
    story.then(Tick(Evidence(mirrored=MirroredCalls(500, 499))), after=6)
    assert (story.state.weight, story.state.mirror) == (10, 0.1)


def test_another_clock_lets_no_time_pass() -> None:
    story = stepping().then(Tick(GOOD), after=5)
    held = story.state.held
    resumed, actions = advance(story.state, Resumed(), 1_000_000.0)
    assert (resumed.held, actions) == (held, ())
    backwards = Story(story.state, 0.0).then(Resumed()).then(Tick(), after=1.0)
    assert backwards.state.held == pytest.approx(held + 1.0)


def test_a_new_start_of_kitserve_forgets_the_workers_and_nothing_else() -> None:
    story = stepping().then(Tick(GOOD, workers=("a", "b")))
    assert story.state.workers == ("a", "b")
    resumed, actions = advance(story.state, Resumed(), 7.0)
    assert (resumed, actions) == (replace(story.state, clock=7.0), ())
    started, actions = advance(story.state, Resumed(is_new_start=True), 7.0)
    assert (started, actions) == (replace(story.state, clock=7.0, workers=()), ())


def test_a_saved_rollout_is_read_as_it_was() -> None:
    for story in (Story(), stepping().then(Tick(GOOD)), stepping().then(Tick(BAD))):
        assert rollout_from_json(rollout_to_json(story.state)) == story.state


def test_every_pair_of_stage_and_event_is_in_the_table() -> None:
    events = set(typing.get_args(Event)) - {Resumed}
    assert set(TABLE) == set(Stage)
    for stage, row in TABLE.items():
        assert set(row) == events, stage
        assert all(handler.__doc__ for handler in row.values())

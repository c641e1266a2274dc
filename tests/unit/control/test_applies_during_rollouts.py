"""A config that is applied while a rollout is on its way, and stable versions that are lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.control.state.status import ModelState
from gateway.errors import ControlError
from gateway.rollout.events import Abort, Promote, Retry, Rollback
from gateway.rollout.state import Reason, Stage
from tests.support.rollouts import DESCRIPTION, ROLLOUT, World, digest, kit

PAUSING: dict[str, Any] = {**ROLLOUT, "steps": [{"weight": 20, "pause": True}, {"weight": 60, "for": "5s"}]}
OTHER: dict[str, Any] = {**ROLLOUT, "steps": [{"weight": 1, "for": "5s"}]}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "state.db")
    world.registry = {"v1", "v2", "v3"}
    world.serve("v1")
    yield world
    world.state.close()


def to_stage(world: World, stage: Stage) -> None:
    """Bring a rollout of v2 to a stage."""
    if stage is Stage.DEGRADED:
        world.call_for(600, ("v1", 2, 200))
    world.apply("v2", PAUSING if stage is Stage.PAUSED else ROLLOUT)
    world.tick(ready=stage is not Stage.LOADING)
    world.tick(ready=stage is not Stage.LOADING)
    if stage is Stage.GATING:
        world.descriptions.pop(world.app("v2"))
    world.tick()
    if stage not in (Stage.LOADING, Stage.GATING):
        world.tick()
    if stage is Stage.DEGRADED:
        world.call_for(5, ("v1", 90, 200), ("v2", 6, 500))
        world.tick()
    assert world.position()[0] is stage


STAGES = [Stage.LOADING, Stage.GATING, Stage.STEPPING, Stage.PAUSED, Stage.DEGRADED]


@pytest.mark.parametrize("stage", STAGES)
def test_the_stable_kit_ends_a_rollout_at_once(world: World, stage: Stage) -> None:
    to_stage(world, stage)
    world.apply("v1")
    world.tick()
    world.tick()
    assert world.position() == (Stage.HEALTHY, Reason.SUPERSEDED, 0)
    assert world.route() == ("v1", None, 0)
    world.tick(20)
    assert world.route() == ("v1", None, 0)
    assert set(world.workers) == {world.app("v1")}


@pytest.mark.parametrize("stage", STAGES)
def test_another_kit_is_a_new_rollout_at_once(world: World, stage: Stage) -> None:
    to_stage(world, stage)
    before = world.rollouts.get("iris")
    world.apply("v3", OTHER)
    world.tick()
    world.tick(ready=False)
    rollout = world.rollouts.get("iris")
    assert rollout is not None
    assert before is not None
    assert (rollout.stage, rollout.weight, rollout.number) == (Stage.LOADING, 0, before.number + 1)
    assert rollout.canary == str(kit("v3").pinned(digest("v3")))
    assert world.route() == ("v1", None, 0)
    assert [step.weight for step in rollout.plan.steps] == [1]


@pytest.mark.parametrize("tag", ["v1", "v2", "v3"])
@pytest.mark.parametrize("stage", [Stage.LOADING, Stage.STEPPING, Stage.PAUSED])
def test_a_kit_named_by_its_digest_is_in_force_at_once_too(world: World, stage: Stage, tag: str) -> None:
    to_stage(world, stage)
    world.apply(tag, OTHER, kit=str(kit(tag).pinned(digest(tag))))
    (model,) = world.tick(0.1, ready=False).models
    assert model.state is not ModelState.READY, "not before it is in force"
    world.tick(0.1, ready=False)
    world.tick(0.1, ready=False)
    rollout = world.rollouts.get("iris")
    assert rollout is not None
    assert rollout.declared == str(kit(tag).pinned(digest(tag)))
    assert rollout.plan.steps[0].weight == 1
    assert rollout.active_canary == ("" if tag == "v1" else rollout.declared)


def test_a_kit_named_by_its_digest_goes_on_where_that_is_refused_later(world: World) -> None:
    to_stage(world, Stage.STEPPING)
    assert world.registry is not None
    world.registry.clear()
    world.apply("v2", kit=str(kit("v2").pinned(digest("v2"))))
    for _ in range(3):
        (model,) = world.tick(0.1).models
    assert model.state is ModelState.FAILED
    assert model.message.count("no such tag") == 1
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 10)
    assert world.route() == ("v1", "v2", 10), "what runs goes on"


@pytest.mark.parametrize("stage", STAGES)
def test_a_kit_that_does_not_exist_is_told_and_leaves_what_runs(world: World, stage: Stage) -> None:
    to_stage(world, stage)
    position, route = world.position(), world.route()
    world.apply("nope", OTHER)
    world.tick(0.1)
    for _ in range(2):
        (model,) = world.tick(0.1, ready=False).models
        assert model.state is ModelState.FAILED
        assert "registry.test/iris:nope: no such tag" in model.message
    assert world.position() == position
    assert world.route() == route


def test_what_runs_goes_on_to_its_end_beside_a_kit_that_does_not_exist(world: World) -> None:
    to_stage(world, Stage.STEPPING)
    world.apply("nope", OTHER)
    for _ in range(4):
        world.call("v1", 3000)
        world.call("v2", 300)
        world.tick(6)
    assert world.position() == (Stage.HEALTHY, Reason.COMPLETED, 0)
    assert world.route() == ("v2", None, 0)


def test_a_reference_that_is_corrected_is_another_kit_but_for_the_one_on_trial(world: World) -> None:
    to_stage(world, Stage.STEPPING)
    before = world.rollouts.get("iris")
    assert before is not None
    for tag in ("nope", "v2"):
        world.apply(tag)
        for _ in range(3):
            world.tick(0.5)
    after = world.rollouts.get("iris")
    assert after is not None
    assert (after.number, after.step, after.weight) == (before.number, 0, 10), "it goes on where it was"
    world.rollouts.order("iris", Abort())
    for tag in ("nope", "v2"):
        world.apply(tag)
        for _ in range(3):
            world.tick(0.5)
    after = world.rollouts.get("iris")
    assert after is not None
    assert after.number == before.number + 1


def test_a_kit_that_was_rolled_back_is_another_one_after_one_that_did_not_exist(world: World) -> None:
    to_stage(world, Stage.STEPPING)
    world.rollouts.order("iris", Promote(full=True))
    world.tick()
    world.rollouts.order("iris", Rollback(""))
    for _ in range(3):
        world.tick()
    assert world.route() == ("v1", None, 0)
    world.apply("nope")
    for _ in range(3):
        world.tick()
    world.apply("v2")
    for _ in range(3):
        world.tick()
    assert world.position()[0] is Stage.STEPPING


def test_a_registry_that_is_away_starts_nothing_that_had_failed(world: World) -> None:
    to_stage(world, Stage.DEGRADED)
    before = world.rollouts.get("iris")
    assert world.registry is not None
    world.registry.remove("v2")
    world.apply("v2")
    for _ in range(3):
        world.tick()
    world.registry.add("v2")
    world.apply("v2")
    for _ in range(3):
        world.tick()
    after = world.rollouts.get("iris")
    assert before is not None
    assert after is not None
    assert (after.stage, after.number) == (Stage.DEGRADED, before.number)


def test_while_a_kit_is_being_resolved_nothing_is_concluded(world: World) -> None:
    to_stage(world, Stage.STEPPING)
    world.apply("v1", OTHER)
    world.call("v1", 3000)
    world.call("v2", 300)
    (model,) = world.tick(60).models
    assert model.message == "registry.test/iris:v1: resolving its reference"
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 10)
    world.tick(1)
    assert world.route() == ("v1", None, 0)


def test_an_apply_of_the_same_changes_nothing(world: World) -> None:
    to_stage(world, Stage.STEPPING)
    before = world.rollouts.get("iris")
    assert before is not None
    world.apply("v2")
    for _ in range(2):
        world.tick(0.5)
        after = world.rollouts.get("iris")
        assert after is not None
        assert (after.number, after.step, after.weight) == (before.number, before.step, before.weight)
        assert world.route() == ("v1", "v2", 10)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage is not Stage.LOADING])
def test_other_settings_of_the_canary_are_tried_from_the_start(world: World, stage: Stage) -> None:
    to_stage(world, stage)
    earlier = world.app("v2")
    world.apply("v2", runtime="torchscript")
    world.tick()
    world.tick()
    rollout = world.rollouts.get("iris")
    assert rollout is not None
    assert (rollout.stage, rollout.number) == (Stage.LOADING, 2)
    assert world.route() == ("v1", None, 0)
    for _ in range(3):
        world.tick()
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 10)
    assert world.state.routes()["iris"].canary not in (None, earlier)


def test_settings_for_the_next_kit_are_not_tried_on_the_one_that_serves(world: World) -> None:
    app = world.app("v1")
    world.apply("v2", runtime="torchscript")
    plans = [world.tick() for _ in range(4)]
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 10)
    assert {version.label for plan in plans for version in plan.deploy} == {"v2"}
    assert world.state.routes()["iris"].stable == app
    canary = world.app("v2")
    assert world.state.versions()[canary].runtime == "torchscript"
    for _ in range(2):
        world.call("v1", 3000)
        world.call("v2", 300)
        world.tick(6)
    assert world.route() == ("v2", None, 0)
    assert app in world.workers, "it is kept for a while, as it was"
    world.apply("v1")
    for _ in range(3):
        world.tick()
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 10)
    assert world.state.routes()["iris"].canary == app


def test_a_rollback_returns_to_a_version_as_it_was_run_also_when_it_is_gone(world: World) -> None:
    world.apply("v2", runtime="torchscript", file="other.pt")
    for _ in range(4):
        world.tick()
    world.rollouts.order("iris", Promote(full=True))
    for _ in range(4):
        world.tick(20)
    assert [version.label for version in world.state.versions().values()] == ["v2"]
    world.rollouts.order("iris", Rollback("v1"))
    for _ in range(3):
        world.tick()
    assert world.route() == ("v1", None, 0)
    version = world.state.versions()[world.app("v1")]
    assert (version.runtime, version.file) == (None, None)
    world.apply("v1", runtime="onnx")
    for _ in range(4):
        world.tick()
    assert world.state.versions()[world.app("v1")].runtime == "onnx", "until the config asks for it"


def test_a_stable_version_that_is_tried_again_keeps_its_settings(world: World) -> None:
    world.apply("v2", runtime="torchscript")
    for _ in range(4):
        world.tick()
    app = world.app("v1")
    world.workers.pop(app)
    world.state.condemn_version(app)
    world.tick()
    for _ in range(2):
        world.tick()
    assert world.state.versions()[world.app("v1")].runtime is None


def test_settings_of_the_kit_that_serves_are_its_own_again_once_it_is_asked_for(world: World) -> None:
    world.apply("v1", runtime="torchscript")
    before = world.app("v1")
    for _ in range(3):
        world.tick()
    after = world.state.routes()["iris"].stable
    assert after not in (None, before)
    assert world.position() == (Stage.HEALTHY, Reason.NONE, 0)


@pytest.mark.parametrize("stage", [Stage.LOADING, Stage.GATING, Stage.STEPPING, Stage.PAUSED])
def test_where_the_stable_version_is_lost_a_canary_takes_over(world: World, stage: Stage) -> None:
    to_stage(world, stage)
    world.lose("v1")
    world.descriptions.pop(world.app("v1"))
    for _ in range(5):
        world.tick()
        for app in world.workers:
            world.descriptions.setdefault(app, DESCRIPTION)
        if stage is Stage.LOADING and world.app("v2") not in world.workers:
            world.load("v2")
    assert world.position() == (Stage.HEALTHY, Reason.STABLE_LOST, 0)
    assert world.route() == ("v2", None, 0)
    rollout = world.rollouts.get("iris")
    assert rollout is not None
    assert "its layers are gone" in rollout.message


def test_what_the_config_asks_for_has_not_failed_while_it_may_take_over(world: World) -> None:
    world.lose("v1")
    world.apply("v2")
    world.state.fail(world.kind("v1"), world.state.desired().generation, "its layers are gone")
    for _ in range(3):
        (model,) = world.tick(ready=False).models
    assert (model.state, model.message) == (
        ModelState.LOADING,
        "canary: starting a worker; its layers are gone",
    )
    world.load("v2")
    states = [world.tick().models[0].state for _ in range(3)]
    assert ModelState.FAILED not in states
    assert (states[-1], world.route()) == (ModelState.READY, ("v2", None, 0))


@pytest.mark.parametrize("is_canary_lost", [False, True])
def test_a_stable_version_that_sleeps_and_cannot_be_woken_is_lost(
    tmp_path: Path, is_canary_lost: bool
) -> None:
    world = World(tmp_path / "sleeping.db")
    world.replicas = {"min": 0, "max": 1}
    world.serve("v1")
    world.to_step("v2")
    world.draining |= world.workers.keys()
    world.tick()
    world.lose("v1")
    if is_canary_lost:
        world.lose("v2")
    else:
        world.workers.pop(world.app("v2"))
    world.draining.clear()
    for _ in range(2):
        world.tick()
    if is_canary_lost:
        assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 10)
    else:
        assert world.position() == (Stage.HEALTHY, Reason.STABLE_LOST, 0)
        assert world.route() == ("v2", None, 0), "the next call wakes it"
    world.state.close()


def test_what_still_takes_calls_for_the_stable_version_is_not_lost_with_it(world: World) -> None:
    assert world.registry is not None
    world.registry.add("same")
    world.unloadable.add("same")
    world.apply("same")
    world.pins[kit("same")] = digest("v1")
    world.tick()
    world.pins[kit("same")] = digest("v1")
    for _ in range(2):
        world.tick()
    assert world.route() == ("v1", None, 0), "the same kit under another tag, which does not load"
    world.to_step("v2")
    world.tick()
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 10)
    assert world.route() == ("v1", "v2", 10)
    for _ in range(2):
        world.call("v1", 3000)
        world.call("v2", 300)
        world.tick(6)
    assert world.position() == (Stage.HEALTHY, Reason.COMPLETED, 0)


def test_a_canary_that_failed_takes_nothing_over_unless_a_person_says_so(world: World) -> None:
    to_stage(world, Stage.DEGRADED)
    world.lose("v1")
    for _ in range(3):
        world.tick()
    assert world.position() == (Stage.DEGRADED, Reason.ANALYSIS_FAILED, 0)
    world.rollouts.order("iris", Retry())
    for _ in range(5):
        world.tick()
    assert world.route() == ("v2", None, 0)


def test_a_stable_version_that_is_away_for_a_moment_keeps_its_place(world: World) -> None:
    to_stage(world, Stage.STEPPING)
    tally = world.workers.pop(world.app("v1"))
    world.tick(60)
    assert world.route() == ("v1", "v2", 100), "what is ready serves meanwhile"
    world.call("v2", 100, status=500)
    world.tick(60)
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 10), "and nothing is held against it"
    world.workers[world.app("v1")] = tally
    world.tick()
    assert world.route() == ("v1", "v2", 10)


def test_a_canary_that_no_caller_may_see_does_not_stand_in(world: World) -> None:
    world.apply("v2", {**ROLLOUT, "steps": [{"weight": 0, "mirror": 1.0, "for": "5s"}]})
    for _ in range(4):
        world.tick()
    world.workers.pop(world.app("v1"))
    world.tick()
    assert world.route() == ("v1", "v2", 0)


def test_a_person_may_promote_before_the_gates(world: World) -> None:
    to_stage(world, Stage.GATING)
    with pytest.raises(ControlError, match="has not passed its gates yet: `promote --full`"):
        world.rollouts.order("iris", Promote())
    world.rollouts.order("iris", Promote(full=True))
    world.tick()
    assert world.position() == (Stage.HEALTHY, Reason.COMPLETED, 0)
    assert world.route() == ("v2", None, 0)


def test_settings_that_change_with_the_next_kit_outlive_the_gateway(world: World) -> None:
    world.apply("v2", runtime="torchscript")
    for _ in range(4):
        world.tick()
    route = world.state.routes()["iris"]
    world.die()
    plan = world.tick()
    assert plan.deploy == ()
    assert world.state.routes()["iris"] == route
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 10)

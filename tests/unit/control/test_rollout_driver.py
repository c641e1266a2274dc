"""Rollouts as they run: config and workers become events, states are saved, orders are obeyed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.contract import AppName, Description, Mirroring
from gateway.control.state.desired import Desired
from gateway.control.state.status import ModelState, RetryStatus
from gateway.errors import ControlError, StoreError
from gateway.metrics.pairs import AnswerPairs, FaultyAnswers
from gateway.rollout.events import Abort, Promote, Retry, Rollback
from gateway.rollout.plan import Agreement, AnswerChecks
from gateway.rollout.state import Reason, Stage
from runtimes.base import Signature, TensorSpec
from tests.support.rollouts import ROLLOUT, SIGNATURE, World, digest, kit


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "state.db")
    world.serve("v1")
    yield world
    world.state.close()


def test_the_first_version_serves_without_a_rollout(world: World) -> None:
    assert world.position() == (Stage.HEALTHY, Reason.NONE, 0)
    assert world.route() == ("v1", None, 0)


def test_workers_are_awaited_as_soon_as_their_model_may_have_a_rollout_and_after_a_restart(
    world: World,
) -> None:
    app = world.app("v1")
    assert not world.rollouts.is_unwatched(app)
    world.apply("v1", rollout=None)
    world.tick()
    assert world.rollouts.is_unwatched(app)
    assert not world.rollouts.is_unwatched(AppName("iris.v2.0123456789ab.01234567.1")), "it is not known yet"
    world.die()
    assert not world.rollouts.is_unwatched(app)
    world.tick()
    assert world.rollouts.is_unwatched(app)
    world.apply("v1")
    world.tick()
    assert not world.rollouts.is_unwatched(app)


def test_another_kit_walks_the_steps_and_is_promoted_without_a_new_worker(world: World) -> None:
    world.to_step()
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 10)
    assert world.route() == ("v1", "v2", 10)
    for weight in (10, 50):
        assert world.route()[2] == weight
        world.call("v1", 3000)
        world.call("v2", 300)
        plan = world.tick(6)
        assert plan.deploy == ()
    assert world.position() == (Stage.HEALTHY, Reason.COMPLETED, 0)
    assert world.route() == ("v2", None, 0)
    assert set(world.workers) == {world.app("v1"), world.app("v2")}, "v1 is kept for a while"
    world.tick(11)
    assert set(world.workers) == {world.app("v2")}
    assert world.rollouts.history("iris") == world.announced[::-1]
    reasons = [event.reason for event in world.rollouts.history("iris")]
    assert reasons == ["RolloutCompleted", "StepRunning", "StepRunning", "GatesRunning", "CanaryLoading"]


def test_a_canary_with_errors_is_aborted_in_the_tick_that_sees_them(world: World) -> None:
    world.call_for(600, ("v1", 2, 200))
    world.to_step()
    world.call_for(5, ("v1", 90, 200), ("v2", 6, 200), ("v2", 4, 500))
    plan = world.tick()
    assert world.position() == (Stage.DEGRADED, Reason.ANALYSIS_FAILED, 0)
    assert world.route() == ("v1", None, 0)
    (model,) = plan.models
    assert model.state is ModelState.FAILED
    assert "canary fails 40 % of 100 calls" in model.message
    assert model.rollout is not None
    assert {verdict.check for verdict in model.rollout.verdicts} == {"requests", "error_rate"}


def test_a_canary_that_cannot_be_loaded_leaves_the_stable_version(world: World) -> None:
    world.apply("v2")
    world.tick(ready=False)
    world.tick(ready=False)
    world.state.fail(world.kind("v2"), world.state.desired().generation, "no runtime fits")
    world.tick()
    assert world.position() == (Stage.DEGRADED, Reason.CANARY_FAILED, 0)
    assert world.route() == ("v1", None, 0)
    world.apply("v2")
    world.tick()
    assert world.position()[0] is Stage.DEGRADED, "an apply of the same is no second try"
    world.rollouts.order("iris", Retry())
    assert world.state.failures() == {}
    for _ in range(3):
        world.tick()
    assert world.position()[0] is Stage.STEPPING


def test_another_signature_is_refused_unless_it_is_allowed(world: World) -> None:
    world.apply("v2")
    world.tick()
    other = Signature((TensorSpec("features", "FP32", (-1, 4)),), SIGNATURE.outputs)
    world.descriptions[world.app("v2")] = Description("onnx", other)
    world.tick()
    world.tick()
    assert world.position() == (Stage.DEGRADED, Reason.SIGNATURE_CHANGED, 0)
    world.apply("v2", {**ROLLOUT, "allow_signature_change": True})
    for _ in range(3):
        world.tick()
    assert world.position()[0] is Stage.STEPPING


def test_workers_that_die_again_and_again_end_it(world: World) -> None:
    world.to_step()
    for _ in range(3):
        tally = world.workers.pop(world.app("v2"))
        world.tick()
        assert world.route()[::2] == ("v1", 0), "no call goes where nobody answers"
        world.workers[world.app("v2")] = tally
        world.tick()
    assert world.position() == (Stage.DEGRADED, Reason.CANARY_LOST, 0)


def test_a_worker_that_dies_with_the_gateway_is_counted(world: World) -> None:
    world.to_step()
    world.tick()
    lost = world.workers.pop(world.app("v2"))
    world.die()
    world.tick()
    rollout = world.rollouts.get("iris")
    assert rollout is not None
    assert rollout.restarts == 1
    world.workers[world.app("v2")] = lost
    world.tick()
    world.draining.add(world.app("v2"))
    world.tick()
    del world.workers[world.app("v2")]
    world.tick()
    rollout = world.rollouts.get("iris")
    assert rollout is not None
    assert rollout.restarts == 1, "who says that it goes has not died"


def test_workers_that_ended_with_all_of_kitserve_have_not_died(world: World) -> None:
    world.to_step()
    world.tick()
    for _ in range(4):
        workers = dict(world.workers)
        world.workers.clear()
        world.die(is_new_start=True)
        world.die()
        world.tick()
        world.workers |= workers
        world.tick()
    rollout = world.rollouts.get("iris")
    assert rollout is not None
    assert rollout.restarts == 0
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 10)
    world.workers.pop(world.app("v2"))
    world.tick()
    rollout = world.rollouts.get("iris")
    assert rollout is not None
    assert rollout.restarts == 1, "one that dies after the start is counted"


def test_versions_that_sleep_are_not_lost_and_go_on_when_called(tmp_path: Path) -> None:
    world = World(tmp_path / "state.db")
    world.replicas = {"min": 0, "max": 1}
    world.serve("v1")
    world.to_step()
    asleep = dict(world.workers)
    world.draining |= asleep.keys()
    world.tick()
    world.workers.clear()
    world.draining.clear()
    plan = world.tick(30)
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 10), "nobody called, so nothing is known"
    assert world.route() == ("v1", "v2", 10)
    assert all(backend.may_sleep for backend in plan.table.backends())
    world.workers |= asleep
    world.tick()
    world.call("v1", 3000)
    world.call("v2", 300)
    world.tick()
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 50)
    rollout = world.rollouts.get("iris")
    assert rollout is not None
    assert rollout.restarts == 0
    world.state.close()


def test_late_numbers_are_an_error_and_no_verdict(world: World) -> None:
    world.to_step()
    world.call("v1", 3000)
    world.call("v2", 300)
    world.late = frozenset([world.app("v2")])
    world.tick(6)
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 10)
    world.late = frozenset()
    world.tick(1)
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 50)


def test_a_gateway_that_comes_back_goes_on_with_its_evidence(world: World) -> None:
    world.to_step()
    world.call("v1", 1500)
    world.call("v2", 150)
    world.tick(2)
    before = world.rollouts.get("iris")
    world.die()
    world.tick(1)
    after = world.rollouts.get("iris")
    assert before is not None
    assert after is not None
    assert (after.number, after.step, after.evidence) == (before.number, before.step, before.evidence)
    assert after.held == before.held + 1
    world.call("v1", 1500)
    world.call("v2", 150)
    world.tick(3)
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 50)


def test_a_state_that_cannot_be_saved_is_not_acted_on(world: World) -> None:
    world.to_step()
    before = world.rollouts.get("iris")
    assert before is not None
    world.state.close()
    with pytest.raises(StoreError):
        world.rollouts.order("iris", Abort())
    assert world.rollouts.get("iris") == before


def test_orders_that_make_no_sense_are_refused(world: World) -> None:
    with pytest.raises(ControlError, match="model other has no rollout"):
        world.rollouts.order("other", Abort())
    with pytest.raises(ControlError, match="no rollout is on its way"):
        world.rollouts.order("iris", Promote())
    with pytest.raises(ControlError, match="no earlier version"):
        world.rollouts.order("iris", Rollback(""))
    served = rf"no version that served was called v9; these served: v1 \({digest('v1').short}\)"
    with pytest.raises(ControlError, match=served):
        world.rollouts.order("iris", Rollback("v9"))


@pytest.mark.parametrize("name", ["", "v1", str(digest("v1")), digest("v1").short])
def test_a_rollback_takes_the_version_before_or_the_one_that_is_named(world: World, name: str) -> None:
    world.to_step()
    world.rollouts.order("iris", Promote(full=True))
    world.tick(20)
    assert world.route()[0] == "v2"
    world.rollouts.order("iris", Rollback(name))
    for _ in range(3):
        world.tick()
    assert world.route() == ("v1", None, 0)
    world.apply("v2")
    world.tick()
    assert world.route() == ("v1", None, 0), "the same config does not undo it"
    with pytest.raises(ControlError, match="serves already"):
        world.rollouts.order("iris", Rollback("v1"))


def test_the_same_kit_under_another_tag_needs_no_trial(world: World) -> None:
    world.pins[kit("latest")] = digest("v1")
    world.apply("latest")
    for _ in range(3):
        world.tick()
    assert world.position()[0] is Stage.HEALTHY
    assert world.route() == ("latest", None, 0)


def test_other_bounds_amid_a_rollout_are_for_the_versions_that_run(world: World) -> None:
    world.to_step()
    apps = [world.app("v1"), world.app("v2")]
    world.replicas = {"min": 1, "max": 3}
    world.apply("v2")
    plan = world.tick()
    assert [(version.app, version.serving.scaling.max) for version in plan.deploy] == [
        (app, 3) for app in apps
    ]
    assert (world.tick().deploy, list(world.state.versions())) == ((), apps)
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 10)
    assert world.route() == ("v1", "v2", 10)


def test_a_model_that_drops_its_rollout_switches_plainly(world: World) -> None:
    world.to_step()
    world.apply("v2", None)
    world.tick()
    assert world.rollouts.get("iris") is None
    assert world.route() == ("v2", None, 0)


def test_a_rollout_that_comes_back_goes_on_counting(world: World) -> None:
    world.to_step()
    world.apply("v2", None)
    world.tick()
    world.tick()
    world.to_step("v1")
    numbers = [event.number for event in world.rollouts.history("iris")]
    assert (min(numbers), max(numbers)) == (1, 2)


def test_a_model_that_goes_amid_its_rollout_takes_it_along(world: World) -> None:
    world.to_step()
    world.state.apply(Desired(), "{}")
    plan = world.tick()
    assert (plan.routes, plan.table.routes, world.rollouts.get("iris")) == ({}, (), None)
    with pytest.raises(ControlError, match="has no rollout"):
        world.rollouts.order("iris", Abort())
    assert world.rollouts.history("iris") != []
    world.die()
    world.serve("v1")
    assert (world.position()[0], world.route()) == (Stage.HEALTHY, ("v1", None, 0))


@pytest.mark.parametrize("stage", [Stage.STEPPING, Stage.DEGRADED])
def test_another_kit_amid_a_rollout_or_after_one_begins_anew(world: World, stage: Stage) -> None:
    world.to_step()
    if stage is Stage.DEGRADED:
        world.rollouts.order("iris", Abort())
    world.to_step("v3")
    world.tick()
    assert world.position() == (Stage.STEPPING, Reason.STEP_RUNNING, 10)
    assert world.route() == ("v1", "v3", 10)


def test_a_rollback_to_what_is_gone_leaves_what_serves(world: World) -> None:
    world.to_step()
    world.rollouts.order("iris", Promote(full=True))
    world.tick(20)
    assert world.route()[0] == "v2"
    world.rollouts.order("iris", Rollback("v1"))
    world.tick(ready=False)
    world.state.fail(world.kind("v1"), world.state.desired().generation, "its registry has it no more")
    world.tick()
    assert world.position()[:2] == (Stage.DEGRADED, Reason.CANARY_FAILED)
    assert world.route() == ("v2", None, 0)


def test_a_kit_that_cannot_be_found_changes_nothing_but_is_told(world: World) -> None:
    world.apply("v3")
    del world.pins[kit("v3")]
    assert world.tick().resolve == (kit("v3"),)
    world.state.fail(kit("v3"), world.state.desired().generation, "no such tag")
    plan = world.tick()
    assert (plan.resolve, plan.models[0].state) == ((), ModelState.FAILED)
    assert "no such tag" in plan.models[0].message
    assert world.route() == ("v1", None, 0)


def test_the_stable_version_is_told_whom_to_mirror_to_while_it_steps(world: World) -> None:
    checks = {**ROLLOUT["checks"], "agreement": {"min": 0.9, "mirror": 0.3}}
    world.apply("v1", {**ROLLOUT, "checks": checks})
    world.apply("v2", {**ROLLOUT, "checks": checks})
    world.tick()
    assert world.rollouts.mirroring(world.app("v1")) is None
    world.tick()
    world.tick()
    mirroring = world.rollouts.mirroring(world.app("v1"))
    assert mirroring == Mirroring(0.3, (("10.0.0.1", 1),), Agreement(min=0.9, mirror=0.3))
    assert world.rollouts.mirroring(world.app("v2")) is None
    for _ in range(20):
        for _ in range(5):
            world.workers[world.app("v2")].compared(0.0, False, {}, {})
        world.call_for(0.5)
    world.tick()
    assert world.position()[:2] == (Stage.DEGRADED, Reason.ANALYSIS_FAILED)
    assert world.rollouts.mirroring(world.app("v1")) is None


def test_a_canary_whose_kit_cannot_be_fetched_for_a_while_is_waited_for_until_the_deadline(
    world: World,
) -> None:
    world.apply("v2", {**ROLLOUT, "progress_deadline": "60s"})
    world.tick(ready=False)
    world.tick(ready=False)
    kind = world.kind("v2")
    world.retries[kind] = RetryStatus("no answer", 1, 5.0, is_trying=False, has_failed=True)
    plan = world.tick(20)
    assert world.position() == (Stage.LOADING, Reason.CANARY_LOADING, 0)
    assert [version.kind for version in plan.retry] == [kind]
    assert world.route() == ("v1", None, 0)
    del world.retries[kind]
    world.tick(5)
    world.tick()
    assert world.position()[0] is not Stage.LOADING
    world.apply("v3", {**ROLLOUT, "progress_deadline": "60s"})
    world.tick(ready=False)
    world.tick(ready=False)
    world.retries[world.kind("v3")] = RetryStatus("no answer", 1, 5.0, is_trying=False, has_failed=True)
    world.tick(30)
    assert world.position()[0] is Stage.LOADING
    world.tick(31)
    assert world.position() == (Stage.DEGRADED, Reason.DEADLINE, 0)
    assert world.tick().retry == (), "what is not wanted is not tried again"


def test_a_language_model_is_judged_by_its_answers_and_mirrors_by_default(world: World) -> None:
    """What it does is known by its description; nothing in the config says so."""
    world.to_step()
    assert world.rollouts.mirroring(world.app("v1")) is None, "a model that gives tensors has no such check"
    for tag in ("v1", "v2"):
        world.descriptions[world.app(tag)] = Description("gguf", Signature((), ()), tasks=("chat",))
    world.tick()
    mirroring = world.rollouts.mirroring(world.app("v1"))
    assert mirroring == Mirroring(AnswerChecks().mirror, (("10.0.0.1", 1),), Agreement(), AnswerChecks())
    pair = AnswerPairs(1, {"empty": FaultyAnswers(1, canary=1)})
    for _ in range(20):
        world.workers[world.app("v1")].compared_answers(pair, is_worse=True, failed=False)
    world.tick()
    assert world.position() == (Stage.DEGRADED, Reason.ANALYSIS_FAILED, 0)
    (event, *_) = world.rollouts.history("iris")
    assert "canary says nothing in 100 % of 20 mirrored calls" in event.message

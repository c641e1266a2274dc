"""What a plan says of the next tick is what the next tick does, once the config is applied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.config.config import GatewayConfig
from gateway.control.planning.hypothesis import Hypothesis, serving, with_config
from gateway.control.planning.rollout_plan import rollout_plan
from gateway.control.state.desired import Desired, desired_from
from gateway.control.state.snapshot import Observed, Recorded
from tests.support.rollouts import ROLLOUT, World, digest, kit

OTHER = ROLLOUT | {"steps": [{"weight": 20, "pause": True}]}


def desired(tag: str, rollout: dict[str, Any] | None, **fields: Any) -> Desired:
    model = {"name": "iris", "kit": str(kit(tag)), **({"rollout": rollout} if rollout else {}), **fields}
    return desired_from(GatewayConfig.model_validate({"models": [model]}))


def view(world: World) -> tuple[Recorded, Observed]:
    """Return what the world's gateway remembers and sees."""
    recorded = Recorded(
        desired=world.state.desired(),
        pins=world.pins,
        failures=world.state.failures(),
        versions=world.state.versions(),
        routes=world.state.routes(),
        condemned=world.state.condemned(),
        earlier=world.state.earlier_versions(),
    )
    rollout = world.rollouts.get("iris")
    recorded = replace(recorded, rollouts={} if rollout is None else {"iris": rollout})
    return recorded, Observed(dict.fromkeys(recorded.versions, ""), (), frozenset(world.proven))


def predicted(world: World, tag: str, rollout: dict[str, Any] | None, **fields: Any) -> Hypothesis:
    recorded, observed = view(world)
    return with_config(recorded, observed, desired(tag, rollout, **fields), {kit(tag): digest(tag)}, {})


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "state.db")
    world.serve("v1")
    return world


@pytest.mark.parametrize(
    ("tag", "rollout", "fields"),
    [
        ("v1", ROLLOUT, {}),
        ("v2", ROLLOUT, {}),
        ("v2", None, {}),
        ("v1", None, {}),
        ("v1", OTHER, {}),
        ("v1", ROLLOUT, {"resources": {"cpus": 2}}),
        ("v2", ROLLOUT, {"resources": {"cpus": 2}}),
        ("v1", ROLLOUT, {"replicas": 3}),
    ],
)
@pytest.mark.parametrize("is_rolling_out", [False, True])
def test_the_next_tick_is_as_planned(
    world: World, tag: str, rollout: dict[str, Any] | None, fields: dict[str, Any], is_rolling_out: bool
) -> None:
    if is_rolling_out:
        world.to_step("v3")
    before = world.state.document()
    hypothesis = predicted(world, tag, rollout, **fields)
    assert world.state.document() == before
    world.apply(tag, rollout, **fields)
    plan = world.tick(0, ready=False)
    assert [version.kind for version in hypothesis.plan.deploy] == [version.kind for version in plan.deploy]
    assert [version.serving for version in hypothesis.plan.deploy] == [
        version.serving for version in plan.deploy
    ]
    after, expected = world.rollouts.get("iris"), hypothesis.rollout("iris")
    assert (after is None) == (expected is None)
    if after is not None and expected is not None:
        names = ("stable", "canary", "declared", "stage", "reason", "number", "plan")
        assert [getattr(after, name) for name in names] == [getattr(expected, name) for name in names]


def test_a_rollout_that_begins_goes_on_or_ends_is_told(world: World) -> None:
    def told(tag: str, rollout: dict[str, Any] | None) -> Any:
        return rollout_plan(world.rollouts.get("iris"), predicted(world, tag, rollout).rollout("iris"))

    assert told("v1", ROLLOUT) is None
    begins = told("v2", ROLLOUT)
    assert (begins.starts, begins.ends) == (True, "")
    assert begins.stable.startswith("v1 (")
    assert begins.canary.startswith("v2 (")
    assert begins.steps == ("weight 10 %, for 5 s", "weight 50 %, for 5 s")
    assert begins.checks[0] == "max_error_rate 0.05"
    world.to_step("v2")
    assert told("v2", ROLLOUT) is None
    other = told("v3", ROLLOUT)
    assert other.starts
    assert other.ends.startswith("the rollout of v2 (")
    back = told("v1", ROLLOUT)
    assert (back.starts, back.ends[:19]) == (False, "the rollout of v2 (")
    assert told("v2", None).ends.endswith("it takes over once it is ready")
    assert told("v2", OTHER).message == "the rollout under way goes on by the new plan"


def test_a_config_of_a_file_is_compared_as_if_it_were_served() -> None:
    before = desired("v1", ROLLOUT)
    recorded, observed = serving(before, {kit("v1"): digest("v1")})
    same = with_config(recorded, observed, before, {kit("v1"): digest("v1")}, {})
    assert same.plan.deploy == ()
    after = with_config(recorded, observed, desired("v2", ROLLOUT), {kit("v2"): digest("v2")}, {})
    assert [version.label for version in after.plan.deploy] == ["v2"]
    told = rollout_plan(None, after.rollout("iris"))
    assert told is not None
    assert told.starts


def test_a_changed_lock_begins_a_rollout_as_a_changed_tag_does(world: World) -> None:
    def told(tag: str) -> Any:
        pinned = kit("v1").pinned(digest(tag))
        wanted = desired("v1", ROLLOUT)
        wanted = replace(wanted, models=(replace(wanted.models[0], kit=pinned),))
        after = with_config(*view(world), wanted, {pinned: digest(tag)}, {})
        return rollout_plan(world.rollouts.get("iris"), after.rollout("iris")), after.plan.deploy

    assert told("v1") == (None, ())
    rollout, deployed = told("v2")
    assert rollout.starts
    assert [version.digest for version in deployed] == [digest("v2")]

"""Where no windows of workers are known, as in a replay of recorded bodies, each call is a unit."""

from __future__ import annotations

import pytest

from gateway.rollout.analysis import judge
from gateway.rollout.evidence import Evidence
from gateway.rollout.verdict import Outcome, overall
from tests.support.world_calls import Traffic
from tests.support.world_units import WorldFold
from tests.support.worlds import CANARIES, GOOD, WORLDS

WORLD = WORLDS[0]
STEP = 2
ROLLOUTS = 25


def outcomes(canary: str, number: int) -> list[Outcome]:
    """Return the outcome at each second of a step in which calls are independent of each other."""
    plan, evidence, seen = WORLD.plan, Evidence(), []
    traffic, fold = Traffic(WORLD, CANARIES[canary], (20, number), 90), WorldFold(WORLD)
    for second in range(40):
        new, _ = fold.take(traffic.calls(second, second + 1, plan.steps[STEP].weight, plan.mirror(STEP)))
        evidence += new
        seen.append(overall(judge(plan, STEP, evidence)))
    return seen


@pytest.mark.parametrize("number", range(ROLLOUTS))
def test_a_good_canary_fails_at_no_look_and_passes(number: int) -> None:
    seen = outcomes(GOOD, number)
    assert Outcome.FAILED not in seen
    assert seen[-1] is Outcome.SUCCESSFUL


@pytest.mark.parametrize("number", range(ROLLOUTS))
@pytest.mark.parametrize("canary", [canary for canary in CANARIES if canary != GOOD])
def test_a_bad_canary_passes_at_no_look_and_fails(canary: str, number: int) -> None:
    seen = outcomes(canary, number)
    assert Outcome.SUCCESSFUL not in seen
    assert seen[-1] is Outcome.FAILED

"""Judges made-up canaries in made-up worlds, rollout by rollout (many: `python -m loadtests.verdicts`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.rollout.events import CanaryReady, GatesPassed, Target, Tick
from gateway.rollout.evidence import Evidence
from gateway.rollout.history import Recent
from gateway.rollout.machine import advance
from gateway.rollout.state import Rollout, Stage
from tests.support.world_calls import Stream, Traffic
from tests.support.world_units import WorldFold
from tests.support.worlds import Version, World

_GRACE = 60.0


@dataclass(frozen=True, slots=True)
class End:
    """How a rollout ended, after how many seconds and calls that the canary had answered, and in what words.

    One that is neither promoted nor aborted paused for lack of evidence.
    """

    is_promoted: bool
    is_aborted: bool
    calls: int
    seconds: float
    message: str = ""


Method = Callable[[World, Version, tuple[int, ...]], End]


def judge_by_units(world: World, version: Version, seed: tuple[int, ...]) -> End:
    """Simulate one rollout by the state machine."""
    plan, tick = world.plan, world.tick
    horizon = len(plan.steps) * (plan.progress_deadline + max(step.hold for step in plan.steps)) + _GRACE
    traffic, fold, recent = Traffic(world, version, seed, horizon), WorldFold(world), Recent()
    _, units = fold.take(traffic.calls(-world.history, 0.0, 0))
    recent.add(units.stable, units.stable_callers)
    state = Rollout(stable="v1", declared="v1", plan=plan)
    for begun in (Target("v2", plan), CanaryReady(), GatesPassed()):
        state, _ = advance(state, begun, 0.0)
    stream, calls, now = Stream(traffic, tick), 0, 0.0
    while state.stage is Stage.STEPPING:
        sent = stream.take(now, state.weight, state.mirror)
        now += tick
        calls += int(sent.is_canary.sum())
        evidence, units = fold.take(sent)
        look = Tick(evidence, workers=("w3",), units=units, history=recent.history())
        recent.add(units.stable, units.stable_callers)
        state, _ = advance(state, look, now)
    return End(state.stage is Stage.HEALTHY, state.stage is Stage.DEGRADED, calls, now, state.message)


def judge_by_thresholds(world: World, version: Version, seed: tuple[int, ...]) -> End:
    """Simulate one rollout that compares bare rates with limits at each look, once there are enough calls."""
    plan, tick = world.plan, world.tick
    limit = plan.checks
    traffic, fold = Traffic(world, version, seed, 10 * plan.progress_deadline), WorldFold(world)
    stream, calls, now = Stream(traffic, tick), 0, 0.0
    for number, step in enumerate(plan.steps):
        evidence, since = Evidence(), now
        while True:
            sent = stream.take(now, step.weight, plan.mirror(number))
            now += tick
            calls += int(sent.is_canary.sum())
            evidence += fold.take(sent)[0]
            canary, stable, mirrored = evidence.canary, evidence.stable, evidence.mirrored
            if now - since > step.hold + plan.progress_deadline:
                return End(False, False, calls, now)
            if canary.calls < limit.min_requests or not stable.calls:
                continue
            assert limit.max_error_rate is not None
            assert limit.max_latency_ratio is not None
            assert limit.agreement is not None
            quantile = limit.latency_quantile
            has_failed = (
                canary.errors / canary.calls > stable.errors / stable.calls + limit.max_error_rate
                or canary.latencies.quantile(quantile)
                > limit.max_latency_ratio * stable.latencies.quantile(quantile)
                or mirrored.agreeing < limit.agreement.min * mirrored.compared
            )
            if has_failed:
                return End(False, True, calls, now)
            if now - since >= step.hold:
                break
    return End(True, False, calls, now)

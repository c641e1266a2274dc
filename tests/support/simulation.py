"""Simulates rollouts of made-up canaries, second by second: by the state machine, and by bare thresholds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np

from gateway.metrics.counts import BUCKETS, MirroredCalls
from gateway.metrics.evidence import CallerShares
from gateway.rollout.events import CanaryReady, GatesPassed, Target, Tick
from gateway.rollout.evidence import Evidence, Side
from gateway.rollout.machine import advance
from gateway.rollout.plan import Agreement, Checks, Plan, Step
from gateway.rollout.state import Rollout, Stage
from gateway.rollout.verdict import Outcome

PLAN = Plan(
    steps=(Step(5, hold=30), Step(25, hold=30), Step(50, hold=30)),
    checks=Checks(max_error_rate=0.01, max_latency_ratio=1.5, min_requests=50, agreement=Agreement()),
)
CALLS_PER_SECOND = 500
MAX_SECONDS = 3000
SEED = 20
_MEDIAN_SECONDS, _SPREAD = 0.002, 0.4


@dataclass(frozen=True)
class Version:
    """A made-up version: its share of errors, its latency as a multiple, its share of other answers."""

    errors: float = 0.001
    slower: float = 1.0
    differing: float = 0.01


STABLE = Version()
CANARIES: Mapping[str, tuple[Version, int]] = {
    "as good as the stable version": (Version(), 490),
    "errors on 5 % of calls": (Version(errors=0.05), 170),
    "3 times slower": (Version(slower=3.0), 170),
    "answers 20 % of calls otherwise": (Version(differing=0.2), 170),
}
"""Each kind of canary, and how many rollouts of it are simulated."""


@dataclass(frozen=True)
class Attacker:
    """A caller who sends many calls, beside all others. Each fails, or none, on either version."""

    calls_per_second: int
    errors: float


NOBODY = Attacker(0, 0.0)
ATTACKS: Mapping[str, tuple[Version, Attacker, int]] = {
    "as good as the stable version, and one caller's every call fails": (Version(), Attacker(10, 1.0), 20),
    "errors on 5 % of calls, and one caller sends 20 times as many that succeed": (
        Version(errors=0.05),
        Attacker(10_000, 0.0),
        20,
    ),
}
"""Each kind of canary that is attacked, and how many rollouts of it are simulated."""
_CALLERS = 20


@dataclass(frozen=True)
class End:
    """How a rollout ended, and how many calls the canary had answered by then."""

    promoted: bool
    aborted: bool
    calls: int
    seconds: int


def simulate(version: Version, random: np.random.Generator, attacker: Attacker = NOBODY) -> End:
    """Simulate one rollout by the state machine."""
    attack = Attack(attacker)
    state = Rollout(stable="v1", declared="v1", plan=PLAN)
    for event in (Target("v2", PLAN), CanaryReady(), GatesPassed()):
        state, _ = advance(state, event, 0.0)
    calls = 0
    for second in range(1, MAX_SECONDS):
        new = one_second(version, state.weight, state.mirror, random)
        calls += new.canary.calls
        if attacker is not NOBODY:
            new = attack.one_second(new, state.weight, second, random)
        state, _ = advance(state, Tick(new), float(second))
        if state.stage in (Stage.HEALTHY, Stage.DEGRADED):
            break
    return End(state.stage is Stage.HEALTHY, state.stage is Stage.DEGRADED, calls, second)


class Attack:
    """What an attacker's calls add to the evidence, beside those of so many callers who send as many each."""

    def __init__(self, attacker: Attacker) -> None:
        self._attacker = attacker
        self._shares = (CallerShares(), CallerShares())

    def one_second(self, new: Evidence, weight: int, second: int, random: np.random.Generator) -> Evidence:
        """Return the evidence with what counts of the attacker's calls; of the mirrored, all do."""
        sent = self._attacker.calls_per_second
        canary = int(random.binomial(sent, weight / 100))
        stable, trial = self._shares
        return replace(
            new,
            stable=self._with(new.stable, sent - canary, stable, second, random),
            canary=self._with(new.canary, canary, trial, second, random),
        )

    def _with(
        self, side: Side, sent: int, shares: CallerShares, second: int, random: np.random.Generator
    ) -> Side:
        for caller in range(_CALLERS):
            shares.take(b"caller %d" % caller, second, side.calls // _CALLERS)
        return side + _side(
            Version(errors=self._attacker.errors), shares.take(b"attacker", second, sent), random
        )


def simulate_thresholds(version: Version, random: np.random.Generator) -> End:
    """Simulate one rollout that compares bare rates with limits, once there are enough calls."""
    calls = second = 0
    for number, step in enumerate(PLAN.steps):
        evidence, since = Evidence(), second
        while True:
            second += 1
            new = one_second(version, step.weight, PLAN.mirror(number), random)
            evidence, calls = evidence + new, calls + new.canary.calls
            outcome = _compare(evidence)
            if outcome is Outcome.FAILED:
                return End(False, True, calls, second)
            if outcome is Outcome.SUCCESSFUL and second - since >= step.hold:
                break
    return End(True, False, calls, second)


def _compare(evidence: Evidence) -> Outcome:
    checks, canary, stable, mirrored = PLAN.checks, evidence.canary, evidence.stable, evidence.mirrored
    assert checks.max_error_rate is not None
    assert checks.max_latency_ratio is not None
    assert checks.agreement is not None
    if canary.calls < checks.min_requests:
        return Outcome.INCONCLUSIVE
    quantile = checks.latency_quantile
    failed = (
        canary.errors / canary.calls > stable.errors / stable.calls + checks.max_error_rate
        or canary.latencies.quantile(quantile)
        > checks.max_latency_ratio * stable.latencies.quantile(quantile)
        or mirrored.agreeing < checks.agreement.min * mirrored.compared
    )
    return Outcome.FAILED if failed else Outcome.SUCCESSFUL


def one_second(version: Version, weight: int, mirror: float, random: np.random.Generator) -> Evidence:
    """Draw what both versions do within a second."""
    calls = int(random.poisson(CALLS_PER_SECOND))
    canary_calls = int(random.binomial(calls, weight / 100))
    compared = int(random.binomial(calls - canary_calls, mirror))
    differing = int(random.binomial(compared, version.differing))
    return Evidence(
        _side(STABLE, calls - canary_calls, random),
        _side(version, canary_calls, random),
        MirroredCalls(compared, compared - differing),
    )


def _side(version: Version, calls: int, random: np.random.Generator) -> Side:
    latency = tuple(int(count) for count in random.multinomial(calls, _shares(version.slower)))
    return Side(calls, int(random.binomial(calls, version.errors)), latency)


@lru_cache
def _shares(slower: float) -> tuple[float, ...]:
    """Return the share of lognormal latencies in each bucket."""
    below = [
        (1 + math.erf(math.log(bound / _MEDIAN_SECONDS / slower) / _SPREAD / math.sqrt(2))) / 2
        for bound in BUCKETS
    ]
    return tuple(high - low for low, high in zip([0.0, *below], [*below, 1.0], strict=True))


@dataclass(frozen=True)
class Row:
    """All rollouts of one kind of canary under one method of judging."""

    canary: str
    judged: str
    rollouts: int
    promoted: int
    aborted: int
    calls: float
    seconds: float


def simulate_all() -> list[Row]:
    """Return all rows of the table. They are the same at each run."""
    methods: Mapping[str, Callable[[Version, np.random.Generator], End]] = {
        "sequential tests": simulate,
        "bare thresholds": simulate_thresholds,
    }
    rows = [
        _row(
            kind,
            judged,
            [partial(method, version)(np.random.default_rng([SEED, n])) for n in range(rollouts)],
        )
        for kind, (version, rollouts) in CANARIES.items()
        for judged, method in methods.items()
    ]
    rows += [
        _row(
            kind,
            "sequential tests",
            [simulate(version, np.random.default_rng([SEED, n]), attacker) for n in range(rollouts)],
        )
        for kind, (version, attacker, rollouts) in ATTACKS.items()
    ]
    return rows


def _row(kind: str, judged: str, ends: list[End]) -> Row:
    return Row(
        kind,
        judged,
        len(ends),
        sum(end.promoted for end in ends),
        sum(end.aborted for end in ends),
        sum(end.calls for end in ends) / len(ends),
        sum(end.seconds for end in ends) / len(ends),
    )


def table(rows: list[Row]) -> str:
    """Write the rows in Markdown, for the documentation."""
    lines = [
        "| canary | judged by | rollouts | promoted | aborted | mean calls it answered | mean seconds |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.canary} | {row.judged} | {row.rollouts} | {100 * row.promoted / row.rollouts:.1f} % "
        f"| {100 * row.aborted / row.rollouts:.1f} % | {row.calls:,.0f} | {row.seconds:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)

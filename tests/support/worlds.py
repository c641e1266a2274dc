"""Worlds in which calls are not independent: who sends them, which worker is slow, and when.

They are what canaries are judged in, to see how often a verdict is wrong; `world_calls` draws their calls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.rollout.plan import Agreement, Checks, Plan, Step, Sticky


@dataclass(frozen=True, slots=True)
class Version:
    """A made-up version: its share of errors, its latency as a multiple, its share of other answers."""

    errors: float = 0.001
    slower: float = 1.0
    differing: float = 0.01


STABLE = Version()
GOOD = "as good"
CANARIES: Mapping[str, Version] = {
    GOOD: STABLE,
    "errors on 5 %": Version(errors=0.05),
    "3 times slower": Version(slower=3.0),
    "20 % other answers": Version(differing=0.2),
}
"""The canaries that are judged in each world: one that is as good as the stable version, and bad ones."""
_CHECKS = Checks(max_error_rate=0.01, max_latency_ratio=1.5, min_requests=50, agreement=Agreement())
PLAN = Plan(steps=(Step(5, hold=30), Step(25, hold=30), Step(50, hold=30)), checks=_CHECKS)
"""What rollouts are judged by."""
PATIENT_PLAN = Plan(steps=(Step(50, hold=3600, mirror=1.0),), checks=_CHECKS, progress_deadline=3 * 86_400)
"""The same where calls are few."""


@dataclass(frozen=True, slots=True)
class Callers:
    """Who sends the calls, and what differs between them.

    `always_fail` is the share whose every call fails on either version, `size_spread` the deviation of the
    logarithm of the callers' latencies. The first caller sends the share `heavy_share` of all calls, which
    take `heavy_size` times as long and fail at the rate `heavy_errors`.
    """

    number: int = 300
    is_sticky: bool = False
    always_fail: float = 0.0
    size_spread: float = 0.0
    heavy_share: float = 0.0
    heavy_size: float = 1.0
    heavy_errors: float = 0.0


@dataclass(frozen=True, slots=True)
class Spells:
    """When a worker, each by itself, is `factor` times slower: for `seconds`, in the share `share` of time.

    `is_geometric` says that `seconds` is the mean of lengths that vary without memory.
    """

    factor: float = 4.0
    seconds: float = 3.0
    share: float = 0.04
    is_geometric: bool = False


@dataclass(frozen=True, slots=True)
class Attacker:
    """One caller beside all others; sticky, it has chosen the canary. Each of its calls fails, or none."""

    calls_per_second: float
    fails: bool


@dataclass(frozen=True, slots=True)
class Moments:
    """What changes with time for both versions, and what sets the canary apart for a while.

    Bursts of errors last `burst_seconds` and begin `1 / burst_gap` times a second on average. `day` is the
    period, in seconds, in which load rises and falls by the share `swing`, and latency by half of it. In its
    first `cold_seconds` the canary is `cold_factor` times slower. `load` is how much slower a version is,
    as a share, that takes all calls.
    """

    burst_errors: float = 0.0
    burst_seconds: float = 3.0
    burst_gap: float = 20.0
    day: float = math.inf
    swing: float = 0.0
    cold_seconds: float = 0.0
    cold_factor: float = 1.0
    load: float = 0.0


@dataclass(frozen=True, slots=True)
class World:
    """How calls come to be; `flood` attacks where the canary is bad, `attacker` where it is not."""

    name: str
    rate: float = 500.0
    """Calls a second."""
    callers: Callers = Callers()
    spells: Spells | None = None
    moments: Moments = Moments()
    attacker: Attacker | None = None
    flood: Attacker | None = None
    base_plan: Plan = PLAN
    history: float = 300.0
    """For how many seconds the stable version has served before."""
    tick: float = 0.5
    """How many seconds pass between two looks at the evidence."""

    @property
    def plan(self) -> Plan:
        """What a rollout in this world is judged by."""
        plan = self.base_plan
        return replace(plan, sticky=Sticky(header="x-user")) if self.callers.is_sticky else plan


WORLDS = (
    World("independent calls"),
    World("sticky; 1 % of the callers always fail", callers=Callers(is_sticky=True, always_fail=0.01)),
    World("sticky; callers' calls differ in size", callers=Callers(is_sticky=True, size_spread=0.8)),
    World("a canary 1.3 times slower for 20 s", moments=Moments(cold_seconds=20, cold_factor=1.3)),
    World("each worker slow in spells, 4 % of the time", spells=Spells()),
    World("rare spells, 0.5 % of the time", spells=Spells(share=0.005)),
    World("spells of 5 s on average, of any length", spells=Spells(seconds=5, is_geometric=True)),
    World("bursts of errors that both share", moments=Moments(burst_errors=0.2)),
    World("a loaded stable version hides a slow canary", moments=Moments(load=1.0)),
    World("load that rises and falls", moments=Moments(day=600, swing=0.8)),
    World(
        "sticky; one caller sends half of the calls",
        callers=Callers(is_sticky=True, heavy_share=0.5, heavy_size=3.0, heavy_errors=0.03),
    ),
    World(
        "sticky; an attacker chose the canary",
        callers=Callers(is_sticky=True),
        attacker=Attacker(10, fails=True),
        flood=Attacker(1000, fails=False),
    ),
    World("an attacker", attacker=Attacker(10, fails=True), flood=Attacker(2500, fails=False)),
    World(
        "few calls: 1 a minute",
        rate=1 / 60,
        callers=Callers(number=20),
        base_plan=PATIENT_PLAN,
        history=86_400,
        tick=60.0,
    ),
    World("very many calls: 5,000 a second", rate=5000.0, history=100.0),
)

"""Made-up traffic in which calls are not independent: who sends it, which worker is slow, and when.

A rollout is simulated by `Traffic`, which draws the calls of any stretch of time at any weight. Two runs with
one seed draw the same. The canary's first call is at 0 s; calls before are history, of the stable version.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Numbers = NDArray[np.int64]

STABLE_WORKERS = 3
CANARY_WORKER = STABLE_WORKERS
"""The number of the canary's worker; those below are the stable version's."""
HISTORY_SECONDS = 300.0
_MEDIAN_SECONDS, _SPREAD = 0.002, 0.4
_OK, _FAILED = 200, 500


@dataclass(frozen=True, slots=True)
class Version:
    """A made-up version: its share of errors, its latency as a multiple, its share of other answers."""

    errors: float = 0.001
    slower: float = 1.0
    differing: float = 0.01


STABLE = Version()


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
    World("few calls: 1 a minute", rate=1 / 60, callers=Callers(number=20)),
    World("very many calls: 5,000 a second", rate=5000.0),
)


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls in the order of time, each field an array with one entry a call.

    `agrees`, `pair_failed` and `pair_seconds` hold where `is_mirrored`: what the canary made of that call.
    """

    time: Floats
    worker: Numbers
    caller: Numbers
    failed: Bools
    seconds: Floats
    is_mirrored: Bools
    agrees: Bools
    pair_failed: Bools
    pair_seconds: Floats

    @property
    def is_canary(self) -> Bools:
        """Which calls the canary answered."""
        return self.worker >= CANARY_WORKER

    def __len__(self) -> int:
        return len(self.time)

    def where(self, mask: Bools) -> Calls:
        """Return those calls alone for which an array is true."""
        return Calls(*(getattr(self, field.name)[mask] for field in fields(self)))

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the calls as `kitserve rollout replay` reads them."""
        rows = zip(*(getattr(self, field.name).tolist() for field in fields(self)), strict=True)
        for time, worker, caller, failed, seconds, is_mirrored, agrees, pair_failed, pair_seconds in rows:
            pair = {"agrees": agrees, "failed": pair_failed, "seconds": round(pair_seconds, 6)}
            yield {
                "time": round(time, 4),
                "version": "canary" if worker >= CANARY_WORKER else "stable",
                "worker": f"w{worker}",
                "caller": f"caller-{caller}",
                "status": _FAILED if failed else _OK,
                "seconds": round(seconds, 6),
                "weighted": True,
                "pair": pair if is_mirrored else None,
            }


class Traffic:
    """The calls of one rollout in a world; `horizon` is the last second that will be asked for."""

    def __init__(self, world: World, version: Version, seed: tuple[int, ...], horizon: float) -> None:
        self.random = np.random.default_rng(seed)
        self._world = world
        self._version = version
        is_bad = version != STABLE
        self._attacker = world.flood if is_bad else world.attacker
        callers = world.callers
        # The last caller is the attacker, and calls only where there is one.
        number = callers.number + 1
        self._place = self.random.random(number)
        self._size = np.exp(callers.size_spread * self.random.standard_normal(number))
        self._errors = np.where(self.random.random(number) < callers.always_fail, 1.0, 0.0)
        if callers.heavy_share:
            self._size[0] *= callers.heavy_size
            self._errors[0] = max(self._errors[0], callers.heavy_errors)
        if self._attacker is not None:
            self._place[-1], self._size[-1] = 0.0, 1.0
            self._errors[-1] = 1.0 if self._attacker.fails else 0.0
        begin = -HISTORY_SECONDS
        self._spells = [self._spell_times(begin, horizon) for _ in range(CANARY_WORKER + 1)]
        gap = world.moments.burst_gap
        self._bursts = self._moments(begin, horizon, 1 / gap) if world.moments.burst_errors else np.empty(0)
        self._phase = self.random.random()

    def calls(self, begin: float, end: float, weight: int, mirror: float = 0.0) -> Calls:
        """Draw the calls between two moments, at a weight in percent and a share of mirrored calls."""
        time, caller = self._sent(begin, end)
        total, random, world = len(time), self.random, self._world
        if weight == 0:
            is_canary = np.zeros(total, bool)
        elif world.callers.is_sticky:
            is_canary = self._place[caller] < weight / 100
        else:
            is_canary = random.random(total) < weight / 100
        worker = np.where(is_canary, CANARY_WORKER, random.integers(0, STABLE_WORKERS, total))
        base_errors = self._errors[caller] + self._burst_errors(time)
        own_errors = np.where(is_canary, self._version.errors, STABLE.errors)
        failed = random.random(total) < base_errors + own_errors
        base_seconds = _MEDIAN_SECONDS * self._size[caller] * self._daily(time)
        seconds = base_seconds * self._factor(time, worker, weight) * self._noise(total)
        is_mirrored = ~is_canary & ~failed & (random.random(total) < mirror)
        agrees, pair_failed = np.ones(total, bool), np.zeros(total, bool)
        pair_seconds = np.zeros(total)
        pairs = np.flatnonzero(is_mirrored)
        if len(pairs):
            at_canary = np.full(len(pairs), CANARY_WORKER)
            pair_failed[pairs] = random.random(len(pairs)) < base_errors[pairs] + self._version.errors
            agrees[pairs] = ~pair_failed[pairs] & (random.random(len(pairs)) >= self._version.differing)
            factor = self._factor(time[pairs], at_canary, weight)
            pair_seconds[pairs] = base_seconds[pairs] * factor * self._noise(len(pairs))
        return Calls(time, worker, caller, failed, seconds, is_mirrored, agrees, pair_failed, pair_seconds)

    def history(self, seconds: float = HISTORY_SECONDS) -> Calls:
        """Draw the calls to the stable version before the canary has any."""
        return self.calls(-seconds, 0.0, 0)

    def _sent(self, begin: float, end: float) -> tuple[Floats, Numbers]:
        """Draw when calls come, in order, and who sends them."""
        world, random = self._world, self.random
        swing = world.moments.swing
        time = begin + (end - begin) * random.random(random.poisson(world.rate * (1 + swing) * (end - begin)))
        if swing:
            time = time[random.random(len(time)) * (1 + swing) < 1 + swing * self._tide(time)]
        caller = random.integers(0, world.callers.number, len(time))
        if world.callers.heavy_share:
            caller[random.random(len(time)) < world.callers.heavy_share] = 0
        if self._attacker is not None and begin >= 0:
            more = random.poisson(self._attacker.calls_per_second * (end - begin))
            time = np.concatenate([time, begin + (end - begin) * random.random(more)])
            caller = np.concatenate([caller, np.full(more, world.callers.number)])
        order = np.argsort(time)
        return time[order], caller[order]

    def _factor(self, time: Floats, worker: Numbers, weight: int) -> Floats:
        """Return by how much each call is slower for its version, worker and moment."""
        moments, share = self._world.moments, weight / 100
        is_canary = worker >= CANARY_WORKER
        factor = np.where(
            is_canary,
            self._version.slower * (1 + moments.load * share),
            STABLE.slower * (1 + moments.load * (1 - share)),
        )
        if moments.cold_seconds:
            factor[is_canary & (time < moments.cold_seconds)] *= moments.cold_factor
        if self._world.spells is not None:
            for number, (starts, ends) in enumerate(self._spells):
                if len(starts):
                    position = np.searchsorted(starts, time, side="right") - 1
                    is_slow = (worker == number) & (position >= 0) & (time < ends[position])
                    factor[is_slow] *= self._world.spells.factor
        return factor

    def _burst_errors(self, time: Floats) -> Floats | float:
        if not len(self._bursts):
            return 0.0
        moments = self._world.moments
        position = np.searchsorted(self._bursts, time, side="right") - 1
        is_within = (position >= 0) & (time < self._bursts[position] + moments.burst_seconds)
        return np.where(is_within, moments.burst_errors, 0.0)

    def _daily(self, time: Floats) -> Floats | float:
        swing = self._world.moments.swing
        return 1 + swing / 2 * self._tide(time) if swing else 1.0

    def _tide(self, time: Floats) -> Floats:
        tide: Floats = np.sin(2 * math.pi * (time / self._world.moments.day + self._phase))
        return tide

    def _noise(self, total: int) -> Floats:
        noise: Floats = np.exp(_SPREAD * self.random.standard_normal(total))
        return noise

    def _spell_times(self, begin: float, end: float) -> tuple[Floats, Floats]:
        """Draw when the slow spells of a worker begin and end."""
        spells = self._world.spells
        if spells is None:
            return np.empty(0), np.empty(0)
        gap = spells.seconds * (1 - spells.share) / spells.share
        number = int(2 * (end - begin) / (gap + spells.seconds)) + 20
        lengths = np.full(number, spells.seconds)
        if spells.is_geometric:
            lengths = self.random.exponential(spells.seconds, number)
        pauses = self.random.exponential(gap, number)
        # A worker may be within a spell when the history begins.
        starts = begin - spells.seconds + np.cumsum(pauses) + np.cumsum(lengths) - lengths
        return starts, starts + lengths

    def _moments(self, begin: float, end: float, rate: float) -> Floats:
        """Draw moments, in order, that come at a rate."""
        moments: Floats = np.sort(
            begin + (end - begin) * self.random.random(self.random.poisson(rate * (end - begin)))
        )
        return moments

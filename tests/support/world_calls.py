"""Draws the calls of made-up worlds, any stretch of time at any weight, as arrays.

Two runs with one seed draw the same. The canary's first call is at 0 s; calls before are history.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.worlds import STABLE, Version, World

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Numbers = NDArray[np.int64]

STABLE_WORKERS = 3
CANARY_WORKER = STABLE_WORKERS
"""The number of the canary's worker; those below are the stable version's."""
_MEDIAN_SECONDS, _SPREAD = 0.002, 0.4
_OK, _FAILED = 200, 500
_LOOKS = 8


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

    def between(self, begin: float, end: float) -> Calls:
        """Return the calls between two moments."""
        first, last = np.searchsorted(self.time, (begin, end)).tolist()
        return Calls(*(getattr(self, field.name)[first:last] for field in fields(self)))

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the calls as `kitserve rollout replay` reads them."""
        rows = zip(*(getattr(self, field.name).tolist() for field in fields(self)), strict=True)
        for time, worker, caller, failed, seconds, is_mirrored, agrees, pair_failed, pair_seconds in rows:
            pair = {"agrees": agrees, "failed": pair_failed, "seconds": round(pair_seconds, 9)}
            yield {
                "time": round(time, 9),
                "version": "canary" if worker >= CANARY_WORKER else "stable",
                "worker": f"w{worker}",
                "caller": f"caller-{caller}",
                "status": _FAILED if failed else _OK,
                "seconds": round(seconds, 9),
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
        begin = -world.history
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
        # What a caller sends fails on either version alike; a burst hits each version's calls by themselves.
        is_unfit = random.random(total) < self._errors[caller]
        burst = np.zeros(total) + self._burst_errors(time)
        own_errors = np.where(is_canary, self._version.errors, STABLE.errors)
        failed = is_unfit | (random.random(total) < burst + own_errors)
        base_seconds = _MEDIAN_SECONDS * self._size[caller] * self._daily(time)
        seconds = base_seconds * self._factor(time, worker, weight) * self._noise(total)
        is_mirrored = ~is_canary & ~failed & (random.random(total) < mirror)
        agrees, pair_failed = np.ones(total, bool), np.zeros(total, bool)
        pair_seconds = np.zeros(total)
        pairs = np.flatnonzero(is_mirrored)
        if len(pairs):
            at_canary = np.full(len(pairs), CANARY_WORKER)
            pair_failed[pairs] = random.random(len(pairs)) < burst[pairs] + self._version.errors
            agrees[pairs] = ~pair_failed[pairs] & (random.random(len(pairs)) >= self._version.differing)
            factor = self._factor(time[pairs], at_canary, weight)
            pair_seconds[pairs] = base_seconds[pairs] * factor * self._noise(len(pairs))
        return Calls(time, worker, caller, failed, seconds, is_mirrored, agrees, pair_failed, pair_seconds)

    def _sent(self, begin: float, end: float) -> tuple[Floats, Numbers]:
        """Draw when calls come, in order, and who sends them."""
        world, random = self._world, self.random
        swing = world.moments.swing
        # The gaps of a Poisson process, scaled to the stretch: in order without being sorted.
        gaps = np.cumsum(
            random.standard_exponential(random.poisson(world.rate * (1 + swing) * (end - begin)) + 1)
        )
        time = begin + (end - begin) * gaps[:-1] / gaps[-1]
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
            time, caller = time[order], caller[order]
        return time, caller

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


class Stream:
    """The calls of a rollout, look by look: drawn for several at once, and anew where weights change."""

    def __init__(self, traffic: Traffic, tick: float) -> None:
        self._traffic = traffic
        self._tick = tick
        self._drawn: tuple[Calls, float, int, float] | None = None

    def take(self, begin: float, weight: int, mirror: float) -> Calls:
        """Return the calls from a moment until the next look."""
        if self._drawn is None or begin >= self._drawn[1] or (weight, mirror) != self._drawn[2:]:
            end = begin + _LOOKS * self._tick
            self._drawn = self._traffic.calls(begin, end, weight, mirror), end, weight, mirror
        return self._drawn[0].between(begin, begin + self._tick)

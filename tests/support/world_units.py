"""Counts the calls of made-up worlds as live workers do: by windows, callers and pairs, whole arrays at once.

It gives what `gateway.rollout.records.Fold` makes of the same calls one by one, many times faster.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gateway.metrics.counts import BUCKETS, MirroredCalls
from gateway.metrics.evidence import CallerShares
from gateway.rollout.evidence import Evidence, Side
from gateway.rollout.units import WINDOW_SECONDS, CallerCounts, PairCounts, Units, Window
from tests.support.world_calls import CANARY_WORKER, Calls, Numbers
from tests.support.worlds import World

_WIDTH = len(BUCKETS) + 1
_GROUPS = 20
FIRST_WINDOW = 2_000_000
"""The number of the window that begins at 0 s: clocks have run for long when a rollout begins."""


class WorldFold:
    """Turns the calls of a stretch of time, which begins and ends with a window, into units and sums."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._shares = [CallerShares() for _ in range(CANARY_WORKER + 1)]

    def take(self, calls: Calls) -> tuple[Evidence, Units]:
        """Return what the calls tell: sums, and the same as units."""
        calls = self._shared(calls)
        index = np.floor(calls.time / WINDOW_SECONDS).astype(np.int64) + FIRST_WINDOW
        bucket = np.searchsorted(BUCKETS, calls.seconds)
        pairs, pair_counts = self._pairs(calls, index, bucket)
        stable, canary = self._windows(calls, index, bucket)
        evidence = Evidence(_sum(stable), _sum(canary), pair_counts)
        callers: list[Mapping[str, CallerCounts]] = [{}, {}]
        if self._world.callers.is_sticky:
            callers = [_callers(calls.where(mask)) for mask in (~calls.is_canary, calls.is_canary)]
        canary = sorted([*pairs, *canary], key=lambda window: (window.index, window.worker))
        return evidence, Units(tuple(stable), tuple(canary), *callers)

    def _shared(self, calls: Calls) -> Calls:
        """Leave out what one caller sends beyond its share, at each worker."""
        world = self._world
        if (world.attacker, world.flood) == (None, None) and not world.callers.heavy_share:
            return calls
        counts = np.ones(len(calls), bool)
        for worker in range(CANARY_WORKER + 1):
            positions = np.flatnonzero(calls.worker == worker)
            if not len(positions):
                continue
            callers, now = calls.caller[positions], float(calls.time[positions[-1]])
            loud = {0, world.callers.number} if world.callers.heavy_share else {world.callers.number}
            is_loud = np.isin(callers, list(loud))
            # The others are many, and send as many calls each: a few groups of them stand for all.
            for group, number in enumerate(np.bincount(callers[~is_loud] % _GROUPS).tolist()):
                self._shares[worker].take(b"group %d" % group, now, number)
            for caller in loud:
                own = positions[callers == caller]
                counts[own[self._shares[worker].take(b"%d" % caller, now, len(own)) :]] = False
        return calls.where(counts)

    def _windows(self, calls: Calls, index: Numbers, bucket: Numbers) -> tuple[list[Window], list[Window]]:
        """Return the windows of the stable version's workers, and of the canary's, in order."""
        places, numbers = _numbered(index * (CANARY_WORKER + 1) + calls.worker)
        latencies = _histograms(numbers, bucket, len(places))
        failures = np.bincount(numbers[calls.failed], minlength=len(places)).tolist()
        sides: tuple[list[Window], list[Window]] = ([], [])
        unbound = Side() if self._world.callers.is_sticky else None
        for place, latency, failed in zip(places.tolist(), latencies, failures, strict=True):
            at, worker = divmod(place, CANARY_WORKER + 1)
            side = Side(sum(latency), failed, tuple(latency))
            sides[worker >= CANARY_WORKER].append(Window(f"w{worker}", at, side, unbound))
        return sides

    def _pairs(self, calls: Calls, index: Numbers, bucket: Numbers) -> tuple[list[Window], MirroredCalls]:
        """Return windows of nothing but pairs, and their sums."""
        mask = calls.is_mirrored
        if not mask.any():
            return [], MirroredCalls()
        failed, differing = calls.pair_failed[mask], ~calls.agrees[mask] | calls.pair_failed[mask]
        places, numbers = _numbered(index[mask])
        size = len(places)
        rows = zip(
            places.tolist(),
            np.bincount(numbers, minlength=size).tolist(),
            np.bincount(numbers[differing], minlength=size).tolist(),
            np.bincount(numbers[failed], minlength=size).tolist(),
            _histograms(numbers, bucket[mask], size),
            _histograms(numbers, np.searchsorted(BUCKETS, calls.pair_seconds[mask]), size),
            strict=True,
        )
        windows = [
            Window("", at, Side(), None, PairCounts(pairs, other, failures, tuple(base), tuple(own)))
            for at, pairs, other, failures, base, own in rows
        ]
        total = int(mask.sum())
        return windows, MirroredCalls(total, total - int(differing.sum()), int(failed.sum()))


def _numbered(places: Numbers) -> tuple[Numbers, Numbers]:
    """Return the places that there are, in order, and for each call the position of its own among them."""
    if not len(places):
        return places, places
    lowest = int(places.min())
    counts = np.bincount(places - lowest)
    present = np.flatnonzero(counts)
    positions = np.cumsum(counts > 0) - 1
    return present + lowest, positions[places - lowest]


def _histograms(numbers: Numbers, bucket: Numbers, size: int) -> list[list[int]]:
    counts = np.bincount(numbers * _WIDTH + bucket, minlength=size * _WIDTH)
    histograms: list[list[int]] = counts.reshape(size, _WIDTH).tolist()
    return histograms


def _sum(windows: list[Window]) -> Side:
    if not windows:
        return Side()
    latency = np.sum([window.side.latency for window in windows], axis=0)
    return Side(int(latency.sum()), sum(window.side.errors for window in windows), tuple(latency.tolist()))


def _callers(calls: Calls) -> dict[str, CallerCounts]:
    """Return what each caller was answered."""
    totals = np.bincount(calls.caller)
    failures = np.bincount(calls.caller, weights=calls.failed).astype(np.int64)
    log_seconds = np.bincount(calls.caller, weights=np.log(calls.seconds))
    return {
        f"caller-{caller}": CallerCounts(
            int(totals[caller]), int(failures[caller]), float(log_seconds[caller])
        )
        for caller in np.flatnonzero(totals).tolist()
    }

"""What the stable version's past says of how its calls vary: how long blocks must be, and what is slow.

How long windows depend on each other shows in their autocorrelation, that of each worker's share less the
mean share of the others at the same time: what all workers share is no spell of one. Then the same bets are
made on each stable worker in turn, as if it were the canary. They must not fail; where they do, blocks and
gaps grow, and beyond a bound the calls vary too much to judge by this check.

All of this is from before the step, so it does not depend on what the canary does in it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import mul

import numpy as np
from numpy.typing import NDArray

from gateway.rollout.blocks import LONG_BLOCK, LONG_GAP, Capital, Spacing
from gateway.rollout.evidence import Durations, Side
from gateway.rollout.plan import Checks
from gateway.rollout.units import HISTORY_WINDOWS, WINDOW_SECONDS, History

Shares = NDArray[np.float64]
"""Shares by worker and window; NaN where a worker had no call."""

ENOUGH_WINDOWS = 1000
"""From so many windows of stable workers it is known whether they have spells: 500 worker-seconds."""
LONGEST_BLOCK = 60
"""Windows: 30 s. What needs longer blocks varies too much."""
ERROR_CALLS, OTHER_CALLS = 10, 5
"""How many calls a unit has at least, where it is shorter than a long block: few failures among many."""
ERROR_CAP, OTHER_CAP = 5.0, 3.5
"""The most that a window alone gains, in stakes: no first spell of 2.5 s decides anything."""
STEADY_ERRORS, STEADY_OTHERS = Spacing(1, 0, ERROR_CAP, ERROR_CALLS), Spacing(1, 0, OTHER_CAP, OTHER_CALLS)
"""Where it is known that workers have no spells: each window is a unit."""
UNKNOWN_ERRORS, UNKNOWN_OTHERS = Spacing(2, 6, minimum=ERROR_CALLS), Spacing(minimum=OTHER_CALLS)
"""Where little is known and no spell shows. Failures do not wait as long: 1 s counts, and 3 s do not."""
_HISTORY_DURATIONS = 200
"""Of fewer durations, a quantile near the end is chance: ten of them are beyond p95."""
_SEEN_DEVIATIONS = 4.0
"""An autocorrelation shows where it is so many of its standard deviations: chance gives that at no lag."""
_GAP_PER_BLOCK = 1.5
"""A gap is so much longer than a block, as some spells are longer than most: each touches one block alone."""
_TRY_UNITS = 6
"""A stretch that is tried has so many units at least, as a few are never enough to fail."""
_TRY_WINDOWS = 60
"""And so many windows: 30 s."""
_FEW_TRIES = 20
"""Of more stretches than this, one may fail by chance."""


@dataclass(frozen=True, slots=True)
class Timing:
    """A check of durations: which of a side's, their limit as a multiple, and the quantile it is of."""

    check: str
    durations: Callable[[Side], Durations]
    limit: float


def timings(checks: Checks, is_text: bool) -> Iterator[Timing]:
    """Yield the checks of durations that are made."""
    if checks.max_latency_ratio is not None:
        yield Timing("latency", lambda side: side.latencies, checks.max_latency_ratio)
    if is_text and checks.max_first_token_ratio is not None:
        yield Timing("first_token", lambda side: side.first_tokens, checks.max_first_token_ratio)
    if is_text and checks.max_token_time_ratio is not None:
        yield Timing("token_time", lambda side: side.token_times, checks.max_token_time_ratio)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is set for a whole step. `bases` are the stable version's quantiles, in seconds, by check."""

    spacings: Mapping[str, Spacing] = field(default_factory=dict)
    bases: Mapping[str, float] = field(default_factory=dict)
    unsteady: tuple[str, ...] = ()
    """The checks that the stable version's workers would fail against each other."""


def calibrate(checks: Checks, is_text: bool, history: History, hold: float, alarm: float) -> Calibration:
    """Learn from the stable version's past; `hold` is the step's length in seconds."""
    spacings, bases, unsteady = {}, {}, []
    # As long as the step, which in a replay has no end; the history has two such stretches at least.
    stretch = max(_TRY_WINDOWS, int(min(HISTORY_WINDOWS // 2, hold / WINDOW_SECONDS)))
    measured: list[tuple[str, Shares, Shares, float, Spacing]] = []
    if checks.max_error_rate is not None:
        shares = _matrix(history, lambda side: (side.errors, side.calls))
        limit = checks.max_error_rate
        measured.append(("error_rate", shares, shares + limit, limit, STEADY_ERRORS))
    for timing in timings(checks, is_text):
        counts = [timing.durations(window.side).counts for window in history.windows]
        sums = np.array(counts).sum(axis=0) if counts else np.zeros(1)
        if sums.sum() < _HISTORY_DURATIONS:
            spacings[timing.check] = UNKNOWN_OTHERS
            continue
        bounds = timing.durations(Side()).bounds
        base = Durations(tuple(int(count) for count in sums), bounds).quantile(checks.latency_quantile)
        bases[timing.check] = base
        slow, usual = slow_parts(bounds, base * timing.limit), slow_parts(bounds, base)
        floor = 1 - checks.latency_quantile
        shares = _matrix(history, _slow_share(timing, slow))
        above = _matrix(history, _slow_share(timing, usual))
        measured.append((timing.check, shares, above, floor, STEADY_OTHERS))
    for check, shares, others, floor, spacing in measured:
        spacing = _spaced(shares, spacing, UNKNOWN_ERRORS if check == "error_rate" else UNKNOWN_OTHERS)
        steady = _tried(shares, np.maximum(_mean_of_others(others), floor), spacing, stretch, alarm)
        spacings[check] = steady or spacing
        if steady is None:
            unsteady.append(check)
    return Calibration(spacings, bases, tuple(unsteady))


def slow_parts(bounds: Sequence[float], threshold: float) -> tuple[float, ...]:
    """Return which part of the durations in each bucket is longer than `threshold` seconds."""
    bucket = bisect_left(bounds, threshold)
    counts = tuple(int(number == bucket) for number in range(len(bounds) + 1))
    part = Durations(counts, tuple(bounds)).longer_than(threshold)
    return tuple(part if number == bucket else float(number > bucket) for number in range(len(bounds) + 1))


def slow_count(parts: Sequence[float], counts: Sequence[int]) -> float:
    """Return how many durations are slow, by `slow_parts`."""
    return float(sum(map(mul, parts, counts)))


def _slow_share(timing: Timing, parts: Sequence[float]) -> Callable[[Side], tuple[float, int]]:
    def count(side: Side) -> tuple[float, int]:
        durations = timing.durations(side)
        return slow_count(parts, durations.counts), durations.total

    return count


def _matrix(history: History, count: Callable[[Side], tuple[float, int]]) -> Shares:
    """Return the shares of the calls of each worker and window that `count` counts."""
    if not history.windows:
        return np.full((0, 0), np.nan)
    first, last = history.windows[0].index, history.windows[-1].index
    rows = {worker: row for row, worker in enumerate(dict.fromkeys(w.worker for w in history.windows))}
    shares = np.full((len(rows), last - first + 1), np.nan)
    for window in history.windows:
        hits, total = count(window.side)
        if total:
            shares[rows[window.worker], window.index - first] = hits / total
    return shares


def _mean_of_others(shares: Shares) -> Shares:
    """Return the mean share of the other workers at each time.

    Where none of them had a call, and of a worker that is alone, it is the mean of all times.
    """
    known = ~np.isnan(shares)
    values = np.where(known, shares, 0.0)
    counts = known.sum(axis=0) - known
    overall = values.sum() / max(1, known.sum())
    sums = values.sum(axis=0) - values
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), overall))


def _spaced(shares: Shares, spacing: Spacing, unknown: Spacing) -> Spacing:
    """Return the spacing that the autocorrelation asks for; `unknown` where that says too little."""
    known = ~np.isnan(shares)
    excess = np.where(known, shares - _mean_of_others(shares), 0.0)
    # A worker that is always a little worse than the others has no spell.
    calls = np.maximum(known.sum(axis=1, keepdims=True), 1)
    excess = np.where(known, excess - excess.sum(axis=1, keepdims=True) / calls, 0.0)
    total = int(known.sum())
    longest = 0
    variance = float((excess**2).sum()) / max(1, total)
    while variance > 0 and longest < min(LONGEST_BLOCK, shares.shape[1] - 1):
        lag = longest + 1
        pairs = int((known[:, lag:] & known[:, :-lag]).sum())
        products = float((excess[:, lag:] * excess[:, :-lag]).sum())
        if not pairs or products / pairs / variance < _SEEN_DEVIATIONS / math.sqrt(pairs):
            break
        longest = lag
    if longest == LONGEST_BLOCK:
        # Longer than blocks can be: what matters is whether a worker fails in it, see `_tried`.
        spacing = replace(spacing, block=LONG_BLOCK, gap=LONG_GAP, cap=0.0)
    elif longest:
        spacing = replace(spacing, block=longest, gap=math.ceil(_GAP_PER_BLOCK * longest), cap=0.0)
    if total < ENOUGH_WINDOWS and not longest:
        return unknown
    if total < ENOUGH_WINDOWS:
        block, gap = max(spacing.block, LONG_BLOCK), max(spacing.gap, LONG_GAP)
        spacing = replace(spacing, block=block, gap=gap, cap=0.0)
    return spacing


def _tried(shares: Shares, bounds: Shares, spacing: Spacing, stretch: int, alarm: float) -> Spacing | None:
    """Return a spacing by which the stable workers do not fail; None where there is none.

    One failure of many stretches may be chance.
    """
    while True:
        # Long blocks need longer stretches: a few units are never enough.
        length = max(stretch, _TRY_UNITS * (spacing.block + spacing.gap))
        stretches = list(_stretches(shares.shape, length))
        allowed = 1 if len(stretches) > _FEW_TRIES else 0
        if _false_failures(shares, bounds, spacing, stretches, alarm) <= allowed:
            return spacing
        block, gap = 2 * spacing.block, max(LONG_GAP, 2 * spacing.gap)
        if block > LONGEST_BLOCK:
            return None
        spacing = replace(spacing, block=block, gap=gap)


def _false_failures(
    shares: Shares, bounds: Shares, spacing: Spacing, stretches: Iterable[tuple[int, range]], alarm: float
) -> int:
    """Count the stretches in which a stable worker, taken for the canary, would fail."""
    failures = 0
    limit = math.log(1 / alarm)
    ratios = np.where(np.isnan(shares), 0.0, shares / bounds)
    for row, indices in stretches:
        excess = np.maximum(ratios[row, indices.start : indices.stop] - 1, 0.0)
        # No bet gains more than its excess: most stretches need no closer look.
        if excess.sum() < limit:
            continue
        capital = Capital()
        for index in indices:
            share = float(shares[row, index])
            if not math.isnan(share):
                capital = capital.bet(spacing, index, share, float(bounds[row, index]), spacing.minimum)
                if capital.log >= limit:
                    failures += 1
                    break
    return failures


def _stretches(shape: tuple[int, ...], length: int) -> Iterator[tuple[int, range]]:
    rows, end = shape
    for row in range(rows):
        yield from ((row, range(first, min(first + length, end))) for first in range(0, end, length))

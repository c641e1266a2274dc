"""What counts as bad in a window, and how much of it may be, given what the stable version did meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.rollout.calibration import Calibration, Timing, slow_count, slow_parts, timings
from gateway.rollout.evidence import Evidence, Side
from gateway.rollout.plan import Checks, Metric
from gateway.rollout.units import PairCounts, Window

Share = tuple[float, float, int]
"""Bad calls, which share of the calls may be bad, and all calls."""

_NOTHING: Share = (0.0, 1.0, 0)
_GROSS_SLOWNESS = 3.0
"""A call of a fresh worker is bad where it takes so many times what the limit allows."""
_GROSS_ERRORS = 0.5
"""So large a share of a fresh worker's calls may fail."""
_STEP_DURATIONS = 50
"""Where the history has no quantile, so many of the stable version's durations in the step give one."""
_LOWEST_DIFFERENCE = 0.005
"""What a limit of 0 is taken for: a bet needs a bound that is not 0."""


class Measure:
    """How one check looks at a window; of a worker that is fresh, only gross failure counts."""

    def of_calls(self, side: Side, index: int, is_fresh: bool) -> Share:
        """Of the canary's calls."""
        raise NotImplementedError

    def of_pairs(self, pairs: PairCounts, index: int, is_fresh: bool) -> Share:
        """Of pairs."""
        raise NotImplementedError


@dataclass(slots=True)
class _Errors(Measure):
    """Failures, beyond the stable version's of the same moment and of the whole step."""

    limit: float
    usual: float
    by_index: Mapping[int, Side]

    def of_calls(self, side: Side, index: int, is_fresh: bool) -> Share:
        return side.errors, self._limit(index, is_fresh), side.calls

    def of_pairs(self, pairs: PairCounts, index: int, is_fresh: bool) -> Share:
        return pairs.canary_failed, self._limit(index, is_fresh), pairs.pairs

    def _limit(self, index: int, is_fresh: bool) -> float:
        side = self.by_index.get(index)
        usual = max(self.usual, side.errors / side.calls) if side and side.calls else self.usual
        return max(usual + self.limit, _GROSS_ERRORS if is_fresh else 0.0)


class _Slow(Measure):
    """Calls that take more than a multiple of the stable version's quantile."""

    def __init__(self, timing: Timing, base: float, floor: float, by_index: Mapping[int, Side]) -> None:
        bounds = timing.durations(Side()).bounds
        self._durations = timing.durations
        self._slow = slow_parts(bounds, base * timing.limit)
        self._gross = slow_parts(bounds, base * timing.limit * _GROSS_SLOWNESS)
        self._usual = slow_parts(bounds, base)
        self._floor = floor
        self._by_index = by_index
        self._has_pairs = timing.check == "latency"

    def of_calls(self, side: Side, index: int, is_fresh: bool) -> Share:
        durations = self._durations(side)
        hits = slow_count(self._gross if is_fresh else self._slow, durations.counts)
        stable = self._by_index.get(index)
        return hits, self._limit(self._durations(stable).counts if stable else ()), durations.total

    def of_pairs(self, pairs: PairCounts, _index: int, is_fresh: bool) -> Share:
        total = sum(pairs.canary_latency)
        if not total or not self._has_pairs:
            return _NOTHING
        hits = slow_count(self._gross if is_fresh else self._slow, pairs.canary_latency)
        return hits, self._limit(pairs.stable_latency), total

    def _limit(self, counts: Sequence[int]) -> float:
        total = sum(counts)
        return max(self._floor, slow_count(self._usual, counts) / total) if total else self._floor


class _Differing(Measure):
    """Mirrored calls that both versions answer otherwise.

    A call that the canary fails is one; as many may fail as the stable version fails at that moment.
    """

    def __init__(self, limit: float, usual: float, by_index: Mapping[int, Side]) -> None:
        self._errors = _Errors(limit, usual, by_index)

    def of_calls(self, _side: Side, _index: int, _is_fresh: bool) -> Share:
        return _NOTHING

    def of_pairs(self, pairs: PairCounts, index: int, _is_fresh: bool) -> Share:
        _, limit, total = self._errors.of_pairs(pairs, index, False)
        return pairs.differing, limit, total


def measures(
    checks: Checks, calibration: Calibration, evidence: Evidence, windows: Sequence[Window]
) -> Iterator[tuple[str, Measure]]:
    """Yield each check that looks at windows, with how it does; `windows` are the stable version's."""
    stable = evidence.stable
    by_index: dict[int, Side] = {}
    for window in windows:
        side = by_index.get(window.index)
        by_index[window.index] = window.side if side is None else side + window.side
    usual = stable.errors / stable.calls if stable.calls else 0.0
    if checks.max_error_rate is not None:
        yield "error_rate", _Errors(checks.max_error_rate, usual, by_index)
    for timing in timings(checks, evidence.is_text):
        base = calibration.bases.get(timing.check)
        if base is None and timing.durations(stable).total >= _STEP_DURATIONS:
            base = timing.durations(stable).quantile(checks.latency_quantile)
        if base is not None:
            yield timing.check, _Slow(timing, base, 1 - checks.latency_quantile, by_index)
    agreement = checks.agreement
    if agreement is not None and agreement.metric is not Metric.PSI and not evidence.is_text:
        yield "agreement", _Differing(max(1 - agreement.min, _LOWEST_DIFFERENCE), usual, by_index)

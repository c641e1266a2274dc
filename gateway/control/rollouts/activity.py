"""What versions did between two ticks, from what their workers tell of each window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.metrics.counts import BUCKETS, FIRST_TOKEN_BUCKETS, TOKEN_GAP_BUCKETS, MirroredCalls
from gateway.metrics.evidence_windows import Counts, EvidenceWindow, WindowCalls
from gateway.metrics.pairs import AnswerPairs
from gateway.rollout.evidence import Side
from gateway.rollout.units import CallerCounts, PairCounts, Window

_NONE: Mapping[tuple[float, ...], Counts] = {
    bounds: (0,) * (len(bounds) + 1) for bounds in (BUCKETS, FIRST_TOKEN_BUCKETS, TOKEN_GAP_BUCKETS)
}
_NO_SIDE = Side()
_NO_PAIRS = PairCounts()


@dataclass(frozen=True, slots=True)
class Activity:
    """What one version did, or one of its workers: its callers' calls, and those that were mirrored."""

    side: Side = _NO_SIDE
    mirrored: MirroredCalls = field(default_factory=MirroredCalls)
    pairs: AnswerPairs = field(default_factory=AnswerPairs)
    windows: tuple[Window, ...] = ()
    """The same, but for the contents of answers, by worker and window, in the order of their indices."""
    callers: Mapping[str, CallerCounts] = field(default_factory=dict)
    """The same calls by caller, as far as callers stick to a version."""

    def __add__(self, other: Activity) -> Activity:
        windows = sorted((*self.windows, *other.windows), key=lambda window: window.index)
        return Activity(
            self.side + other.side,
            self.mirrored + other.mirrored,
            self.pairs + other.pairs,
            tuple(windows),
            add_callers(self.callers, other.callers),
        )


NO_ACTIVITY = Activity()


def activity_of(worker: str, windows: list[EvidenceWindow], callers: Mapping[str, CallerCounts]) -> Activity:
    """Return what a worker did in some windows, which are in the order of their numbers."""
    units = tuple(unit_of(worker, window) for window in windows)
    mirrored, pairs = MirroredCalls(), AnswerPairs()
    for window in windows:
        mirrored, pairs = mirrored + window.mirrored, pairs + window.answers
    return Activity(sum((unit.side for unit in units), _NO_SIDE), mirrored, pairs, units, callers)


def unit_of(worker: str, window: EvidenceWindow) -> Window:
    """Return a window of a worker as a rollout is judged by it."""
    side = _side(window.calls)
    unbound = side - _side(window.bound) if window.bound.calls else None
    return Window(worker, window.number, side, unbound, _pairs(window))


def add_callers(
    one: Mapping[str, CallerCounts], other: Mapping[str, CallerCounts]
) -> Mapping[str, CallerCounts]:
    """Add what was counted by caller."""
    if not one or not other:
        return one or other
    return {
        **one,
        **{caller: one.get(caller, CallerCounts()) + counts for caller, counts in other.items()},
    }


def _side(calls: WindowCalls) -> Side:
    if not calls.calls:
        return _NO_SIDE
    return Side(
        calls.calls,
        calls.errors,
        _counts(calls.request, BUCKETS),
        _counts(calls.first_token, FIRST_TOKEN_BUCKETS),
        _counts(calls.per_token, TOKEN_GAP_BUCKETS),
    )


def _pairs(window: EvidenceWindow) -> PairCounts:
    mirrored, paired = window.mirrored, window.paired
    if not mirrored.compared:
        return _NO_PAIRS
    return PairCounts(
        mirrored.compared,
        mirrored.compared - mirrored.agreeing,
        paired.failed,
        _counts(paired.stable, BUCKETS),
        _counts(paired.canary, BUCKETS),
    )


def _counts(counts: Counts, bounds: tuple[float, ...]) -> Counts:
    return counts or _NONE[bounds]

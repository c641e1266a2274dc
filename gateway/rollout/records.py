"""Records of single calls, and how they become the units that rollouts are judged by.

A replay and a simulation fold calls in this way; a live Kitserve counts the same where the calls are.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.metrics.counts import BUCKETS, MirroredCalls
from gateway.metrics.sticky_callers import LOWEST_SECONDS
from gateway.rollout.evidence import Evidence, Side
from gateway.rollout.units import WINDOW_SECONDS, CallerCounts, PairCounts, Units, Window

_FAILED = 500
_WRONG = 400


class Role(StrEnum):
    """Which of the two versions answered."""

    STABLE = "stable"
    CANARY = "canary"


@dataclass(frozen=True, slots=True)
class Pair:
    """What the canary made of a call that the stable version answered; `seconds` is its latency."""

    agrees: bool
    failed: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call: when it was answered (seconds), by which worker of which version, with what status, how fast.

    `caller` is who stays on one version, None where each call is placed by chance. `is_weighted` tells that
    chance or stickiness placed the call, and not its caller. `pair` is what the canary answered besides, if
    it was mirrored.
    """

    time: float
    version: Role
    worker: str
    caller: str | None
    status: int
    seconds: float
    is_weighted: bool = True
    pair: Pair | None = None

    @property
    def is_evidence(self) -> bool:
        """Whether the call tells how good its version is: not where a caller chose it, or was wrong (4xx)."""
        return self.is_weighted and not _WRONG <= self.status < _FAILED


@dataclass(slots=True)
class _Counts:
    calls: int = 0
    errors: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))

    def add(self, failed: bool, seconds: float) -> None:
        self.calls += 1
        self.errors += failed
        self.latency[bisect_left(BUCKETS, seconds)] += 1

    def side(self) -> Side:
        return Side(self.calls, self.errors, tuple(self.latency))


@dataclass(slots=True)
class _OpenWindow:
    side: _Counts = field(default_factory=_Counts)
    unbound: _Counts = field(default_factory=_Counts)
    pairs: int = 0
    differing: int = 0
    canary_failed: int = 0
    stable_latency: _Counts = field(default_factory=_Counts)
    canary_latency: _Counts = field(default_factory=_Counts)

    def close(self, worker: str, index: int) -> Window:
        pairs = PairCounts(
            self.pairs,
            self.differing,
            self.canary_failed,
            tuple(self.stable_latency.latency),
            tuple(self.canary_latency.latency),
        )
        unbound = None if self.unbound.calls == self.side.calls else self.unbound.side()
        return Window(worker, index, self.side.side(), unbound, pairs)


class Fold:
    """Turns a stream of calls, in the order of their times, into units and sums.

    `counts` says whether a call counts besides, say as no caller may outweigh all others. The pairs are the
    canary's, whose worker is not recorded: they are those of one worker without a name.
    """

    def __init__(self, counts: Callable[[CallRecord], bool] | None = None) -> None:
        self._counts = counts
        self._windows: dict[Role, dict[tuple[int, str], _OpenWindow]] = {role: {} for role in Role}
        self._callers: dict[Role, dict[str, list[float]]] = {role: {} for role in Role}

    def add(self, record: CallRecord) -> None:
        """Count one call."""
        if not record.is_evidence or (self._counts is not None and not self._counts(record)):
            return
        has_failed = record.status >= _FAILED
        index = math.floor(record.time / WINDOW_SECONDS)
        window = self._window(record.version, index, record.worker)
        window.side.add(has_failed, record.seconds)
        if record.caller is None:
            window.unbound.add(has_failed, record.seconds)
        else:
            sums = self._callers[record.version].setdefault(record.caller, [0, 0, 0.0])
            sums[0] += 1
            sums[1] += has_failed
            sums[2] += math.log(max(record.seconds, LOWEST_SECONDS))
        if record.pair is not None and not has_failed:
            pair, window = record.pair, self._window(Role.CANARY, index, "")
            window.pairs += 1
            window.differing += not pair.agrees or pair.failed
            window.canary_failed += pair.failed
            window.stable_latency.add(False, record.seconds)
            window.canary_latency.add(False, pair.seconds)

    def _window(self, role: Role, index: int, worker: str) -> _OpenWindow:
        windows = self._windows[role]
        window = windows.get((index, worker))
        if window is None:
            window = windows[index, worker] = _OpenWindow()
        return window

    def take(self, now: float) -> tuple[Evidence, Units]:
        """Return what was over by `now` and has not been returned before: sums, and the same as units."""
        end = math.floor(now / WINDOW_SECONDS)
        closed: dict[Role, tuple[Window, ...]] = {}
        for role, windows in self._windows.items():
            keys = sorted(key for key in windows if key[0] < end)
            closed[role] = tuple(windows.pop(key).close(key[1], key[0]) for key in keys)
        callers = {
            role: {
                caller: CallerCounts(int(calls), int(failures), log_seconds)
                for caller, (calls, failures, log_seconds) in table.items()
            }
            for role, table in self._callers.items()
        }
        for table in self._callers.values():
            table.clear()
        stable, canary = closed[Role.STABLE], closed[Role.CANARY]
        mirrored = MirroredCalls(
            sum(window.pairs.pairs for window in canary),
            sum(window.pairs.pairs - window.pairs.differing for window in canary),
            sum(window.pairs.canary_failed for window in canary),
        )
        evidence = Evidence(
            sum((window.side for window in stable), Side()),
            sum((window.side for window in canary), Side()),
            mirrored,
        )
        return evidence, Units(stable, canary, callers[Role.STABLE], callers[Role.CANARY])

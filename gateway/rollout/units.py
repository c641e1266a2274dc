"""What rollouts are judged by: what one worker did in half a second, and what one caller was answered.

Calls are not independent of each other. Those of one caller succeed or fail together, wherever they go, and
so do those that a worker answers at the same moment. A unit is what chance decides by itself: a worker's
window of time, a caller that sticks to a version, or calls that are put to both versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import add

from gateway.metrics.counts import BUCKETS
from gateway.metrics.evidence_windows import EVIDENCE_SECONDS
from gateway.rollout.evidence import Durations, Side

WINDOW_SECONDS = EVIDENCE_SECONDS
"""How long a window is: as workers count."""
HISTORY_WINDOWS = 1200
"""So many windows of each stable worker are remembered: ten minutes."""
MAX_TRIAL_CALLERS = 2048
"""So many callers of each version are told apart in a step, and so many are remembered of the time before.

Fewer than a worker tells apart, as these are stored at each tick.
"""
WARMUP_SECONDS = 10.0
"""What a worker does so long after it began says little of how it does later."""

_NO_LATENCIES = (0,) * (len(BUCKETS) + 1)


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Calls that both versions answered, of one window.

    `differing` sums up, over the calls, the share of rows whose answers differ; a call that the canary alone
    failed differs in all. The latencies are each version's own of the same calls, by `BUCKETS`; both are
    empty where they are not known.
    """

    pairs: int = 0
    differing: float = 0.0
    canary_failed: int = 0
    """Calls that the canary failed and the stable version answered."""
    stable_latency: tuple[int, ...] = _NO_LATENCIES
    canary_latency: tuple[int, ...] = _NO_LATENCIES

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(
            self.pairs + other.pairs,
            self.differing + other.differing,
            self.canary_failed + other.canary_failed,
            tuple(map(add, self.stable_latency, other.stable_latency)),
            tuple(map(add, self.canary_latency, other.canary_latency)),
        )

    @property
    def stable_latencies(self) -> Durations:
        """How long the stable version took."""
        return Durations(self.stable_latency, BUCKETS)

    @property
    def canary_latencies(self) -> Durations:
        """How long the canary took."""
        return Durations(self.canary_latency, BUCKETS)


@dataclass(frozen=True, slots=True)
class Window:
    """What one worker did in half a second; of a window without any call there is none.

    `index` counts half seconds by the clock of whoever collects the windows, the same for all workers, and
    goes on when that starts again.
    """

    worker: str
    index: int
    side: Side = field(default_factory=Side)
    """All calls that are evidence, whoever sent them."""
    unbound: Side | None = None
    """Those of them that no caller's stickiness placed; None where that is all of them."""
    pairs: PairCounts = PairCounts()
    """The pairs that were compared by this worker, of either version."""


@dataclass(frozen=True, slots=True)
class CallerCounts:
    """What one version answered one caller: the calls that are evidence, as plain sums."""

    calls: int = 0
    failures: int = 0
    log_seconds: float = 0.0
    """The sum of the natural logarithms of the latencies in seconds."""

    def __add__(self, other: CallerCounts) -> CallerCounts:
        return CallerCounts(
            self.calls + other.calls, self.failures + other.failures, self.log_seconds + other.log_seconds
        )


@dataclass(frozen=True, slots=True)
class Units:
    """What became known since the last look: windows that are over, and what callers were answered.

    Windows are in the order of their indices. Those of both versions reach to the same index: of a window
    that is judged, the stable version's part is there too. Callers are told apart by a hash of what they
    stick by; only those that stick to a version are here, and none where nobody does.
    """

    stable: tuple[Window, ...] = ()
    canary: tuple[Window, ...] = ()
    stable_callers: Mapping[str, CallerCounts] = field(default_factory=dict)
    canary_callers: Mapping[str, CallerCounts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class History:
    """What the stable version did until now: how its calls vary when nothing is wrong."""

    windows: tuple[Window, ...] = ()
    """In the order of their indices, at most `HISTORY_WINDOWS` of each worker."""
    callers: Mapping[str, CallerCounts] = field(default_factory=dict)
    """The callers that stick to a version, of the time that they were at this one."""

"""What two versions did: plain counts, which add up."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field

from gateway.metrics.counts import BUCKETS, MirroredCalls
from gateway.metrics.pairs import AnswerPairs, add_pairs

_NO_LATENCY = (0,) * (len(BUCKETS) + 1)
_LOWEST_BOUND = 1e-5


@dataclass(frozen=True, slots=True)
class Side:
    """One version's calls: how many, how many failed, and their latencies by `metrics.BUCKETS`."""

    calls: int = 0
    errors: int = 0
    latency: tuple[int, ...] = _NO_LATENCY

    def __add__(self, other: Side) -> Side:
        latency = tuple(sum(counts) for counts in zip(self.latency, other.latency, strict=True))
        return Side(self.calls + other.calls, self.errors + other.errors, latency)

    def __neg__(self) -> Side:
        return Side(-self.calls, -self.errors, tuple(-count for count in self.latency))

    def __sub__(self, earlier: Side) -> Side:
        return self + -earlier

    @property
    def timed(self) -> int:
        """How many calls have a latency."""
        return sum(self.latency)

    def quantile(self, share: float) -> float:
        """Return the latency, in seconds, that `share` of the calls do not exceed; NaN without calls.

        Within a bucket, latencies are taken to be spread evenly over their logarithms.
        """
        rank = share * self.timed
        if not rank:
            return math.nan
        below = 0
        for bucket, count in enumerate(self.latency):
            if count and below + count >= rank:
                low, high = _bounds(bucket)
                return float(low * (high / low) ** ((rank - below) / count))
            below += count
        return _bounds(len(BUCKETS))[1]

    def slower_than(self, seconds: float) -> float:
        """Return how many calls took longer; those of the bucket that `seconds` falls into count in part."""
        bucket = bisect_left(BUCKETS, seconds)
        low, high = _bounds(bucket)
        part = min(1.0, max(0.0, math.log(high / max(seconds, low)) / math.log(high / low)))
        return sum(self.latency[bucket + 1 :]) + part * self.latency[bucket]


def _bounds(bucket: int) -> tuple[float, float]:
    """Return a bucket's lower and upper bound; the two outermost buckets get one that they lack."""
    low = BUCKETS[bucket - 1] if bucket else _LOWEST_BOUND
    return low, BUCKETS[bucket] if bucket < len(BUCKETS) else low * 4


@dataclass(frozen=True, slots=True)
class Evidence:
    """What both versions did at the same time.

    `pairs` is None where the model generates no text. `trouble` says why some of it is missing: a fault of
    the measuring, not of a version.
    """

    stable: Side = Side()
    canary: Side = Side()
    mirrored: MirroredCalls = field(default_factory=MirroredCalls)
    trouble: str = ""
    pairs: AnswerPairs | None = None

    @property
    def is_text(self) -> bool:
        """Whether the model generates text."""
        return self.pairs is not None

    def __add__(self, later: Evidence) -> Evidence:
        return Evidence(
            self.stable + later.stable,
            self.canary + later.canary,
            self.mirrored + later.mirrored,
            later.trouble,
            add_pairs(self.pairs, later.pairs),
        )

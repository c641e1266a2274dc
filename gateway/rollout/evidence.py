"""What two versions did: plain counts, which add up."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field

from gateway.metrics.counts import BUCKETS, FIRST_TOKEN_BUCKETS, TOKEN_GAP_BUCKETS, MirroredCalls
from gateway.metrics.pairs import AnswerPairs, add_pairs

_LOWEST_BOUND = 1e-5


def _none(bounds: tuple[float, ...]) -> tuple[int, ...]:
    return (0,) * (len(bounds) + 1)


@dataclass(frozen=True, slots=True)
class Durations:
    """How many durations, in seconds, there are in the bucket below each bound, and over all bounds."""

    counts: tuple[int, ...]
    bounds: tuple[float, ...]

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """Return the duration that `share` of them do not exceed; NaN without any.

        Within a bucket, durations are taken to be spread evenly over their logarithms.
        """
        rank = share * self.total
        if not rank:
            return math.nan
        below = 0
        for bucket, count in enumerate(self.counts):
            if count and below + count >= rank:
                low, high = self._bounds(bucket)
                return float(low * (high / low) ** ((rank - below) / count))
            below += count
        return self._bounds(len(self.bounds))[1]

    def longer_than(self, seconds: float) -> float:
        """Return how many were longer; those of the bucket that `seconds` falls into count in part."""
        bucket = bisect_left(self.bounds, seconds)
        low, high = self._bounds(bucket)
        part = min(1.0, max(0.0, math.log(high / max(seconds, low)) / math.log(high / low)))
        return sum(self.counts[bucket + 1 :]) + part * self.counts[bucket]

    def _bounds(self, bucket: int) -> tuple[float, float]:
        """Return a bucket's lower and upper bound; the two outermost buckets get one that they lack."""
        low = self.bounds[bucket - 1] if bucket else _LOWEST_BOUND
        return low, self.bounds[bucket] if bucket < len(self.bounds) else low * 4


@dataclass(frozen=True, slots=True)
class Side:
    """One version's calls: how many, how many failed, and how long they took, by the buckets of `metrics`."""

    calls: int = 0
    errors: int = 0
    latency: tuple[int, ...] = _none(BUCKETS)
    first_token: tuple[int, ...] = _none(FIRST_TOKEN_BUCKETS)
    """How long callers waited for the first token."""
    per_token: tuple[int, ...] = _none(TOKEN_GAP_BUCKETS)
    """How long each token after it took, as the mean over a call."""

    def __add__(self, other: Side) -> Side:
        return Side(
            self.calls + other.calls,
            self.errors + other.errors,
            _sums(self.latency, other.latency),
            _sums(self.first_token, other.first_token),
            _sums(self.per_token, other.per_token),
        )

    def __neg__(self) -> Side:
        latency, first_token, per_token = (
            tuple(-count for count in counts) for counts in (self.latency, self.first_token, self.per_token)
        )
        return Side(-self.calls, -self.errors, latency, first_token, per_token)

    def __sub__(self, earlier: Side) -> Side:
        return self + -earlier

    @property
    def latencies(self) -> Durations:
        """How long the calls took."""
        return Durations(self.latency, BUCKETS)

    @property
    def first_tokens(self) -> Durations:
        """How long the calls' first tokens took."""
        return Durations(self.first_token, FIRST_TOKEN_BUCKETS)

    @property
    def token_times(self) -> Durations:
        """How long each token after the first took in a call."""
        return Durations(self.per_token, TOKEN_GAP_BUCKETS)


def _sums(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sum(counts) for counts in zip(one, other, strict=True))


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

"""What a worker counts: plain numbers, which add up over workers."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

BUCKETS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
"""Upper bounds of the latency histograms, in seconds."""
DROPPED = ("rejected", "expired", "cancelled")
"""Why the model never answers a call: the queue was full, its time was over, its caller hung up."""
MAX_BATCH_ROWS = 1024
"""Batches of up to so many rows are counted by their size, and larger ones by the next power of two."""
MIRRORED = "mirror"
"""The role of calls that are only to be compared."""
MAX_LABELS = 64


class Histogram:
    """Counts of durations by bucket; the last count is of those over every bound."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def add(self, other: Histogram) -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus' buckets: bound and the count of all up to it."""
        bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
        totals = (sum(self.counts[: position + 1]) for position in range(len(bounds)))
        return list(zip(bounds, totals, strict=True))


@dataclass(slots=True)
class Steps:
    """Calls, and the seconds that all of them spent, in total and step by step."""

    calls: int = 0
    total: float = 0.0
    queue: float = 0.0
    decode: float = 0.0
    infer: float = 0.0
    encode: float = 0.0

    def add(self, other: Steps) -> None:
        self.calls += other.calls
        self.total += other.total
        self.queue += other.queue
        self.decode += other.decode
        self.infer += other.infer
        self.encode += other.encode


@dataclass(slots=True)
class Runs:
    """Runs of a model on batches of one size, and the seconds that their calls took, step by step."""

    runs: int = 0
    rows: int = 0
    decode: float = 0.0
    infer: float = 0.0
    encode: float = 0.0

    def add(self, other: Runs) -> None:
        self.runs += other.runs
        self.rows += other.rows
        self.decode += other.decode
        self.infer += other.infer
        self.encode += other.encode


@dataclass(slots=True)
class Mirrored:
    """Calls that the stable version answered, and the canary too, unseen by callers.

    The canary's workers count what they compared; `agreeing` sums up the shares of rows that agree, and of
    calls that `failed` there was no answer. The stable version's count what they `dropped` for lack of time.
    `stable` and `canary` are the answers by label, where they are compared by distribution.
    """

    compared: int = 0
    agreeing: float = 0.0
    failed: int = 0
    dropped: int = 0
    stable: Counter[str] = field(default_factory=Counter)
    canary: Counter[str] = field(default_factory=Counter)

    def add(self, other: Mirrored) -> None:
        self.compared += other.compared
        self.agreeing += other.agreeing
        self.failed += other.failed
        self.dropped += other.dropped
        count_labels(self.stable, other.stable)
        count_labels(self.canary, other.canary)


def count_labels(counts: Counter[str], more: Mapping[str, int]) -> None:
    """Add counts by label; those beyond `MAX_LABELS` become one: callers must not make more."""
    for label, count in more.items():
        counts[label if label in counts or len(counts) < MAX_LABELS else "other"] += count

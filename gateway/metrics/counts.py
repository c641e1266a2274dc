"""What a worker counts: plain numbers, which add up over workers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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
FIRST_TOKEN_BUCKETS = (
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
    60.0,
    120.0,
    300.0,
    600.0,
)
"""Upper bounds of the times to a first token, in seconds: a long prompt takes minutes."""
TOKEN_GAP_BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.015,
    0.025,
    0.04,
    0.06,
    0.1,
    0.15,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
"""Upper bounds of the times from one token to the next, in seconds: close where people read along."""
DROPPED = ("rejected", "expired", "cancelled", "deadly")
"""Why the model never answers a call: the queue was full, its time was over, its caller hung up, or workers
ended with the same body."""
LOAD_STEPS = ("pull", "load")
"""What a worker does before it is ready, each of which may fail."""
MAX_BATCH_ROWS = 1024
"""Batches of up to so many rows are counted by their size, and larger ones by the next power of two."""
MIRRORED = "mirror"
"""The role of calls that are only to be compared."""
MAX_LABELS = 64
"""So many labels of answers are counted each by itself, and the others together."""
OTHER_LABELS = "other"


class Histogram:
    """Counts of durations by bucket; the last count is of those over every bound.

    Only histograms of the same bounds can be added.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    @property
    def observations(self) -> int:
        """How many durations there were."""
        return sum(self.counts)

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def add(self, other: Histogram) -> None:
        self.counts = [sum(pair) for pair in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus' buckets: bound and the count of all up to it."""
        bounds = [*(str(bound) for bound in self.bounds), "+Inf"]
        totals = (sum(self.counts[: position + 1]) for position in range(len(bounds)))
        return list(zip(bounds, totals, strict=True))


@dataclass(slots=True)
class CallTimes:
    """Calls, and the seconds that all of them spent, in total and step by step."""

    calls: int = 0
    total: float = 0.0
    queue: float = 0.0
    decode: float = 0.0
    infer: float = 0.0
    encode: float = 0.0

    def add(self, other: CallTimes) -> None:
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


@dataclass(frozen=True, slots=True)
class MirroredCalls:
    """Calls that the stable version answered, and the canary too, unseen by callers; they add up.

    The workers that compare count them, of tensors the canary's and of text the stable version's: `agreeing`
    sums up, over calls, the share of rows whose answers agree; `failed` of the compared calls had no answer
    from the canary, and agree in nothing. The stable version's workers count the calls that they `dropped`,
    as there was no time to mirror them. `stable` and `canary` are the answers by label, where distributions
    are compared.
    """

    compared: int = 0
    agreeing: float = 0.0
    failed: int = 0
    dropped: int = 0
    stable: Mapping[str, int] = field(default_factory=dict)
    canary: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: MirroredCalls) -> MirroredCalls:
        return MirroredCalls(
            self.compared + other.compared,
            self.agreeing + other.agreeing,
            self.failed + other.failed,
            self.dropped + other.dropped,
            _sum(self.stable, other.stable),
            _sum(self.canary, other.canary),
        )

    def __neg__(self) -> MirroredCalls:
        return MirroredCalls(
            -self.compared,
            -self.agreeing,
            -self.failed,
            -self.dropped,
            {label: -count for label, count in self.stable.items()},
            {label: -count for label, count in self.canary.items()},
        )

    def __sub__(self, earlier: MirroredCalls) -> MirroredCalls:
        return self + -earlier

    def with_few_labels(self) -> MirroredCalls:
        """Return the same counts with the labels beyond `MAX_LABELS` as one."""
        return replace(self, stable=limit_labels(self.stable), canary=limit_labels(self.canary))


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> Mapping[str, int]:
    """Add counts by label; a label whose counts cancel out is gone."""
    if not other:
        return one
    sums = {label: one.get(label, 0) + other.get(label, 0) for label in {**one, **other}}
    return {label: count for label, count in sums.items() if count}


def limit_labels(counts: Mapping[str, int]) -> Mapping[str, int]:
    """Return counts by label with those beyond the first `MAX_LABELS` as one: callers must not make more."""
    if len(counts) <= MAX_LABELS:
        return counts
    kept = [label for label in counts if label != OTHER_LABELS][:MAX_LABELS]
    limited = {label: counts[label] for label in kept}
    return {**limited, OTHER_LABELS: sum(counts.values()) - sum(limited.values())}

"""Every metric, in one place: names, labels, buckets; the cheap counting in a worker; the exposition.

A worker counts in plain numbers and sends them to the gateway every second; the gateway adds up all
workers, those that are gone included, and gives them to prometheus-client. Names and units follow
https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

import platform
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version as installed

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

import gateway

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
MOST_BATCH_ROWS = 1024
"""Batches of up to so many rows are counted by their size, and larger ones by the next power of two."""
_BATCH_BOUNDS = tuple(1 << power for power in range(MOST_BATCH_ROWS.bit_length()))
_FAILURES = 400
MIRRORED = "mirror"
"""The role of calls that are only to be compared."""
MOST_LABELS = 64


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
    """Add counts by label; those beyond `MOST_LABELS` become one: callers must not make more."""
    for label, count in more.items():
        counts[label if label in counts or len(counts) < MOST_LABELS else "other"] += count


@dataclass(slots=True)
class Numbers:
    """What one worker, or all of one version, did since it started."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Answers by role and HTTP status."""
    request: Histogram = field(default_factory=Histogram)
    queue: Histogram = field(default_factory=Histogram)
    compute: Histogram = field(default_factory=Histogram)
    succeeded: Steps = field(default_factory=Steps)
    failed: Steps = field(default_factory=Steps)
    last_call: float = 0.0
    """When the last call was answered, in seconds since 1970; 0 before the first."""
    mirrored: Mirrored = field(default_factory=Mirrored)
    pulled_bytes: int = 0
    cache_hits: int = 0
    unpacks: int = 0
    unpack_seconds: float = 0.0
    loads: int = 0
    load_seconds: float = 0.0
    dropped: Counter[str] = field(default_factory=Counter)
    """Calls that the model never answered, by the words of `DROPPED`."""
    batches: dict[int, Runs] = field(default_factory=dict)
    """Runs by the rows of their batch; empty where calls are not batched."""

    def add(self, other: Numbers) -> None:
        """Add another's numbers to these."""
        self.requests.update(other.requests)
        self.request.add(other.request)
        self.queue.add(other.queue)
        self.compute.add(other.compute)
        self.succeeded.add(other.succeeded)
        self.failed.add(other.failed)
        self.last_call = max(self.last_call, other.last_call)
        self.mirrored.add(other.mirrored)
        self.pulled_bytes += other.pulled_bytes
        self.cache_hits += other.cache_hits
        self.unpacks += other.unpacks
        self.unpack_seconds += other.unpack_seconds
        self.loads += other.loads
        self.load_seconds += other.load_seconds
        self.dropped.update(other.dropped)
        for rows, runs in other.batches.items():
            self.batches.setdefault(rows, Runs()).add(runs)


class Tally:
    """The numbers of a running worker; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = Numbers()
        self.ongoing = 0

    def answered(
        self,
        role: str,
        status: int,
        request: float,
        queue: float,
        compute: float,
        infer: float = 0.0,
        encode: float = 0.0,
    ) -> None:
        """Count one answered call; durations in seconds, `infer` and `encode` being parts of `compute`."""
        with self._lock:
            numbers = self._numbers
            numbers.requests[role, status] += 1
            if role == MIRRORED:
                return
            numbers.request.observe(request)
            numbers.queue.observe(queue)
            numbers.compute.observe(compute)
            numbers.last_call = time.time()
            steps = numbers.succeeded if status < _FAILURES else numbers.failed
            steps.calls += 1
            steps.total += request
            steps.queue += queue
            steps.decode += compute - infer - encode
            steps.infer += infer
            steps.encode += encode

    def refused(self, role: str, status: int) -> None:
        """Count one call that never reached the model."""
        with self._lock:
            self._numbers.requests[role, status] += 1
            self._numbers.failed.calls += role != MIRRORED

    def dropped(self, reason: str) -> None:
        """Count one call that the model never answered; `reason` is one of `DROPPED`."""
        with self._lock:
            self._numbers.dropped[reason] += 1

    def compared(
        self, agreeing: float, failed: bool, stable: Mapping[str, int], canary: Mapping[str, int]
    ) -> None:
        """Count one mirrored call, see `Mirrored`."""
        with self._lock:
            mirrored = self._numbers.mirrored
            mirrored.compared += 1
            mirrored.agreeing += agreeing
            mirrored.failed += failed
            count_labels(mirrored.stable, stable)
            count_labels(mirrored.canary, canary)

    def not_mirrored(self) -> None:
        """Count one call that was to be mirrored, and was not."""
        with self._lock:
            self._numbers.mirrored.dropped += 1

    def executed(self, rows: int, decode: float, infer: float, encode: float) -> None:
        """Count one run of the model on a batch, of however many calls it was made; durations in seconds."""
        # Callers must not make entries without end.
        size = rows if rows <= MOST_BATCH_ROWS else 1 << (rows - 1).bit_length()
        with self._lock:
            runs = self._numbers.batches.get(size)
            if runs is None:
                runs = self._numbers.batches[size] = Runs()
            runs.runs += 1
            runs.rows += rows
            runs.decode += decode
            runs.infer += infer
            runs.encode += encode

    def opened(self, pulled_bytes: int, from_cache: bool, unpack_seconds: float) -> None:
        """Count a kit that was brought to this node, or found there."""
        with self._lock:
            self._numbers.pulled_bytes += pulled_bytes
            self._numbers.cache_hits += from_cache
            self._numbers.unpacks += not from_cache
            self._numbers.unpack_seconds += unpack_seconds

    def loaded(self, seconds: float) -> None:
        """Count a model that was loaded."""
        with self._lock:
            self._numbers.loads += 1
            self._numbers.load_seconds += seconds

    @property
    def last_call(self) -> float:
        """When the last call was answered, in seconds since 1970; 0 before the first."""
        return self._numbers.last_call

    def numbers(self) -> Numbers:
        """A copy of the numbers so far."""
        with self._lock:
            copy = Numbers()
            copy.add(self._numbers)
            return copy


@dataclass(frozen=True, slots=True)
class VersionLabels:
    """What names a version in every metric. `digest` is its first 12 digits."""

    model: str
    version: str
    digest: str
    runtime: str


@dataclass(frozen=True, slots=True)
class VersionSample:
    """One version at one moment."""

    labels: VersionLabels
    numbers: Numbers
    ongoing: int = 0
    replicas: Mapping[str, int] = field(default_factory=dict)
    """Workers by state."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """Percent of unversioned calls by role."""
    queued: int = 0
    """Calls that wait for the model."""
    held: int = 0
    """Calls that wait for the version to wake."""


class KitserveCollector(Collector):
    """Gives prometheus-client the samples that `read` returns at each scrape."""

    def __init__(self, read: Callable[[], Iterable[VersionSample]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        yield build_info()
        yield from families(self._read())


def _batch_buckets(batches: Mapping[int, Runs]) -> list[tuple[str, float]]:
    """Prometheus' buckets of runs by rows."""
    counts = [
        (str(bound), float(sum(runs.runs for rows, runs in batches.items() if rows <= bound)))
        for bound in _BATCH_BOUNDS
    ]
    return [*counts, ("+Inf", float(sum(runs.runs for runs in batches.values())))]


def build_info() -> Metric:
    """What runs here."""
    info = {"version": gateway.__version__, "python": platform.python_version(), "ray": installed("ray")}
    return InfoMetricFamily("kitserve_build", "What runs here", value=info)


def families(samples: Iterable[VersionSample]) -> Iterator[Metric]:
    """Turn samples into Prometheus' families."""
    names = ["model", "version", "digest", "runtime"]
    requests = CounterMetricFamily(
        "kitserve_requests", "Inference calls answered", labels=[*names, "role", "status"]
    )
    durations = {
        part: HistogramMetricFamily(f"kitserve_{part}_duration_seconds", text, labels=names)
        for part, text in (
            ("request", "From the arrival of a call at its worker to its answer"),
            ("queue", "Wait of a call for the model"),
            ("compute", "Decoding, inference and encoding of a call"),
        )
    }
    ongoing = GaugeMetricFamily("kitserve_requests_in_flight", "Calls inside the workers now", labels=names)
    queued = GaugeMetricFamily("kitserve_queue_length", "Calls that wait for the model now", labels=names)
    dropped = CounterMetricFamily(
        "kitserve_requests_dropped",
        "Calls that the model never answered: rejected by a full queue, expired, or cancelled by callers",
        labels=[*names, "reason"],
    )
    batches = HistogramMetricFamily(
        "kitserve_batch_size", "Rows of a batch that the model ran on; absent without batching", labels=names
    )
    pulled = CounterMetricFamily("kitserve_pulled_bytes", "Bytes fetched from registries", labels=names)
    hits = CounterMetricFamily("kitserve_cache_hits", "Kits found unpacked on this node", labels=names)
    unpack = SummaryMetricFamily("kitserve_unpack_duration_seconds", "Unpacking of kits", labels=names)
    load = SummaryMetricFamily("kitserve_load_duration_seconds", "Loading of models", labels=names)
    mirrored = CounterMetricFamily(
        "kitserve_mirrored_requests",
        "Calls compared by a canary (their agreement is a sum of shares), or dropped by the stable version",
        labels=[*names, "outcome"],
    )
    replicas = GaugeMetricFamily("kitserve_replicas", "Workers by state", labels=[*names, "state"])
    weights = GaugeMetricFamily(
        "kitserve_traffic_weight_ratio", "Share of a model's unversioned calls", labels=[*names, "role"]
    )
    held = GaugeMetricFamily(
        "kitserve_requests_waiting_to_wake", "Calls that wait for a version that sleeps", labels=names
    )
    for sample in samples:
        at = [sample.labels.model, sample.labels.version, sample.labels.digest, sample.labels.runtime]
        numbers = sample.numbers
        for (role, status), count in sorted(numbers.requests.items()):
            requests.add_metric([*at, role, str(status)], count)
        for part, family in durations.items():
            histogram: Histogram = getattr(numbers, part)
            family.add_metric(at, histogram.cumulative(), histogram.total)
        ongoing.add_metric(at, sample.ongoing)
        queued.add_metric(at, sample.queued)
        for reason in DROPPED:
            dropped.add_metric([*at, reason], numbers.dropped[reason])
        if numbers.batches:
            rows = sum(runs.rows for runs in numbers.batches.values())
            batches.add_metric(at, _batch_buckets(numbers.batches), rows)
        pulled.add_metric(at, numbers.pulled_bytes)
        hits.add_metric(at, numbers.cache_hits)
        for outcome in ("compared", "agreeing", "failed", "dropped"):
            mirrored.add_metric([*at, outcome], getattr(numbers.mirrored, outcome))
        unpack.add_metric(at, numbers.unpacks, numbers.unpack_seconds)
        load.add_metric(at, numbers.loads, numbers.load_seconds)
        for state, count in sample.replicas.items():
            replicas.add_metric([*at, state], count)
        held.add_metric(at, sample.held)
        for role, percent in sample.weights.items():
            weights.add_metric([*at, role], percent / 100)
    yield from (
        requests,
        *durations.values(),
        ongoing,
        queued,
        held,
        dropped,
        mirrored,
        batches,
        pulled,
        hits,
        unpack,
        load,
        replicas,
        weights,
    )

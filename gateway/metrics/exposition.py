"""The metrics as Prometheus reads them: families, labels, buckets."""

from __future__ import annotations

import platform
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
from gateway.metrics.counts import DROPPED, MOST_BATCH_ROWS, Histogram, Runs
from gateway.metrics.tally import Numbers

_BATCH_BOUNDS = tuple(1 << power for power in range(MOST_BATCH_ROWS.bit_length()))


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

"""What is measured of each version, declared once each.

To add a metric of versions, count it in `tally` and declare it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from prometheus_client.core import Metric

from gateway.metrics.counts import DROPPED, LOAD_STEPS, MAX_BATCH_ROWS, Histogram
from gateway.metrics.declarations import Buckets, Kind, MetricDeclaration, Series, Summary, family
from gateway.metrics.edge_numbers import ERRORS, SOURCES
from gateway.metrics.tokens import Tokens
from gateway.metrics.versions import VERSION_LABELS, VersionSample

BATCH_BOUNDS = tuple(1 << power for power in range(MAX_BATCH_ROWS.bit_length()))
"""Upper bounds of the histogram of batches, in rows."""
_MAX_EVENTS = 128


@dataclass(frozen=True, slots=True)
class VersionMetric(MetricDeclaration):
    """A metric of each version; its labels begin with `VERSION_LABELS`."""

    read: Callable[[VersionSample], Iterable[Series]]
    """Gives the series of one sample."""


def _declare(
    name: str, kind: Kind, text: str, read: Callable[[VersionSample], Iterable[Series]], *labels: str
) -> VersionMetric:
    """Declare a metric that has `labels` beside those of its version."""
    return VersionMetric(name, kind, text, (*VERSION_LABELS, *labels), read)


def _requests(sample: VersionSample) -> Iterable[Series]:
    return (((role, str(status)), count) for (role, status), count in sorted(sample.numbers.requests.items()))


def _single(value: float | Buckets | Summary) -> Iterable[Series]:
    """The series of a metric that has no labels of its own."""
    return [((), value)]


def _histogram(histogram: Histogram) -> Iterable[Series]:
    return _single(Buckets(histogram.cumulative(), histogram.total))


def _batches(sample: VersionSample) -> Iterable[Series]:
    sizes = sample.numbers.batches
    if not sizes:
        return []
    counts = [
        (str(bound), float(sum(runs.runs for rows, runs in sizes.items() if rows <= bound)))
        for bound in BATCH_BOUNDS
    ]
    every = float(sum(runs.runs for runs in sizes.values()))
    return _single(Buckets([*counts, ("+Inf", every)], sum(runs.rows for runs in sizes.values())))


def _first_tokens(sample: VersionSample) -> Iterable[Series]:
    return _by_role(sample, lambda tokens: tokens.first)


def _token_gaps(sample: VersionSample) -> Iterable[Series]:
    return _by_role(sample, lambda tokens: tokens.between)


def _times_per_token(sample: VersionSample) -> Iterable[Series]:
    return _by_role(sample, lambda tokens: tokens.per_token)


def _by_role(sample: VersionSample, read: Callable[[Tokens], Histogram]) -> Iterable[Series]:
    for role, tokens in sorted(sample.numbers.tokens_by_role.items()):
        histogram = read(tokens)
        yield (role,), Buckets(histogram.cumulative(), histogram.total)


def _tokens(sample: VersionSample) -> Iterable[Series]:
    for role, tokens in sorted(sample.numbers.tokens_by_role.items()):
        yield (role, "input"), tokens.input
        yield (role, "cached"), tokens.cached
        yield (role, "output"), tokens.output


def _mirrored(sample: VersionSample) -> Iterable[Series]:
    mirrored = sample.numbers.mirrored
    yield ("compared",), mirrored.compared
    yield ("agreeing",), mirrored.agreeing
    yield ("failed",), mirrored.failed
    yield ("dropped",), mirrored.dropped


def _edge_responses(sample: VersionSample) -> Iterable[Series]:
    """Give the series that are alarms from the start, so that their first increase is seen as one."""
    counted = sample.edge.responses
    always = [(source, "5xx") for source in SOURCES]
    return ((labels, counted[labels]) for labels in dict.fromkeys([*always, *sorted(counted)]))


def _log_lines(sample: VersionSample) -> Iterable[Series]:
    # Bounded here too: a worker may run code of a kit.
    return islice(sorted(sample.numbers.log_lines.items()), _MAX_EVENTS)


VERSION_METRICS = (
    _declare("kitserve_requests", Kind.COUNTER, "Inference calls answered", _requests, "role", "status"),
    _declare(
        "kitserve_request_duration_seconds",
        Kind.HISTOGRAM,
        "From the arrival of a call at its worker to its answer",
        lambda sample: _histogram(sample.numbers.request),
    ),
    _declare(
        "kitserve_queue_duration_seconds",
        Kind.HISTOGRAM,
        "Wait of a call for the model",
        lambda sample: _histogram(sample.numbers.queue),
    ),
    _declare(
        "kitserve_compute_duration_seconds",
        Kind.HISTOGRAM,
        "Decoding, inference and encoding of a call",
        lambda sample: _histogram(sample.numbers.compute),
    ),
    _declare(
        "kitserve_requests_in_flight",
        Kind.GAUGE,
        "Calls inside the workers now",
        lambda sample: _single(sample.ongoing),
    ),
    _declare(
        "kitserve_queue_length",
        Kind.GAUGE,
        "Calls that wait for the model now",
        lambda sample: _single(sample.queued),
    ),
    _declare(
        "kitserve_requests_waiting_to_wake",
        Kind.GAUGE,
        "Calls that wait for a version that sleeps",
        lambda sample: _single(sample.held),
    ),
    _declare(
        "kitserve_requests_dropped",
        Kind.COUNTER,
        "Calls that the model never answered: rejected by a full queue, expired, cancelled by callers, or "
        "refused as their body ended workers",
        lambda sample: [((reason,), sample.numbers.dropped[reason]) for reason in DROPPED],
        "reason",
    ),
    _declare(
        "kitserve_mirrored_requests",
        Kind.COUNTER,
        "Calls compared, by the canary or of texts by the stable version, or dropped (by the stable version)",
        _mirrored,
        "outcome",
    ),
    _declare(
        "kitserve_batch_size",
        Kind.HISTOGRAM,
        "Rows of a batch that the model ran on; absent without batching",
        _batches,
    ),
    _declare(
        "kitserve_time_to_first_token_seconds",
        Kind.HISTOGRAM,
        "From the arrival of a call at its worker to the first token of its answer",
        _first_tokens,
        "role",
    ),
    _declare(
        "kitserve_inter_token_seconds",
        Kind.HISTOGRAM,
        "From one token of an answer to the next",
        _token_gaps,
        "role",
    ),
    _declare(
        "kitserve_time_per_output_token_seconds",
        Kind.HISTOGRAM,
        "Mean time of each token of an answer after the first, by answers",
        _times_per_token,
        "role",
    ),
    _declare(
        "kitserve_tokens",
        Kind.COUNTER,
        "Tokens of prompts (input), those of them whose work was kept (cached), and of answers (output)",
        _tokens,
        "role",
        "type",
    ),
    _declare(
        "kitserve_requests_generating",
        Kind.GAUGE,
        "Calls whose answers a language model makes now",
        lambda sample: _single(sample.generating),
    ),
    _declare(
        "kitserve_kv_cache_usage_ratio",
        Kind.GAUGE,
        "The part of each worker's key-value cache in use; absent where its engine does not say it",
        lambda sample: [((worker,), usage) for worker, usage in sample.kv_cache_usage.items()],
        "worker",
    ),
    _declare(
        "kitserve_pulled_bytes",
        Kind.COUNTER,
        "Bytes fetched from registries",
        lambda sample: _single(sample.numbers.pulled_bytes),
    ),
    _declare(
        "kitserve_cache_hits",
        Kind.COUNTER,
        "Kits found unpacked on this node",
        lambda sample: _single(sample.numbers.cache_hits),
    ),
    _declare(
        "kitserve_unpack_duration_seconds",
        Kind.SUMMARY,
        "Unpacking of kits",
        lambda sample: _single(Summary(sample.numbers.unpacks, sample.numbers.unpack_seconds)),
    ),
    _declare(
        "kitserve_load_duration_seconds",
        Kind.SUMMARY,
        "Loading of models",
        lambda sample: _single(Summary(sample.numbers.loads, sample.numbers.load_seconds)),
    ),
    _declare(
        "kitserve_replicas",
        Kind.GAUGE,
        "Workers by state",
        lambda sample: [((state,), count) for state, count in sample.replicas.items()],
        "state",
    ),
    _declare(
        "kitserve_traffic_weight_ratio",
        Kind.GAUGE,
        "Share of a model's unversioned calls",
        lambda sample: [((role,), percent / 100) for role, percent in sample.weights.items()],
        "role",
    ),
    _declare(
        "kitserve_load_failures",
        Kind.COUNTER,
        "Workers that could not fetch their kit (pull), or not load it (load)",
        lambda sample: [((step,), sample.numbers.load_failures[step]) for step in LOAD_STEPS],
        "step",
    ),
    _declare(
        "kitserve_worker_restarts",
        Kind.COUNTER,
        "Workers that died, failed or fell silent; Ray Serve starts others in their place",
        lambda sample: _single(sample.restarts),
    ),
    _declare(
        "kitserve_worker_resident_memory_bytes",
        Kind.GAUGE,
        "Memory of each worker's process",
        lambda sample: [((worker,), size) for worker, size in sample.memory_bytes.items()],
        "worker",
    ),
    _declare(
        "kitserve_worker_gpu_memory_used_bytes",
        Kind.GAUGE,
        "What each worker's processes have of the GPUs' memory; absent where NVML does not say it",
        lambda sample: [((worker,), size) for worker, size in sample.gpu_memory_bytes.items()],
        "worker",
    ),
    _declare(
        "kitserve_worker_memory_limit_bytes",
        Kind.GAUGE,
        "What each worker's processes may take; absent without `resources.memory`",
        lambda sample: [] if sample.memory_limit_bytes is None else _single(sample.memory_limit_bytes),
    ),
    _declare(
        "kitserve_uncontained_workers",
        Kind.GAUGE,
        "Workers that take calls and have not given up all that they should; the status says what",
        lambda sample: _single(sample.uncontained),
    ),
    _declare(
        "kitserve_refused_bodies",
        Kind.COUNTER,
        "Calls refused with 503, as the bodies of others took all the room",
        lambda sample: _single(sample.numbers.refused_bodies),
    ),
    _declare(
        "kitserve_worker_log_lines",
        Kind.COUNTER,
        "Warnings and errors of workers, by what they tell of; those that the log leaves out too",
        _log_lines,
        "level",
        "event",
    ),
    _declare(
        "kitserve_edge_responses",
        Kind.COUNTER,
        "Answers as the edge gave them to clients, by who answered and by class of status",
        _edge_responses,
        "source",
        "status",
    ),
    _declare(
        "kitserve_edge_errors",
        Kind.COUNTER,
        "Connections to workers that failed, answers that broke off, and who hung up",
        lambda sample: [((error,), sample.edge.errors[error]) for error in ERRORS],
        "reason",
    ),
    _declare(
        "kitserve_edge_retries",
        Kind.COUNTER,
        "Tries to reach a worker once more",
        lambda sample: _single(sample.edge.retries),
    ),
    _declare(
        "kitserve_edge_redispatches",
        Kind.COUNTER,
        "Calls that were given to another worker than at first",
        lambda sample: _single(sample.edge.redispatches),
    ),
    _declare(
        "kitserve_edge_queue_length",
        Kind.GAUGE,
        "Calls that wait at the edge for a worker now",
        lambda sample: _single(sample.edge.queued),
    ),
)


def version_families(samples: Iterable[VersionSample]) -> Iterator[Metric]:
    """Turn samples into Prometheus' families, one for each of `VERSION_METRICS`."""
    samples = tuple(samples)
    return (family(metric, _series(metric, samples)) for metric in VERSION_METRICS)


def _series(metric: VersionMetric, samples: Iterable[VersionSample]) -> Iterator[Series]:
    for sample in samples:
        labels = sample.labels
        version = (labels.model, labels.version, labels.digest, labels.runtime)
        for own, value in metric.read(sample):
            yield (*version, *own), value

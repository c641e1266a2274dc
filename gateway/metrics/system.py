"""What is measured beside versions: models, the edge as a whole, processes; each metric is declared once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

from prometheus_client.core import Metric

from gateway.metrics.declarations import Kind, MetricDeclaration, Series, family, one_hot
from gateway.metrics.rollouts import RolloutSample


@dataclass(frozen=True, slots=True)
class ModelSample:
    """One model of the config at one moment."""

    model: str
    states: Mapping[str, bool]
    """All states, and which of them it is in."""
    rollout: RolloutSample | None = None
    """Its rollout; None where it has none."""
    tries: int = 0
    """How often it was tried again to bring and load what the config asks for; 0 once that is done."""


KEY_REASONS = ("unknown", "rate", "rights")
"""Why a call is turned away: its caller has no valid key, calls too often, or may not call this."""


REJECTED_KINDS = ("connection", "call")
"""What the edge closes unanswered."""


@dataclass(frozen=True, slots=True)
class KeyNumbers:
    """The calls with one key."""

    calls: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    """Those that were turned away, by one of `KEY_REASONS`."""


@dataclass(frozen=True, slots=True)
class EdgeSample:
    """The edge as a whole at one moment."""

    is_up: bool = False
    """Whether HAProxy answers. What it counted before is told even when it does not."""
    responses: Mapping[str, int] = field(default_factory=dict)
    """Answers to clients, of every kind, by class of status."""
    unavailable: Mapping[str, int] = field(default_factory=dict)
    """Calls to a model of which no version could answer, by model."""
    connections: int = 0
    """Connections of clients now."""
    keys: Mapping[str, KeyNumbers] = field(default_factory=dict)
    """Calls by the name of their key, "" for those without a valid one; empty where none is asked for."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """What it closed unanswered, as its caller opens too much, by one of `REJECTED_KINDS`."""
    max_connections: int = 0
    """How many connections it takes at a time."""


@dataclass(frozen=True, slots=True)
class PayloadNumbers:
    """The records of a model's calls."""

    written: int = 0
    dropped: int = 0
    """Those that could not be made or written."""


@dataclass(frozen=True, slots=True)
class SpanNumbers:
    """What became of the spans of traced calls."""

    sent: int = 0
    failed: int = 0
    """The collector did not take them."""
    dropped: int = 0
    """There was no room for them, here or on the way."""


@dataclass(frozen=True, slots=True)
class SystemSample:
    """All that is measured beside versions, at one moment."""

    models: tuple[ModelSample, ...] = ()
    edge: EdgeSample | None = None
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    """Resident memory by process."""
    payloads: Mapping[str, PayloadNumbers] = field(default_factory=dict)
    """By model."""
    spans: SpanNumbers | None = None
    """None where no calls are traced."""


@dataclass(frozen=True, slots=True)
class SystemMetric(MetricDeclaration):
    """A metric with labels of its own."""

    read: Callable[[SystemSample], Iterable[Series]]
    """Gives the series of a sample."""


def _states(sample: SystemSample) -> Iterator[Series]:
    for model in sample.models:
        for state, value in one_hot(model.states):
            yield (model.model, *state), value


def _counts(counts: Mapping[str, int]) -> Iterator[Series]:
    return (((label,), count) for label, count in counts.items())


def _of_edge(read: Callable[[EdgeSample], Iterable[Series]]) -> Callable[[SystemSample], Iterable[Series]]:
    """Return what reads series of the edge; none where no edge is measured."""
    return lambda sample: () if sample.edge is None else read(sample.edge)


SYSTEM_METRICS = (
    SystemMetric(
        "kitserve_model_state",
        Kind.GAUGE,
        "1 for the state that a model of the config is in, 0 for the others",
        ("model", "state"),
        _states,
    ),
    SystemMetric(
        "kitserve_model_retries",
        Kind.GAUGE,
        "How often a model's kit was tried in vain, as where its registry is away; 0 where nothing is amiss",
        ("model",),
        lambda sample: [((model.model,), model.tries) for model in sample.models],
    ),
    SystemMetric(
        "kitserve_edge_up",
        Kind.GAUGE,
        "Whether HAProxy answers the gateway",
        (),
        _of_edge(lambda edge: [((), float(edge.is_up))]),
    ),
    SystemMetric(
        "kitserve_edge_connections",
        Kind.GAUGE,
        "Connections of clients now",
        (),
        _of_edge(lambda edge: [((), edge.connections)]),
    ),
    SystemMetric(
        "kitserve_edge_max_connections",
        Kind.GAUGE,
        "How many connections of clients are taken at a time",
        (),
        _of_edge(lambda edge: [((), edge.max_connections)]),
    ),
    SystemMetric(
        "kitserve_edge_rejected",
        Kind.COUNTER,
        "Connections and calls that were closed unanswered, as their caller opens too much",
        ("kind",),
        _of_edge(lambda edge: _counts(edge.rejected)),
    ),
    SystemMetric(
        "kitserve_edge_unavailable_responses",
        Kind.COUNTER,
        "Calls that the edge answered with 503, as no version of the model was there to take them",
        ("model",),
        _of_edge(lambda edge: _counts(edge.unavailable)),
    ),
    SystemMetric(
        "kitserve_edge_client_responses",
        Kind.COUNTER,
        "All answers to clients, those about health and to unknown names too",
        ("status",),
        _of_edge(lambda edge: _counts(edge.responses)),
    ),
    SystemMetric(
        "kitserve_key_calls",
        Kind.COUNTER,
        "Calls by the name of their key or of the issuer of their token; an empty name is for those without",
        ("key",),
        _of_edge(lambda edge: (((key,), numbers.calls) for key, numbers in edge.keys.items())),
    ),
    SystemMetric(
        "kitserve_key_refused_calls",
        Kind.COUNTER,
        "Calls turned away: without a valid key (unknown), too many (rate), not allowed (rights)",
        ("key", "reason"),
        _of_edge(
            lambda edge: (
                ((key, reason), count)
                for key, numbers in edge.keys.items()
                for reason, count in numbers.refused.items()
            )
        ),
    ),
    SystemMetric(
        "kitserve_payload_records",
        Kind.COUNTER,
        "Records of calls in the payload log: written, or dropped as there was no room or time for them",
        ("model", "outcome"),
        lambda sample: (
            ((model, outcome), count)
            for model, numbers in sample.payloads.items()
            for outcome, count in (("written", numbers.written), ("dropped", numbers.dropped))
        ),
    ),
    SystemMetric(
        "kitserve_trace_spans",
        Kind.COUNTER,
        "Spans of traced calls: sent to the collector, not taken by it (failed), or dropped for want of room",
        ("outcome",),
        lambda sample: () if sample.spans is None else _counts(asdict(sample.spans)),
    ),
    SystemMetric(
        "kitserve_process_resident_memory_bytes",
        Kind.GAUGE,
        "Memory of the gateway, and of all processes of HAProxy",
        ("process",),
        lambda sample: _counts(sample.memory_bytes),
    ),
)


def system_families(sample: SystemSample) -> Iterator[Metric]:
    """Turn a sample into Prometheus' families, one for each of `SYSTEM_METRICS`."""
    return (family(metric, metric.read(sample)) for metric in SYSTEM_METRICS)

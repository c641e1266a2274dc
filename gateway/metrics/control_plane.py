"""What is measured of the gateway and of the machine that it runs on; each metric is declared once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import Metric

from gateway.gpus.devices import THROTTLE_REASONS, Gpu, Gpus
from gateway.metrics.declarations import Kind, MetricDeclaration, Series, family, one_hot
from gateway.metrics.machine import MachineMemory


@dataclass(frozen=True, slots=True)
class ControlPlaneSample:
    """The gateway and its machine at one moment; times in seconds since 1970."""

    started: float
    """When the gateway began."""
    reconciled: float
    """When the reconcile loop last came through; 0 before it did."""
    failed_ticks: int = 0
    """How often it did not."""
    state_errors: int = 0
    """How often the state could not be read or saved."""
    generation: int = 0
    """That of the config in force."""
    observed_generation: int = 0
    """That of the config which the status is about."""
    log_lines: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """The gateway's warnings and errors, by level and event."""
    certificate_ends: Mapping[str, float] = field(default_factory=dict)
    """When the certificates in use end, by where they are used."""
    disk: tuple[int, int] | None = None
    """Bytes of the disk at home: all, and those that may be used; None where it does not say."""
    memory: MachineMemory | None = None
    """The memory of the machine, or of the container; None where it does not say."""
    gpus: Gpus = field(default_factory=Gpus)


@dataclass(frozen=True, slots=True)
class ControlPlaneMetric(MetricDeclaration):
    """A metric of the gateway or of its machine."""

    read: Callable[[ControlPlaneSample], Iterable[Series]]
    """Gives the series of a sample."""


def _declare(
    name: str, kind: Kind, text: str, read: Callable[[ControlPlaneSample], Iterable[Series]], *labels: str
) -> ControlPlaneMetric:
    return ControlPlaneMetric(name, kind, text, labels, read)


def _single(read: Callable[[ControlPlaneSample], float]) -> Callable[[ControlPlaneSample], Iterable[Series]]:
    return lambda sample: [((), read(sample))]


def _of_gpus(read: Callable[[Gpu], float | None]) -> Callable[[ControlPlaneSample], Iterable[Series]]:
    """Return what reads one number of each GPU that tells it."""
    return lambda sample: [
        ((str(gpu.index), gpu.uuid), value) for gpu in sample.gpus if (value := read(gpu)) is not None
    ]


CONTROL_PLANE_METRICS = (
    _declare(
        "kitserve_gateway_start_time_seconds",
        Kind.GAUGE,
        "When the gateway was started, in seconds since 1970",
        _single(lambda sample: sample.started),
    ),
    _declare(
        "kitserve_reconcile_last_success_timestamp_seconds",
        Kind.GAUGE,
        "When the reconcile loop last came through, in seconds since 1970; it does so at least each second",
        _single(lambda sample: sample.reconciled),
    ),
    _declare(
        "kitserve_reconcile_failures",
        Kind.COUNTER,
        "Times that the reconcile loop did not come through",
        _single(lambda sample: sample.failed_ticks),
    ),
    _declare(
        "kitserve_state_errors",
        Kind.COUNTER,
        "Times that the state, which is in a file at home, could not be read or saved",
        _single(lambda sample: sample.state_errors),
    ),
    _declare(
        "kitserve_config_generation",
        Kind.GAUGE,
        "The number of the config in force, which grows with each change",
        _single(lambda sample: sample.generation),
    ),
    _declare(
        "kitserve_config_observed_generation",
        Kind.GAUGE,
        "The number of the config that the states of models are about",
        _single(lambda sample: sample.observed_generation),
    ),
    _declare(
        "kitserve_gateway_log_lines",
        Kind.COUNTER,
        "Warnings and errors of the gateway, by what they tell of; those that the log leaves out too",
        lambda sample: sorted(sample.log_lines.items()),
        "level",
        "event",
    ),
    _declare(
        "kitserve_certificate_expiration_timestamp_seconds",
        Kind.GAUGE,
        "When the certificate in use at a port ends, in seconds since 1970; absent without TLS",
        lambda sample: [((port,), end) for port, end in sample.certificate_ends.items()],
        "port",
    ),
    _declare(
        "kitserve_home_size_bytes",
        Kind.GAUGE,
        "Size of the disk that the home is on",
        lambda sample: [] if sample.disk is None else [((), sample.disk[0])],
    ),
    _declare(
        "kitserve_home_available_bytes",
        Kind.GAUGE,
        "What of that disk may be used yet",
        lambda sample: [] if sample.disk is None else [((), sample.disk[1])],
    ),
    _declare(
        "kitserve_memory_size_bytes",
        Kind.GAUGE,
        "Memory of the gateway's machine, or of its container",
        lambda sample: [] if sample.memory is None else [((), sample.memory.total)],
    ),
    _declare(
        "kitserve_memory_available_bytes",
        Kind.GAUGE,
        "What of that memory is free; Ray stops workers where less than a twentieth is",
        lambda sample: [] if sample.memory is None else [((), sample.memory.free)],
    ),
    _declare(
        "kitserve_gpu_memory_size_bytes",
        Kind.GAUGE,
        "Memory of each GPU of the gateway's machine; absent where it has none",
        _of_gpus(lambda gpu: gpu.total),
        "gpu",
        "uuid",
    ),
    _declare(
        "kitserve_gpu_memory_used_bytes",
        Kind.GAUGE,
        "What of that memory is in use, by whomever",
        _of_gpus(lambda gpu: gpu.used),
        "gpu",
        "uuid",
    ),
    _declare(
        "kitserve_gpu_utilization_ratio",
        Kind.GAUGE,
        "The part of the last moment in which a GPU computed",
        _of_gpus(lambda gpu: gpu.utilization),
        "gpu",
        "uuid",
    ),
    _declare(
        "kitserve_gpu_power_watts",
        Kind.GAUGE,
        "What a GPU takes now",
        _of_gpus(lambda gpu: gpu.power),
        "gpu",
        "uuid",
    ),
    _declare(
        "kitserve_gpu_power_limit_watts",
        Kind.GAUGE,
        "What a GPU may take",
        _of_gpus(lambda gpu: gpu.power_limit),
        "gpu",
        "uuid",
    ),
    _declare(
        "kitserve_gpu_throttled",
        Kind.GAUGE,
        "Whether a GPU's clocks are lower than they could be for this reason",
        lambda sample: [
            ((str(gpu.index), gpu.uuid, reason), value)
            for gpu in sample.gpus
            for (reason,), value in one_hot({r: r in gpu.throttle_reasons for r in THROTTLE_REASONS})
        ],
        "gpu",
        "uuid",
        "reason",
    ),
)


def control_plane_families(sample: ControlPlaneSample) -> Iterator[Metric]:
    """Turn a sample into Prometheus' families, one for each of `CONTROL_PLANE_METRICS`."""
    return (family(metric, metric.read(sample)) for metric in CONTROL_PLANE_METRICS)

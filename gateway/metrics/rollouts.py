"""What is measured of a model's rollout; each metric is declared once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import Metric

from gateway.metrics.declarations import Kind, MetricDeclaration, Series, family, one_hot


@dataclass(frozen=True, slots=True)
class RolloutSample:
    """The rollout of one model at one moment."""

    phases: Mapping[str, bool]
    """All phases, and which of them it is in."""
    reason: str = ""
    """Why it is in its phase, in one word; "" where there is nothing to say."""
    number: int = 0
    """How many rollouts the model has had."""
    step: int = 0
    """Its step, from 1; 0 where it is at none."""
    steps: int = 0
    """How many it has."""
    held_seconds: float = 0.0
    """How long its step has lasted."""
    mirrored_ratio: float = 0.0
    """The share of the stable version's calls that its canary answers too."""
    verdicts: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    """By check, all outcomes, and which of them is the last verdict."""
    units: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By check, how many units of each kind it was judged by."""


@dataclass(frozen=True, slots=True)
class RolloutMetric(MetricDeclaration):
    """A metric of each model's rollout; its labels begin with the model."""

    read: Callable[[RolloutSample], Iterable[Series]]
    """Gives the series of one sample, without the model."""


def _declare(
    name: str, kind: Kind, text: str, read: Callable[[RolloutSample], Iterable[Series]], *labels: str
) -> RolloutMetric:
    return RolloutMetric(name, kind, text, ("model", *labels), read)


ROLLOUT_METRICS = (
    _declare(
        "kitserve_rollout_phase",
        Kind.GAUGE,
        "1 for the phase that the rollout of a model is in, 0 for the others",
        lambda rollout: one_hot(rollout.phases),
        "phase",
    ),
    _declare(
        "kitserve_rollout_reason",
        Kind.GAUGE,
        "1 for the reason why it is in its phase; absent where there is nothing to say",
        lambda rollout: [((rollout.reason,), 1.0)] if rollout.reason else [],
        "reason",
    ),
    _declare(
        "kitserve_rollouts",
        Kind.COUNTER,
        "Rollouts that began",
        lambda rollout: [((), rollout.number)],
    ),
    _declare(
        "kitserve_rollout_step",
        Kind.GAUGE,
        "The step that it is at, from 1; 0 where it is at none",
        lambda rollout: [((), rollout.step)],
    ),
    _declare(
        "kitserve_rollout_steps",
        Kind.GAUGE,
        "How many steps it has",
        lambda rollout: [((), rollout.steps)],
    ),
    _declare(
        "kitserve_rollout_held_seconds",
        Kind.GAUGE,
        "How long its stage or step has lasted, while its canary was up",
        lambda rollout: [((), rollout.held_seconds)],
    ),
    _declare(
        "kitserve_rollout_mirrored_ratio",
        Kind.GAUGE,
        "Share of the stable version's calls that the canary answers too, unseen by callers",
        lambda rollout: [((), rollout.mirrored_ratio)],
    ),
    _declare(
        "kitserve_rollout_verdict",
        Kind.GAUGE,
        "1 for the outcome of each check at the last look, 0 for the others",
        lambda rollout: [
            ((check, *outcome), value)
            for check, outcomes in rollout.verdicts.items()
            for outcome, value in one_hot(outcomes)
        ],
        "check",
        "outcome",
    ),
    _declare(
        "kitserve_rollout_units",
        Kind.GAUGE,
        "By how many callers, seconds of a worker (worker_seconds) and pairs of answers each check is judged",
        lambda rollout: [
            ((check, unit), count) for check, units in rollout.units.items() for unit, count in units.items()
        ],
        "check",
        "unit",
    ),
)


def rollout_families(rollouts: Mapping[str, RolloutSample]) -> Iterator[Metric]:
    """Turn samples by model into Prometheus' families, one for each of `ROLLOUT_METRICS`."""
    return (family(metric, _series(metric, rollouts)) for metric in ROLLOUT_METRICS)


def _series(metric: RolloutMetric, rollouts: Mapping[str, RolloutSample]) -> Iterator[Series]:
    for model, rollout in rollouts.items():
        for labels, value in metric.read(rollout):
            yield (model, *labels), value

"""How a metric is declared, and how a declared metric becomes a family of Prometheus' client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)


class Kind(StrEnum):
    """Prometheus' types of metrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"
    INFO = "info"


class Buckets(NamedTuple):
    """The value of a histogram: the cumulated count for each upper bound, and the sum of all values."""

    cumulative: list[tuple[str, float]]
    total: float


class Summary(NamedTuple):
    """The value of a summary: how many values there were, and their sum."""

    observations: float
    total: float


Series = tuple[tuple[str, ...], float | Buckets | Summary]
"""The values of a metric's own labels, and the value."""


def one_hot(choices: Mapping[str, bool]) -> Iterator[Series]:
    """Yield one series for each choice: 1 for the one that holds, 0 for the others."""
    return (((choice,), float(holds)) for choice, holds in choices.items())


@dataclass(frozen=True, slots=True)
class MetricDeclaration:
    """A metric; its name is without the endings that Prometheus adds for a kind, such as `_total`."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]

    @property
    def exposed_name(self) -> str:
        """The name as a scrape shows it; a histogram and a summary have several that begin with it."""
        return self.name + {Kind.COUNTER: "_total", Kind.INFO: "_info"}.get(self.kind, "")


_FAMILIES: Mapping[Kind, Callable[..., Any]] = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
    Kind.SUMMARY: SummaryMetricFamily,
}


def family(metric: MetricDeclaration, series: Iterable[Series]) -> Metric:
    """Return a metric's family with these series; the values of all its labels come with each."""
    made: Any = _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels)
    for labels, value in series:
        made.add_metric(list(labels), *(value if isinstance(value, tuple) else (value,)))
    return made  # type: ignore[no-any-return]

"""The metrics as Prometheus reads them: all of them are in `METRICS`.

Each is declared once: of versions in `version_metrics`, all else in `system`, `rollouts` and `control_plane`.
Names and units follow https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version as installed

from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

import gateway
from gateway.metrics.control_plane import CONTROL_PLANE_METRICS, ControlPlaneSample, control_plane_families
from gateway.metrics.declarations import Kind, MetricDeclaration
from gateway.metrics.rollouts import ROLLOUT_METRICS, rollout_families
from gateway.metrics.system import SYSTEM_METRICS, SystemSample, system_families
from gateway.metrics.version_metrics import VERSION_METRICS, version_families
from gateway.metrics.versions import VersionSample


@dataclass(frozen=True, slots=True)
class Scrape:
    """All that Prometheus reads at one moment."""

    versions: tuple[VersionSample, ...] = ()
    system: SystemSample = field(default_factory=SystemSample)
    control_plane: ControlPlaneSample | None = None


BUILD_INFO = MetricDeclaration("kitserve_build", Kind.INFO, "What runs here", ("version", "python", "ray"))
METRICS: tuple[MetricDeclaration, ...] = (
    BUILD_INFO,
    *VERSION_METRICS,
    *SYSTEM_METRICS,
    *ROLLOUT_METRICS,
    *CONTROL_PLANE_METRICS,
)
"""Every metric, in the order of the exposition."""


class KitserveCollector(Collector):
    """The metrics for prometheus-client; `read` is called at each scrape."""

    def __init__(self, read: Callable[[], Scrape]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        scrape = self._read()
        yield build_info()
        yield from version_families(scrape.versions)
        yield from system_families(scrape.system)
        models = scrape.system.models
        yield from rollout_families({model.model: model.rollout for model in models if model.rollout})
        if scrape.control_plane is not None:
            yield from control_plane_families(scrape.control_plane)


def build_info() -> Metric:
    """Return the family of `BUILD_INFO`."""
    info = {"version": gateway.__version__, "python": platform.python_version(), "ray": installed("ray")}
    return InfoMetricFamily(BUILD_INFO.name, BUILD_INFO.help, value=info)

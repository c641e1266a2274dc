"""What the control plane asks of an edge, whatever is behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.edge.routes import RoutingTable
from gateway.logs.limits import Logged
from gateway.metrics.edge_numbers import EdgeNumbers
from gateway.metrics.system import EdgeSample


@dataclass(frozen=True, slots=True)
class EdgeStatistics:
    """What an edge has counted since it was started."""

    versions: Mapping[str, EdgeNumbers] = field(default_factory=dict)
    """By version, those that are gone included."""
    whole: EdgeSample = field(default_factory=EdgeSample)
    memory_bytes: int = 0
    """The resident memory of its processes."""


class Edge(Protocol):
    """What takes the calls of clients and gives them to workers, as `EdgeControl` does with one HAProxy.

    Raises:
        EdgeError: by every method but `occupant` and `statistics`, when the edge does not answer or refuses.
    """

    def apply(self, table: RoutingTable) -> None:
        """Route by this table; when it returns, new calls do. The same table again changes nothing."""

    def configure(self, listen: str, access_log: Logged) -> None:
        """Take calls at `listen`, `HOST:PORT`, and log these; where that cannot be, all stays as it was."""

    def end_canary(self, model: str) -> None:
        """Give a model's canary no more unversioned calls, and leave all else as it is."""

    def occupant(self, backend: str) -> str | None:
        """Return the version that has the backend of this name; None where there is none."""

    def old_processes(self) -> int:
        """Return how many processes still finish calls by an earlier table than the last one."""

    def statistics(self) -> EdgeStatistics:
        """Return what it has counted; what it counts never falls, also when it does not answer."""

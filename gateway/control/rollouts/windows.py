"""What versions did between two looks at their workers' numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.contract import Announcement
from gateway.metrics.counts import MIRRORED, MirroredCalls
from gateway.metrics.tally import Numbers
from gateway.rollout.evidence import Side

_ERRORS = 500


@dataclass(frozen=True, slots=True)
class Activity:
    """What one version did, or one of its workers: its own calls, and those that were mirrored."""

    side: Side = field(default_factory=Side)
    mirrored: MirroredCalls = field(default_factory=MirroredCalls)

    def __add__(self, other: Activity) -> Activity:
        return Activity(self.side + other.side, self.mirrored + other.mirrored)

    def __sub__(self, earlier: Activity) -> Activity:
        return Activity(self.side - earlier.side, self.mirrored - earlier.mirrored)


NO_ACTIVITY = Activity()


class Windows:
    """Remembers what each worker had counted at the last look.

    A worker that is seen for the first time had counted nothing of interest: it starts, or the gateway
    does, and what it did meanwhile belongs to no window.
    """

    def __init__(self) -> None:
        self._last: Mapping[str, Activity] = {}

    def look(self, workers: Iterable[Announcement]) -> Mapping[str, Activity]:
        """Return what each app did since the last look."""
        counted: dict[str, Activity] = {}
        seen: dict[str, Activity] = {}
        for worker in workers:
            counts = counted[worker.worker] = _counted(worker.numbers)
            before = self._last.get(worker.worker, counts)
            seen[worker.app] = seen.get(worker.app, NO_ACTIVITY) + (counts - before)
        self._last = counted
        return seen


def _counted(numbers: Numbers) -> Activity:
    own = {status: 0 for _, status in numbers.requests}
    for (role, status), count in numbers.requests.items():
        own[status] += count if role != MIRRORED else 0
    side = Side(
        calls=sum(own.values()),
        errors=sum(count for status, count in own.items() if status >= _ERRORS),
        latency=tuple(numbers.request.counts),
    )
    return Activity(side, numbers.mirrored)

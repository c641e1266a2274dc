"""What versions did between two ticks, from what their workers counted since they started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.contract import Announcement, AppName
from gateway.metrics.counts import MIRRORED, MirroredCalls
from gateway.metrics.pairs import AnswerPairs
from gateway.metrics.tally import Numbers
from gateway.rollout.evidence import Side

_ERRORS = 500


@dataclass(frozen=True, slots=True)
class Activity:
    """What one version did, or one of its workers: its callers' calls, and those that were mirrored."""

    side: Side = field(default_factory=Side)
    mirrored: MirroredCalls = field(default_factory=MirroredCalls)
    pairs: AnswerPairs = field(default_factory=AnswerPairs)

    def __add__(self, other: Activity) -> Activity:
        return Activity(self.side + other.side, self.mirrored + other.mirrored, self.pairs + other.pairs)

    def __sub__(self, earlier: Activity) -> Activity:
        return Activity(
            self.side - earlier.side, self.mirrored - earlier.mirrored, self.pairs - earlier.pairs
        )


NO_ACTIVITY = Activity()


class Windows:
    """What each worker had counted at the last tick.

    Of a worker that reports for the first time nothing counts yet: it has just started, or the gateway has,
    and what the worker did meanwhile belongs to no window.
    """

    def __init__(self) -> None:
        self._last: Mapping[str, Activity] = {}

    def look(self, workers: Iterable[Announcement]) -> Mapping[AppName, Activity]:
        """Return what each app did since the last look."""
        counted: dict[str, Activity] = {}
        activity: dict[AppName, Activity] = {}
        for worker in workers:
            counts = counted[worker.worker] = _counted(worker.numbers)
            before = self._last.get(worker.worker, counts)
            activity[worker.app] = activity.get(worker.app, NO_ACTIVITY) + (counts - before)
        self._last = counted
        return activity


def _counted(numbers: Numbers) -> Activity:
    statuses: Counter[int] = Counter()
    for (role, status), count in numbers.requests.items():
        if role != MIRRORED:
            statuses[status] += count
    tokens = numbers.tokens
    side = Side(
        calls=statuses.total(),
        # What a model cannot take is its version's error too: the other version may take it.
        errors=numbers.unfit + sum(count for status, count in statuses.items() if status >= _ERRORS),
        latency=tuple(numbers.request.counts),
        first_token=tuple(tokens.first.counts),
        per_token=tuple(tokens.per_token.counts),
    )
    return Activity(side, numbers.mirrored, numbers.pairs)

"""What versions did between two ticks, from what their workers counted since they started."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.contract import Announcement, AppName
from gateway.metrics.counts import MirroredCalls
from gateway.metrics.pairs import AnswerPairs
from gateway.metrics.tally import Numbers
from gateway.rollout.evidence import Side


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
    evidence = numbers.evidence
    side = Side(
        calls=evidence.calls,
        errors=evidence.errors,
        latency=tuple(evidence.request.counts),
        first_token=tuple(evidence.first_token.counts),
        per_token=tuple(evidence.per_token.counts),
    )
    return Activity(side, numbers.mirrored, numbers.pairs)

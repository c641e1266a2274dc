"""What versions did between two looks at their workers' numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.contract import Announcement
from gateway.metrics.counts import MIRRORED, Mirrored
from gateway.metrics.tally import Numbers
from gateway.rollout.evidence import Pairs, Side

_ERRORS = 500


@dataclass(frozen=True, slots=True)
class Seen:
    """What one version did, or one of its workers: its own calls, and those that were mirrored."""

    side: Side = field(default_factory=Side)
    pairs: Pairs = field(default_factory=Pairs)

    def __add__(self, other: Seen) -> Seen:
        return Seen(self.side + other.side, self.pairs + other.pairs)


NOTHING = Seen()


class Windows:
    """Remembers what each worker had counted at the last look.

    A worker that is seen for the first time had counted nothing of interest: it starts, or the gateway
    does, and what it did meanwhile belongs to no window.
    """

    def __init__(self) -> None:
        self._last: Mapping[str, Seen] = {}

    def look(self, workers: Iterable[Announcement]) -> Mapping[str, Seen]:
        """Return what each app did since the last look."""
        counted: dict[str, Seen] = {}
        seen: dict[str, Seen] = {}
        for worker in workers:
            counts = counted[worker.worker] = _counted(worker.numbers)
            before = self._last.get(worker.worker, counts)
            seen[worker.app] = seen.get(worker.app, NOTHING) + _less(counts, before)
        self._last = counted
        return seen


def _counted(numbers: Numbers) -> Seen:
    own = {status: 0 for _, status in numbers.requests}
    for (role, status), count in numbers.requests.items():
        own[status] += count if role != MIRRORED else 0
    side = Side(
        calls=sum(own.values()),
        errors=sum(count for status, count in own.items() if status >= _ERRORS),
        latency=tuple(numbers.request.counts),
    )
    return Seen(side, _pairs(numbers.mirrored))


def _pairs(mirrored: Mirrored) -> Pairs:
    return Pairs(
        mirrored.compared,
        mirrored.agreeing,
        mirrored.failed,
        mirrored.dropped,
        dict(mirrored.stable),
        dict(mirrored.canary),
    )


def _less(now: Seen, before: Seen) -> Seen:
    side = Side(
        now.side.calls - before.side.calls,
        now.side.errors - before.side.errors,
        tuple(mine - theirs for mine, theirs in zip(now.side.latency, before.side.latency, strict=True)),
    )
    pairs = Pairs(
        now.pairs.compared - before.pairs.compared,
        now.pairs.agreeing - before.pairs.agreeing,
        now.pairs.failed - before.pairs.failed,
        now.pairs.dropped - before.pairs.dropped,
        _less_by_label(now.pairs.stable, before.pairs.stable),
        _less_by_label(now.pairs.canary, before.pairs.canary),
    )
    return Seen(side, pairs)


def _less_by_label(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {label: count - before.get(label, 0) for label, count in now.items()}

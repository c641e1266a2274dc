"""What two versions did between two looks at their workers' numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.metrics import Numbers
from gateway.rollout.evidence import Side
from gateway.worker.spec import Announcement, WorkerState

_ERRORS = 500


class Windows:
    """Remembers what each worker had counted at the last look.

    A worker that is seen for the first time had counted nothing of interest: it starts, or the gateway
    does, and what it did meanwhile belongs to no window.
    """

    def __init__(self) -> None:
        self._last: Mapping[str, Side] = {}
        self._ready: Mapping[str, frozenset[str]] = {}

    def look(self, workers: Iterable[Announcement]) -> Mapping[str, Side]:
        """Return what each app did since the last look."""
        counted: dict[str, Side] = {}
        seen: dict[str, Side] = {}
        for worker in workers:
            counts = counted[worker.worker] = _side(worker.numbers)
            before = self._last.get(worker.worker, counts)
            seen[worker.app] = seen.get(worker.app, Side()) + _less(counts, before)
        self._last = counted
        return seen

    def lost(self, workers: Iterable[Announcement]) -> Mapping[str, int]:
        """How many workers of each app were ready at the last look, and are gone without having said so."""
        known = {worker.worker for worker in workers}
        ready: dict[str, set[str]] = {}
        for worker in workers:
            if worker.state is WorkerState.READY:
                ready.setdefault(worker.app, set()).add(worker.worker)
        lost = {app: len(before - known) for app, before in self._ready.items()}
        self._ready = {app: frozenset(names) for app, names in ready.items()}
        return lost


def _side(numbers: Numbers) -> Side:
    requests = numbers.requests
    return Side(
        calls=sum(requests.values()),
        errors=sum(count for (_, status), count in requests.items() if status >= _ERRORS),
        latency=tuple(numbers.request.counts),
    )


def _less(now: Side, before: Side) -> Side:
    return Side(
        now.calls - before.calls,
        now.errors - before.errors,
        tuple(mine - theirs for mine, theirs in zip(now.latency, before.latency, strict=True)),
    )

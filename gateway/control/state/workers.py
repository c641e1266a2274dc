"""Who of the workers was heard of late, and what they counted."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gateway.contract import Announcement, AppName, WorkerState
from gateway.metrics.tally import Numbers

SILENCE_SECONDS = 10.0
"""A worker that says nothing for so long is gone; the edge's own checks notice it sooner."""
_LATE_SECONDS = 2.5
_REMEMBERED = 256
_MAX_GONE = 1000
"""So many versions that are gone are remembered: their labels may come again, and must go on from there."""


@dataclass(slots=True)
class _Heard:
    announcement: Announcement
    moment: float

    @property
    def due(self) -> float:
        """From when on its silence counts."""
        return self.moment + self.announcement.rest_seconds


@dataclass(frozen=True, slots=True)
class AppNumbers:
    """One version's numbers over all its workers, those that are gone included."""

    numbers: Numbers = field(default_factory=Numbers)
    ongoing: int = 0
    replicas: dict[str, int] = field(default_factory=dict)
    runtime: str = ""
    queued: int = 0
    generating: int = 0
    kv_cache_usage: dict[str, float] = field(default_factory=dict)
    """The part of the key-value cache in use by worker, where its engine says it."""
    restarts: int = 0
    """Workers that ended by themselves."""
    memory_bytes: dict[str, int] = field(default_factory=dict)
    """Resident memory by worker."""
    uncontained: int = 0
    """Workers that can be called and have not given up all that a worker gives up."""
    gpu_memory_bytes: dict[str, int] = field(default_factory=dict)
    """Memory of GPUs by worker, where NVML says it."""


class Workers:
    """The workers of all versions; safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._heard: dict[str, _Heard] = {}
        # Who is gone, for the case that they were only silent; the oldest are added up by app.
        self._left: OrderedDict[str, Announcement] = OrderedDict()
        self._gone: OrderedDict[AppName, Numbers] = OrderedDict()
        self._restarts: Counter[AppName] = Counter()

    def hear(self, announcement: Announcement) -> bool:
        """Take a report, unless a later one is here; returns whether it changes who can be called."""
        with self._lock:
            before = self._heard.get(announcement.worker)
            last = self._left.get(announcement.worker) if before is None else before.announcement
            if last is not None and announcement.number < last.number:
                return False
            self._left.pop(announcement.worker, None)
            self._heard[announcement.worker] = _Heard(announcement, self._clock())
            return before is None or before.announcement.state is not announcement.state

    def present(self) -> tuple[Announcement, ...]:
        """The last report of every worker that was heard of late."""
        with self._lock:
            oldest = self._clock() - SILENCE_SECONDS
            for worker in [name for name, heard in self._heard.items() if heard.due < oldest]:
                self._forget(worker)
            return tuple(heard.announcement for heard in self._heard.values())

    def ready(self, app: AppName) -> list[Announcement]:
        """The last reports of an app's workers that can be called."""
        return ready_workers(self.present(), app)

    def late(self) -> tuple[Announcement, ...]:
        """Callable workers whose next report is overdue; it is worth asking whether they still listen."""
        with self._lock:
            oldest = self._clock() - _LATE_SECONDS
            return tuple(
                heard.announcement
                for heard in self._heard.values()
                if heard.due < oldest and heard.announcement.port
            )

    def drop(self, worker: str) -> None:
        """Forget a worker that is gone, but not what it counted."""
        with self._lock:
            if worker in self._heard:
                self._forget(worker)

    def take_failed(self) -> tuple[Announcement, ...]:
        """The reports of workers that failed, each given out once."""
        with self._lock:
            failed = [
                heard.announcement
                for heard in self._heard.values()
                if heard.announcement.state is WorkerState.FAILED
            ]
            for announcement in failed:
                self._forget(announcement.worker)
            return tuple(failed)

    def numbers(self) -> dict[AppName, AppNumbers]:
        """The numbers of each app."""
        with self._lock:
            totals: dict[AppName, Numbers] = {}
            for app, gone in self._gone.items():
                totals.setdefault(app, Numbers()).add(gone)
            ongoing: Counter[AppName] = Counter()
            queued: Counter[AppName] = Counter()
            generating: Counter[AppName] = Counter()
            kv_cache: dict[AppName, dict[str, float]] = defaultdict(dict)
            replicas: dict[AppName, Counter[str]] = defaultdict(Counter)
            memory: dict[AppName, dict[str, int]] = defaultdict(dict)
            gpu_memory: dict[AppName, dict[str, int]] = defaultdict(dict)
            runtimes: dict[AppName, str] = {}
            uncontained: Counter[AppName] = Counter()
            for left in self._left.values():
                totals.setdefault(left.app, Numbers()).add(left.numbers)
                # One that has no worker now goes on under the same labels.
                runtimes[left.app] = left.runtime or runtimes.get(left.app, "")
            for heard in self._heard.values():
                announcement = heard.announcement
                totals.setdefault(announcement.app, Numbers()).add(announcement.numbers)
                ongoing[announcement.app] += announcement.ongoing
                queued[announcement.app] += announcement.queued
                generating[announcement.app] += announcement.generating
                if announcement.kv_cache_usage is not None:
                    kv_cache[announcement.app][announcement.worker] = announcement.kv_cache_usage
                replicas[announcement.app][announcement.state.value] += 1
                memory[announcement.app][announcement.worker] = announcement.memory_bytes
                if announcement.gpu_memory_bytes is not None:
                    gpu_memory[announcement.app][announcement.worker] = announcement.gpu_memory_bytes
                runtimes[announcement.app] = announcement.runtime or runtimes.get(announcement.app, "")
                is_ready = announcement.state is WorkerState.READY
                uncontained[announcement.app] += is_ready and bool(announcement.not_contained)
            return {
                app: AppNumbers(
                    numbers,
                    ongoing[app],
                    dict(replicas[app]),
                    runtimes.get(app, ""),
                    queued[app],
                    generating[app],
                    dict(kv_cache[app]),
                    self._restarts[app],
                    dict(memory[app]),
                    uncontained[app],
                    dict(gpu_memory[app]),
                )
                for app, numbers in totals.items()
            }

    def _forget(self, worker: str) -> None:
        announcement = self._left[worker] = self._heard.pop(worker).announcement
        # Who is told to end says that it drains, and no more. In the place of others, Serve starts another.
        is_expected = announcement.state is WorkerState.DRAINING and not announcement.detail
        self._restarts[announcement.app] += not is_expected
        if len(self._left) > _REMEMBERED:
            _, oldest = self._left.popitem(last=False)
            self._gone.setdefault(oldest.app, Numbers()).add(oldest.numbers)
            self._gone.move_to_end(oldest.app)
            present = {heard.announcement.app for heard in self._heard.values()}
            surplus = max(0, len(self._gone) - _MAX_GONE)
            for app in [app for app in self._gone if app not in present][:surplus]:
                del self._gone[app], self._restarts[app]


def ready_workers(workers: Iterable[Announcement], app: str | None = None) -> list[Announcement]:
    """Return those of the workers, of every app or of one, that take calls."""
    return [worker for worker in workers if worker.state is WorkerState.READY and app in (None, worker.app)]

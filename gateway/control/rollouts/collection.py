"""The evidence that workers tell of, gathered by version: each window once, and with all workers' together.

A worker tells of its windows until it hears that they are here, see `Instructions.told_until`. So none is
lost while a gateway is away or a tick takes long, and a new gateway learns what happened before.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from gateway.contract import Announcement, AppName
from gateway.control.rollouts.activity import NO_ACTIVITY, Activity, activity_of, add_callers, unit_of
from gateway.control.state.workers import ready_workers
from gateway.metrics.evidence_windows import (
    EVIDENCE_SECONDS,
    EvidenceWindow,
    ToldWindows,
    window_number,
)
from gateway.metrics.sticky_callers import MAX_STICKY_CALLERS, StickyCaller
from gateway.rollout.history import Recent
from gateway.rollout.units import HISTORY_WINDOWS, WARMUP_SECONDS, CallerCounts, History

# Evidence of a moment waits so long for the other workers' of the same moment.
_PATIENCE_SECONDS = 3.0
_WARMUP_WINDOWS = round(WARMUP_SECONDS / EVIDENCE_SECONDS)
# A clock that differs by less is not told from a report that came late.
_MAX_SKEW = round(_PATIENCE_SECONDS / EVIDENCE_SECONDS)
_WORKERS_KEPT = 4096


_UNKNOWN = 1 << 40


@dataclass(slots=True)
class _Told:
    """What one worker has told of its windows up to `until`, which alone is by its own clock."""

    app: AppName
    ready_since: float = 0.0
    until: int = 0
    windows: list[EvidenceWindow] = field(default_factory=list)
    """Those that nobody has looked at yet."""
    callers: OrderedDict[bytes, StickyCaller] = field(default_factory=OrderedDict)
    """All that it has told of callers; who called last is last."""
    increments: Mapping[str, CallerCounts] = field(default_factory=dict)
    """What callers were answered since somebody looked."""
    lag: int = _UNKNOWN
    """How many windows its clock is behind the gateway's, at most; a report that comes late seems so, too."""

    @property
    def shift(self) -> int:
        """What is to be added to the numbers of its windows."""
        return self.lag if abs(self.lag) > _MAX_SKEW else 0

    @property
    def ready(self) -> int:
        """The window in which it began to take calls; 0 where it does not say."""
        return window_number(self.ready_since) + self.shift if self.ready_since else 0


class EvidenceCollection:
    """All workers' evidence; safe to use from several threads. `wall` gives seconds since 1970.

    What workers did before the collection began is history and no evidence: another gateway has judged it.
    """

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._began = window_number(wall())
        self._lock = threading.Lock()
        # The last one is the worker that was heard last.
        self._workers: OrderedDict[str, _Told] = OrderedDict()
        self._recent: dict[AppName, Recent] = {}
        self._looked_at: Mapping[AppName, Activity] = {}

    def hear(self, announcement: Announcement) -> int:
        """Take what a report tells; return up to which window all of its worker's evidence is here."""
        evidence = announcement.evidence
        with self._lock:
            told = self._workers.setdefault(announcement.worker, _Told(announcement.app))
            self._workers.move_to_end(announcement.worker)
            if len(self._workers) > _WORKERS_KEPT:
                self._workers.popitem(last=False)
            told.ready_since = announcement.ready_since
            told.lag = min(told.lag, window_number(self._wall()) - evidence.present)
            if evidence.after <= told.until < evidence.until:
                self._take(told, evidence)
            return told.until

    def look(
        self, workers: Iterable[Announcement], models: Mapping[AppName, str]
    ) -> Mapping[AppName, Activity]:
        """Return what each app did since the last look; `models` are those of the apps that matter.

        That of all versions of a model reaches up to the same moment, unless a worker lets the others wait.
        """
        with self._lock:
            for app, activity in self._looked_at.items():
                self._remember(app, activity)
            for app in self._recent.keys() - models.keys():
                del self._recent[app]
            limits = self._limits(workers, models)
            looked_at: dict[AppName, Activity] = {}
            for worker, told in self._workers.items():
                model = models.get(told.app)
                if model is None:
                    told.windows, told.increments = [], {}
                    told.callers.clear()
                    continue
                activity = self._release(worker, told, limits[model])
                looked_at[told.app] = looked_at.get(told.app, NO_ACTIVITY) + activity
            self._looked_at = looked_at
            return looked_at

    def history(self, app: AppName) -> History:
        """Return what an app did before what the last look returned."""
        with self._lock:
            recent = self._recent.get(app)
            history = History() if recent is None else recent.history()
        # What workers tell another gateway of the time before comes worker by worker.
        windows = sorted(history.windows, key=lambda window: window.index)
        first = windows[-1].index - HISTORY_WINDOWS + 1 if windows else 0
        return replace(history, windows=tuple(window for window in windows if window.index >= first))

    def _take(self, told: _Told, evidence: ToldWindows) -> None:
        windows = [window for window in evidence.windows if window.number > told.until]
        if shift := told.shift:
            windows = [replace(window, number=window.number + shift) for window in windows]
        told.windows += windows
        increments = {}
        for caller in reversed(evidence.callers):
            before = told.callers.pop(caller.caller, None)
            told.callers[caller.caller] = caller
            if len(told.callers) > MAX_STICKY_CALLERS:
                told.callers.popitem(last=False)
            increment = _increment(before, caller)
            # Counts only grow; a worker may run code of a kit, and tell anything.
            if increment.calls > 0:
                increments[caller.caller.decode("latin-1")] = increment
        is_of_before = told.until == 0 and 0 < told.ready < self._began
        told.until = evidence.until
        if is_of_before:
            self._remember(told.app, Activity(callers=increments))
        else:
            told.increments = add_callers(told.increments, increments)

    def _limits(self, workers: Iterable[Announcement], models: Mapping[AppName, str]) -> Mapping[str, int]:
        """Return up to which window all workers of a model have told."""
        lowest = window_number(self._wall() - _PATIENCE_SECONDS)
        limits: dict[str, int] = {}
        for worker in ready_workers(workers):
            model, told = models.get(worker.app), self._workers.get(worker.worker)
            if model is not None:
                until = 0 if told is None else told.until + told.shift
                limits[model] = max(lowest, min(limits.get(model, until), until))
        return {**dict.fromkeys(models.values(), lowest), **limits}

    def _release(self, worker: str, told: _Told, limit: int) -> Activity:
        """Return what a worker told and nobody has looked at, up to a window."""
        due = [window for window in told.windows if window.number <= limit]
        told.windows = [window for window in told.windows if window.number > limit]
        before = [window for window in due if window.number < self._began]
        if before:
            self._remember(told.app, Activity(windows=tuple(unit_of(worker, window) for window in before)))
        increments, told.increments = told.increments, {}
        return activity_of(worker, due[len(before) :], increments)

    def _remember(self, app: AppName, activity: Activity) -> None:
        windows = [window for window in activity.windows if window.index >= self._warm(window.worker)]
        if windows or activity.callers:
            self._recent.setdefault(app, Recent()).add(windows, activity.callers)

    def _warm(self, worker: str) -> int:
        """Return the first window of a worker that is history."""
        told = self._workers.get(worker)
        return 0 if told is None else told.ready + _WARMUP_WINDOWS


def _increment(before: StickyCaller | None, now: StickyCaller) -> CallerCounts:
    """Return what a caller was answered between two reports; a worker may have forgotten it meanwhile."""
    counts = CallerCounts(now.calls, now.failures, now.log_seconds)
    if before is None or before.birth != now.birth:
        return counts
    return CallerCounts(
        now.calls - before.calls, now.failures - before.failures, now.log_seconds - before.log_seconds
    )

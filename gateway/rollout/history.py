"""The recent past of a version, from which it is learnt how its calls vary when nothing is wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from gateway.rollout.units import HISTORY_WINDOWS, MAX_TRIAL_CALLERS, CallerCounts, History, Window


class Recent:
    """What one version did of late: its workers' last windows, and its callers. Bounded, and pure.

    A worker that has been gone for as long as windows are remembered is forgotten; of callers, those that
    have not called for the longest time.
    """

    def __init__(self) -> None:
        self._windows: deque[Window] = deque()
        self._callers: dict[str, CallerCounts] = {}

    def add(self, windows: Iterable[Window], callers: Mapping[str, CallerCounts]) -> None:
        """Add what became known since the last time; windows in the order of their indices."""
        self._windows.extend(windows)
        while self._windows and self._windows[-1].index - self._windows[0].index >= HISTORY_WINDOWS:
            self._windows.popleft()
        for caller, counts in callers.items():
            # The last place is the most recent caller's.
            before = self._callers.pop(caller, CallerCounts())
            self._callers[caller] = before + counts
            if len(self._callers) > MAX_TRIAL_CALLERS:
                del self._callers[next(iter(self._callers))]

    def history(self) -> History:
        """Return all of it as it is now."""
        return History(tuple(self._windows), dict(self._callers))

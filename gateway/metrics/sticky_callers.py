"""What a worker counts by caller, where callers stick to a version: each of them is placed by chance once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from math import log
from typing import NamedTuple

MAX_STICKY_CALLERS = 4096
"""So many callers are told apart; who has not called for the longest time is forgotten for another."""
LOWEST_SECONDS = 1e-6
"""What takes less counts as this, so that it has a logarithm."""


class StickyCaller(NamedTuple):
    """The calls of one caller that are evidence, since a worker first counted one of them.

    A worker that forgot the caller counts anew, with another `birth`. A tuple, as thousands of them are told
    each second.
    """

    caller: bytes
    """A hash of what it sticks by."""
    birth: int
    calls: int
    failures: int
    log_seconds: float
    """The sum of the natural logarithms of the latencies in seconds."""


class _Sums:
    __slots__ = ("birth", "calls", "failures", "log_seconds", "window")

    def __init__(self, birth: int) -> None:
        self.birth = birth
        self.calls = 0
        self.failures = 0
        self.log_seconds = 0.0
        self.window = 0


class StickyCallers:
    """The callers of one worker. Not safe to use from several threads."""

    def __init__(self) -> None:
        # The last one is who called last.
        self._callers: OrderedDict[bytes, _Sums] = OrderedDict()
        self._births = 0

    def count(self, caller: bytes, window: int, has_failed: bool, seconds: float) -> None:
        """Count one call of the window with this number."""
        sums = self._callers.get(caller)
        if sums is None:
            if len(self._callers) >= MAX_STICKY_CALLERS:
                self._callers.popitem(last=False)
            self._births += 1
            sums = self._callers[caller] = _Sums(self._births)
        elif sums.window != window:
            self._callers.move_to_end(caller)
        sums.window = window
        sums.calls += 1
        sums.failures += has_failed
        sums.log_seconds += log(seconds if seconds > LOWEST_SECONDS else LOWEST_SECONDS)

    def after(self, window: int) -> Iterator[StickyCaller]:
        """Yield who has called in a window after the one with this number."""
        for caller, sums in reversed(self._callers.items()):
            if sums.window <= window:
                return
            yield StickyCaller(caller, sums.birth, sums.calls, sums.failures, sums.log_seconds)

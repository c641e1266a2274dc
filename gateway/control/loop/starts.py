"""How many versions start at a time: about as many as there are cores.

A new worker computes for seconds before it reports for the first time. Where many start at once, each of them
takes so long that Serve, Ray and the edge take them, and those that serve already, for dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set

from gateway.contract import AppName

# One that waits for a place, or whose worker dies at once, must not hold up the others.
_MAX_SECONDS = 10.0


class Starts:
    """The versions that are being started: each until a worker of it reports, but not for ever."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._begun: dict[AppName, float] = {}

    def may_begin(self, app: AppName, reported: Set[AppName]) -> bool:
        """Tell whether a version may be started now; when it may, it counts as begun.

        Args:
            app: the version's application.
            reported: the applications of which a worker has reported.
        """
        now = self._clock()
        self._begun = {
            begun: since
            for begun, since in self._begun.items()
            if begun not in reported and now - since < _MAX_SECONDS
        }
        if app not in self._begun and len(self._begun) >= self._limit:
            return False
        self._begun.setdefault(app, now)
        return True

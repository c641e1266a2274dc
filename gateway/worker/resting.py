"""When a worker need not report each second: nobody calls it, and the gateway waits for nothing of it.

Each report costs the gateway and the worker a millisecond or two. A hundred workers that nobody calls
would keep a quarter of a core busy with nothing to tell.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.contract import MAX_REST_SECONDS

News = tuple[object, ...]
"""What is equal as long as nothing has happened."""


class Rest:
    """Whether the next report may be left out; no longer than `MAX_REST_SECONDS`, and then one is due."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._is_allowed = False
        self._told: News | None = None
        self._until = 0.0

    def begin(self, news: News) -> float:
        """Note a report; returns for how many seconds beyond one it may be the last, if nothing happens."""
        seconds = MAX_REST_SECONDS if self._is_allowed and news == self._told else 0.0
        self._told, self._until = news, self._clock() + seconds
        return seconds

    def allow(self, is_allowed: bool) -> None:
        """Take the gateway's answer to a report; where none came, a rest is not allowed."""
        self._is_allowed = is_allowed

    def goes_on(self, news: News) -> bool:
        """Tell whether nothing has to be reported now."""
        return self._is_allowed and news == self._told and self._clock() < self._until

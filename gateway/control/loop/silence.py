"""Versions whose workers run, as Serve says, and do not report: it would look as if they still loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from gateway.contract import Announcement, AppName
from gateway.control.loop.ray_serve import Application

# Workers report every few seconds at least, and a node of a busy machine may be late.
_SILENCE_SECONDS = 30.0


class Silence:
    """Notes since when each version's workers have been silent."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[AppName, float] = {}

    def troubles(
        self, applications: Mapping[AppName, Application], workers: Iterable[Announcement]
    ) -> dict[AppName, str]:
        """Return the versions that run and were not heard for long, each with what a person is told."""
        heard = {worker.app for worker in workers}
        running = {app for app, application in applications.items() if application.running}
        now = self._clock()
        self._since = {app: self._since.get(app, now) for app in running - heard}
        return {
            app: (
                f"its workers run but have not reported for {_SILENCE_SECONDS:g} s: a proxy or firewall may "
                "be between them and the gateway; `reports.undelivered` in their node's log says why"
            )
            for app, since in self._since.items()
            if now - since >= _SILENCE_SECONDS
        }

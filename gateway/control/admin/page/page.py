"""The page at `/`: its files, its events, and what it shows."""

from __future__ import annotations

import time
from collections.abc import Callable

import orjson
from starlette.routing import Route

from gateway.contract import AppName
from gateway.control.admin.host_paths import without_paths
from gateway.control.admin.page.document import Facts, page_document
from gateway.control.admin.page.events import Events
from gateway.control.admin.page.feed import Feed
from gateway.control.admin.page.files import PageFiles
from gateway.control.admin.page.orders import Orders
from gateway.control.admin.page.recent import RecentNumbers
from gateway.control.rollouts.driver import Rollouts
from gateway.control.state.database import State
from gateway.control.state.overview import Overview


class Page:
    """Answers `/`, `/page/…` and `/api/events`."""

    def __init__(
        self,
        overview: Overview,
        state: State,
        rollouts: Rollouts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._overview = overview
        self._state = state
        self._clock = clock
        self._recent = RecentNumbers()
        self._orders = Orders(rollouts)
        self._feed = Feed(self._look)
        self._files = PageFiles()
        self._events = Events(self._feed, self._files.fingerprint)

    def routes(self) -> list[Route]:
        """The paths of the page."""
        return [*self._files.routes(), *self._events.routes()]

    def start(self) -> None:
        """Begin to follow what runs."""
        self._feed.start()

    def stop(self) -> None:
        """End all events."""
        self._feed.stop()

    def _look(self, is_watched: bool) -> bytes:
        """Return what the page shows; nothing while nobody looks, but the numbers of then are kept."""
        numbers = self._overview.numbers()
        self._recent.add(self._clock(), numbers)
        if not is_watched:
            return b""
        desired, versions = self._state.desired(), self._state.versions()

        def keys(model: str, app: AppName) -> tuple[str, ...]:
            wanted, version = desired.model(model), versions.get(app)
            if wanted is None or version is None or version.policy != wanted.policy.fingerprint:
                return ()
            return tuple(key.name for key in wanted.policy.keys)

        facts = Facts(numbers, self._recent.of, self._overview.description, keys, self._orders.of)
        document = page_document(self._overview.status, desired.generation, facts)
        # For all who look the same, and so what those may see who may see least.
        return orjson.dumps(without_paths(document), option=orjson.OPT_NON_STR_KEYS)

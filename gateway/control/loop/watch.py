"""Looks, beside the loop, at what changes by itself: what Serve runs, and workers that fall silent.

Either may take long, when Serve's controller is being started again or a node is gone, and no tick waits.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping

from gateway.contract import Announcement
from gateway.control.loop.serving import Application
from gateway.control.state.workers import Workers

_LOOK_SECONDS = 1.0
_PROBE_EVERY_SECONDS = 0.25
_PROBE_SECONDS = 0.2

log = logging.getLogger(__name__)


class Watch:
    """Two threads, which call `changed` when there is something new.

    `look` asks Serve for the versions that it runs.
    """

    def __init__(
        self, workers: Workers, look: Callable[[], Mapping[str, Application]], changed: Callable[[], None]
    ) -> None:
        self._workers = workers
        self._ask = look
        self._changed = changed
        self._looking = threading.Lock()
        self._applications: Mapping[str, Application] | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin to look."""
        for work, seconds in ((self._look_again, _LOOK_SECONDS), (self._probe, _PROBE_EVERY_SECONDS)):
            threading.Thread(target=self._repeat, args=(work, seconds), name="watch", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()

    def applications(self) -> Mapping[str, Application]:
        """What Serve runs, as it was seen last; raises what Serve raises while it never was."""
        if self._applications is None:
            self.look()
        assert self._applications is not None
        return self._applications

    def look(self) -> None:
        """Ask Serve now. Raises what Serve raises."""
        # One at a time, so that no older answer comes after a newer one.
        with self._looking:
            before, self._applications = self._applications, self._ask()
        if before is not None and before != self._applications:
            self._changed()

    def _look_again(self) -> None:
        try:
            self.look()
        except Exception as error:
            # Serve's controller is being started again: workers come and go at the edge all the same.
            log.warning("serve.unavailable", extra={"reason": str(error)})

    def _probe(self) -> None:
        for news in self._workers.late():
            if _is_refused(news):
                log.warning("worker.lost", extra={"app": news.app, "worker": news.worker})
                self._workers.drop(news.worker)
                self._changed()

    def _repeat(self, work: Callable[[], None], seconds: float) -> None:
        while not self._stopping.wait(seconds):
            work()


def _is_refused(news: Announcement) -> bool:
    """Whether nobody listens any more where a worker did."""
    try:
        socket.create_connection((news.host, news.port), _PROBE_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False

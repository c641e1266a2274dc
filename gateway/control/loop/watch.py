"""What changes by itself, watched beside the loop: which versions Serve runs, and workers that fall silent.

To look at either may take long, when Serve's controller is being started again or a node is gone. So it is
done in threads of its own, and no tick waits for it.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.loop.ray_serve import Application
from gateway.control.state.workers import Workers
from gateway.errors import reason_of

_LOOK_SECONDS = 1.0
# One look takes some 10 ms of CPU.
_QUIET_LOOK_SECONDS = 6.0
_PROBE_SECONDS = 0.25
_CONNECT_SECONDS = 0.2

log = logging.getLogger(__name__)


class Watch:
    """Two threads, which call `changed` when something has changed.

    `list_applications` asks Serve for the versions that it runs.
    """

    def __init__(
        self,
        workers: Workers,
        list_applications: Callable[[], Mapping[AppName, Application]],
        changed: Callable[[], None],
    ) -> None:
        self._workers = workers
        self._list_applications = list_applications
        self._changed = changed
        self._looking = threading.Lock()
        self._applications: Mapping[AppName, Application] | None = None
        self._stopping = threading.Event()
        self._is_quiet = False
        self._ends_quiet = threading.Event()

    def start(self) -> None:
        """Begin to look."""
        for target in (self._look_for_ever, self._probe_for_ever):
            threading.Thread(target=target, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._ends_quiet.set()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way in Serve, so that it is asked less often; once it ends, at once."""
        return self._is_quiet

    @is_quiet.setter
    def is_quiet(self, is_quiet: bool) -> None:
        if self._is_quiet and not is_quiet:
            self._ends_quiet.set()
        self._is_quiet = is_quiet

    def applications(self) -> Mapping[AppName, Application]:
        """Return what Serve ran at the last look; the first look is now, and raises what Serve raises."""
        if self._applications is None:
            self.look()
        assert self._applications is not None
        return self._applications

    def reported(self) -> frozenset[AppName]:
        """Return the apps of which a worker was heard of late."""
        return frozenset(worker.app for worker in self._workers.present())

    def started(self, app: AppName) -> frozenset[str]:
        """Return those of an app's workers, heard of late, that have loaded their model."""
        return frozenset(
            worker.worker for worker in self._workers.present() if worker.app == app and worker.port
        )

    def look(self) -> None:
        """Ask Serve now; raises what Serve raises."""
        # One at a time, so that no older answer comes after a newer one.
        with self._looking:
            before, self._applications = self._applications, self._list_applications()
        if before is not None and before != self._applications:
            self._changed()

    def _look_again(self) -> None:
        try:
            self.look()
        except Exception as error:
            # Serve's controller is being started again: workers come and go at the edge all the same.
            log.warning("serve.unavailable", extra={"reason": reason_of(error)})

    def _probe(self) -> None:
        """Forget the silent workers that are gone."""
        for worker in self._workers.late():
            if _is_refused(worker):
                # Who said that it drains has ended as it was told to.
                if worker.state is not WorkerState.DRAINING:
                    log.warning("worker.lost", extra={"app": worker.app, "worker": worker.worker})
                self._workers.drop(worker.worker)
                self._changed()

    def _look_for_ever(self) -> None:
        while True:
            self._ends_quiet.wait(_QUIET_LOOK_SECONDS if self._is_quiet else _LOOK_SECONDS)
            self._ends_quiet.clear()
            if self._stopping.is_set():
                return
            self._look_again()

    def _probe_for_ever(self) -> None:
        while not self._stopping.wait(_PROBE_SECONDS):
            self._probe()


def _is_refused(worker: Announcement) -> bool:
    """Tell whether nobody listens any more where a worker did; one that does not answer may only be slow."""
    try:
        socket.create_connection((worker.host, worker.port), _CONNECT_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False

"""Restarts of versions that a person asked for: their workers are replaced one after another.

    phase      goes on when                                        then
    ---------  --------------------------------------------------  -----------------------------------
    growing    there is a worker more than before                  a worker of before is told to end
               or, of several, none came for half a minute         the same, with one worker less
    ending     that worker is gone, and there is one more again    the next is told to end
    settling   there is one more again, in place of the last one   the version is scaled as it was
               or none came for half a minute                      the same
    done

A worker that is told to end leaves the edge, answers the calls that it has, and goes; Serve starts another in
its place. So the calls of a version with one worker go to the new one before the old one ends. That Serve has
started another is the sign that it knows of the end: scaled down before, it counts the worker that ended as
one that runs, and may stop the new one in its place. A restart is not kept on disk: a gateway that is started
again forgets it, and scales the version as the config says.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.state.versions import Version
from gateway.control.state.workers import ready_workers
from gateway.errors import ControlError
from gateway.serving import Scaling
from gateway.wording import counted

log = logging.getLogger(__name__)

_NO_ROOM_SECONDS = 30.0
_GIVE_UP_SECONDS = 60.0


class RestartState(StrEnum):
    """How far a restart is."""

    UNDER_WAY = "under way"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Restart:
    """The restart of one version; `left` are the workers of before that are not replaced yet."""

    app: AppName
    model: str
    version: str
    workers: int
    left: frozenset[str]
    scaling: Scaling
    """How the version was scaled before."""
    patience: float
    """How many seconds a new worker may take to be ready."""
    moved_at: float
    """When the last step was made."""
    ending: str = ""
    """The worker that was told to end; "" before the first."""
    state: RestartState = RestartState.UNDER_WAY
    message: str = ""

    @property
    def surge(self) -> Scaling:
        """How the version is scaled meanwhile: by one worker more."""
        fewest = self.workers + 1
        return replace(self.scaling, min=fewest, max=max(fewest, self.scaling.max))


def next_step(restart: Restart, workers: Sequence[Announcement], now: float, trouble: str = "") -> Restart:
    """Return how a restart goes on. Pure.

    Args:
        restart: how far it is.
        workers: those of its version that were heard of late.
        now: the time, by the clock of `moved_at`.
        trouble: what is wrong with the version, as Serve sees it.
    """
    present = {worker.worker for worker in workers}
    left = restart.left & present
    moved_at = restart.moved_at if left == restart.left else now
    restart = replace(restart, left=left, moved_at=moved_at)
    ready, waited = ready_workers(workers), now - moved_at
    if not left:
        has_settled = len(ready) > restart.workers or waited > _NO_ROOM_SECONDS
        return replace(restart, state=RestartState.DONE) if has_settled else restart
    if restart.ending in left:
        return restart
    may_do_with_less = restart.workers > 1 and waited > _NO_ROOM_SECONDS
    candidates = sorted(worker.worker for worker in ready if worker.worker in left)
    if candidates and len(ready) > restart.workers - may_do_with_less:
        ending = candidates[0]
        return replace(restart, ending=ending, moved_at=now)
    if waited > restart.patience + _GIVE_UP_SECONDS:
        message = f"no new worker was ready within {waited:.0f} s{trouble and f': {trouble}'}"
        return replace(restart, state=RestartState.FAILED, message=message)
    return restart


class Restarts:
    """The restarts since the gateway was started; safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._restarts: dict[AppName, Restart] = {}

    def begin(self, version: Version, workers: Iterable[Announcement]) -> Restart:
        """Begin to replace the workers of a version, those that are ready.

        Raises:
            ControlError: when none is ready, or they are being replaced already.
        """
        name = f"{version.model} {version.label}"
        ready = frozenset(worker.worker for worker in ready_workers(workers, version.app))
        with self._lock:
            current = self._restarts.get(version.app)
            if current is not None and current.state is RestartState.UNDER_WAY:
                raise ControlError(
                    f"{name} is being restarted already: {counted(len(current.left), 'worker')} left"
                )
            if not ready:
                raise ControlError(f"{name} has no worker that is ready: there is nothing to restart")
            restart = self._restarts[version.app] = Restart(
                version.app,
                version.model,
                version.label,
                len(ready),
                ready,
                version.serving.scaling,
                version.serving.load_timeout,
                self._clock(),
            )
        return restart

    def of(self, model: str) -> list[Restart]:
        """Return the last restart of each version of a model."""
        with self._lock:
            return [restart for restart in self._restarts.values() if restart.model == model]

    def must_end(self, worker: str) -> bool:
        """Tell whether a worker is to end now."""
        with self._lock:
            restarts = self._restarts.values()
            return any(restart.ending == worker and worker in restart.left for restart in restarts)

    def is_under_way(self, app: AppName) -> bool:
        """Tell whether an app's workers are being replaced."""
        with self._lock:
            return app in self._under_way()

    def advance(
        self,
        workers: Sequence[Announcement],
        versions: Mapping[AppName, Version],
        troubles: Mapping[AppName, str],
    ) -> None:
        """Take what is seen now; a version that is no more is restarted no more."""
        now = self._clock()
        with self._lock:
            self._restarts = {app: restart for app, restart in self._restarts.items() if app in versions}
            for app, restart in self._under_way().items():
                own = [
                    worker
                    for worker in workers
                    if worker.app == app and worker.state is not WorkerState.FAILED
                ]
                after = self._restarts[app] = next_step(restart, own, now, troubles.get(app, ""))
                _log(restart, after)

    def scaled(self, deploy: Sequence[Version], versions: Mapping[AppName, Version]) -> list[Version]:
        """Return which versions are to be deployed in place of these: one that restarts has one more worker.

        `versions` are those that run, as they were deployed last.
        """
        with self._lock:
            under_way = self._under_way()
        others = [version for version in deploy if version.app not in under_way]
        for app, restart in under_way.items():
            version = versions.get(app)
            if version is not None and version.serving.scaling != restart.surge:
                serving = replace(version.serving, scaling=restart.surge)
                others.append(replace(version, serving=serving))
        return others

    def _under_way(self) -> dict[AppName, Restart]:
        return {
            app: restart for app, restart in self._restarts.items() if restart.state is RestartState.UNDER_WAY
        }


def _log(before: Restart, after: Restart) -> None:
    names = {"app": after.app, "model": after.model, "version": after.version}
    if after.ending != before.ending:
        log.info("restart.worker_ends", extra={**names, "worker": after.ending, "left": len(after.left)})
    if after.state is RestartState.DONE:
        log.info("restart.done", extra={**names, "workers": after.workers})
    elif after.state is RestartState.FAILED:
        log.warning("restart.failed", extra={**names, "left": len(after.left), "reason": after.message})

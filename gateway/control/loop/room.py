"""Which versions go to sleep so that another one finds room on a GPU. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.state.versions import Version

_IDLE_SECONDS = 1.0
"""A version that was called a moment ago would wake at once, and take the room again."""


def making_room(workers: Iterable[Announcement], versions: Mapping[AppName, Version]) -> AppName | None:
    """Return the version that is to sleep, as a worker waits for a GPU; None where none can, or need.

    It is the one that was called least recently, of those that may sleep, have a GPU, and answer nobody now.
    One goes at a time: its room may be enough.
    """
    workers = tuple(workers)
    waiting = {worker.app for worker in workers if worker.gpu_wait}
    if not waiting or any(worker.gpus and worker.state is WorkerState.DRAINING for worker in workers):
        return None
    idle: dict[AppName, float] = {}
    for worker in workers:
        version = versions.get(worker.app)
        if version is None or worker.app in waiting or not worker.gpus:
            continue
        if version.serving.scaling.may_sleep:
            seconds = 0.0 if worker.ongoing else worker.idle_seconds
            idle[worker.app] = min(idle.get(worker.app, seconds), seconds)
    sleepy = {app: seconds for app, seconds in idle.items() if seconds >= _IDLE_SECONDS}
    return max(sleepy, key=lambda app: (sleepy[app], app), default=None)

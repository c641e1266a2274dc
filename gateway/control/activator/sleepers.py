"""The versions that may sleep: which one is to answer a held call, its workers, and how one is started."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.contract import Announcement, AppName
from gateway.control.activator.held_call import HeldCall
from gateway.control.state.database import State
from gateway.control.state.workers import Workers
from gateway.edge.edge import Edge


@dataclass(frozen=True, slots=True)
class Sleeper:
    """A version that may sleep, as the activator needs to know it."""

    app: AppName
    model: str
    version: str
    digest: str
    wake_seconds: float
    """How long a call waits for it."""


class Sleepers(Protocol):
    """What the activator asks the rest of the gateway; its methods are called in the activator's thread."""

    def find(self, call: HeldCall) -> Sleeper | None:
        """Return the version that is to answer a call, None where it is being changed."""

    def ready_workers(self, app: AppName) -> list[Announcement]:
        """Return the workers of an app that take calls."""

    async def wake(self, app: AppName) -> None:
        """Have a worker of an app started; ends when one takes calls, and may be cancelled before."""


class GatewaySleepers:
    """The versions of a running gateway; see `Sleepers`.

    `wake` is awaited on the event loop that this object is made in: Serve's handles belong to the loop that
    Serve runs the gateway's replica in.
    """

    def __init__(
        self,
        state: State,
        workers: Workers,
        edge: Edge,
        wake: Callable[[AppName], Coroutine[Any, Any, None]],
    ) -> None:
        self._state = state
        self._workers = workers
        self._edge = edge
        self._wake = wake
        self._serve_loop = asyncio.get_running_loop()

    def find(self, call: HeldCall) -> Sleeper | None:
        """Return the version that the edge's backend is of.

        Where a canary has no worker and may not sleep, and the call names no version, the stable one answers.
        """
        app = self._edge.occupant(call.backend)
        version = None if app is None else self._state.versions().get(AppName(app))
        if version is None:
            return None
        route = self._state.routes().get(version.model)
        stable = None if route is None else route.stable
        if stable is not None and not version.serving.scaling.may_sleep and not call.names_version:
            version = self._state.versions().get(stable, version)
        wake_seconds = version.serving.scaling.wake_timeout
        return Sleeper(version.app, version.model, version.label, str(version.digest), wake_seconds)

    def ready_workers(self, app: AppName) -> list[Announcement]:
        return self._workers.ready(app)

    async def wake(self, app: AppName) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._wake(app), self._serve_loop))

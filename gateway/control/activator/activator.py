"""Holds the calls to versions that sleep: has a worker started, and passes their bytes on to it.

A canary whose workers are gone sleeps as well, but no call waits for it: the stable version answers.

The edge sends a call here when its version has no worker that is up. It comes over a Unix socket with
the PROXY protocol, whose unique id names the edge's backend. The call's head is read, the rest waits at
the edge. Once there is a worker the two connections are tied together, byte by byte in both directions, so
that every protocol over HTTP/1.1 passes as it is. The next call goes from the edge to the worker.

A call that asks whether a version is ready is answered here: it is ready, and must not wake for the question.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import ssl
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.activator.held_call import HeldCall, readiness, refusal
from gateway.control.activator.sleepers import Sleeper, Sleepers
from gateway.errors import CannotWake, EdgeError, reason_of
from gateway.wire.local_server import LocalServer, finish, tie
from gateway.wire.texts import not_loaded
from gateway.wire.tls_tunnel import open_tunnel

MAX_CALLS = 400
"""How many calls to one model may wait or pass at a time, while none to others does."""
ALL_CALLS = 2 * MAX_CALLS
"""The same of all models; each call holds two sockets and `held_call.HEAD_BYTES` at most."""
_HEAD_SECONDS = 5.0
_CONNECT_SECONDS = 1.0
_POLL_SECONDS = 0.2
_RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)


class Activator:
    """Listens for the edge in a thread of its own.

    `hear` is to be called with what workers report, from any thread. Workers are called over TLS where there
    is `tls`.
    """

    def __init__(self, path: Path, sleepers: Sleepers, tls: ssl.SSLContext | None = None) -> None:
        self._sleepers = sleepers
        self._tls = tls
        self._server = LocalServer(path, "activator", self._serve, ALL_CALLS)
        self._loop = self._server.loop
        self._waiting: Counter[AppName] = Counter()
        # By model, how many wait or pass.
        self._places: Counter[str] = Counter()
        self._wakings: dict[AppName, asyncio.Task[None]] = {}
        # By app, when its worker last failed, and why.
        self._failures: dict[AppName, float] = {}
        # Set, and replaced, at each report of a worker.
        self._report = asyncio.Event()
        self._turn = 0

    def start(self) -> None:
        """Listen, in place of an earlier activator.

        Raises:
            OSError: when the socket cannot be made.
        """
        self._server.start()

    def stop(self) -> None:
        """Close; the edge tells the callers that wait to ask again. Safe to call twice."""
        self._server.stop()

    def waiting(self) -> Mapping[AppName, int]:
        """Return how many calls wait for each app."""
        return dict(self._waiting)

    def holds_calls(self, app: AppName) -> bool:
        """Whether calls wait for a worker of an app."""
        return app in self._waiting

    def hear(self, announcement: Announcement) -> None:
        """Take a worker's report that changes its state."""
        if self._server.is_running:
            self._loop.call_soon_threadsafe(self._take, announcement)

    def _take(self, announcement: Announcement) -> None:
        if announcement.state is WorkerState.FAILED:
            self._failures[announcement.app] = time.monotonic()
        self._report.set()
        self._report = asyncio.Event()

    async def _serve(self, client: socket.socket) -> None:
        """Answer one call: by a worker, or with the reason why not."""
        with client:
            try:
                call = await asyncio.wait_for(HeldCall.read(self._loop, client), _HEAD_SECONDS)
                await self._answer(client, call)
            except (EdgeError, TimeoutError) as error:
                log.warning("activator.malformed", extra={"reason": str(error)})
            except OSError as error:
                log.debug("activator.lost", extra={"reason": str(error)})
            except Exception:
                log.exception("activator.failed")

    async def _answer(self, client: socket.socket, call: HeldCall) -> None:
        sleeper = self._sleepers.find(call)
        if sleeper is None:
            await self._send(client, refusal(call, "this version is being changed; ask again"))
        elif call.asks_readiness and not self._sleepers.ready_workers(sleeper.app):
            await self._send(client, readiness(call, sleeper.model, sleeper.version, sleeper.digest))
        elif not self._has_place(sleeper.model):
            calls = self._places.total()
            await self._send(client, refusal(call, f"{calls} calls wait for models to wake; ask again"))
        else:
            self._places[sleeper.model] += 1
            try:
                worker = await self._wait_for_worker(client, sleeper)
                if worker is not None:
                    with worker:
                        await tie(client, worker, [call.closing()])
            except CannotWake as error:
                await self._send(client, refusal(call, str(error)))
            finally:
                self._places[sleeper.model] -= 1
                if not self._places[sleeper.model]:
                    del self._places[sleeper.model]

    def _has_place(self, model: str) -> bool:
        """Whether a model may have one more place: it never has more than it leaves free for others."""
        return self._places[model] < ALL_CALLS - self._places.total()

    async def _wait_for_worker(self, client: socket.socket, sleeper: Sleeper) -> socket.socket | None:
        """Return a connection to a worker, once there is one; None when the caller has hung up.

        Raises:
            CannotWake: when a worker failed to start since the call came, or none was ready in time; its
                message is for the caller.
        """
        app, started = sleeper.app, time.monotonic()
        hung_up = select.poll()
        hung_up.register(client, select.POLLRDHUP)
        self._waiting[app] += 1
        try:
            while True:
                report = self._report
                for worker in self._in_turn(self._sleepers.ready_workers(app)):
                    with contextlib.suppress(OSError):
                        return await self._connect(worker)
                if hung_up.poll(0):
                    return None
                if self._failures.get(app, started) > started:
                    raise CannotWake(not_loaded(sleeper.model))
                remaining = started + sleeper.wake_seconds - time.monotonic()
                if remaining <= 0:
                    raise CannotWake(
                        f"model {sleeper.model} was asleep and is not awake after "
                        f"{sleeper.wake_seconds:g} s; ask again"
                    )
                if app not in self._wakings:
                    self._wakings[app] = self._loop.create_task(self._keep_waking(sleeper))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(report.wait(), min(remaining, _POLL_SECONDS))
        finally:
            self._waiting[app] -= 1
            if not self._waiting[app]:
                del self._waiting[app]
                if app in self._wakings:
                    self._wakings.pop(app).cancel()

    def _in_turn(self, workers: list[Announcement]) -> list[Announcement]:
        """Return the same workers, beginning with another one each time."""
        self._turn += 1
        first = self._turn % len(workers) if workers else 0
        return workers[first:] + workers[:first]

    async def _connect(self, worker: Announcement) -> socket.socket:
        if self._tls is not None:
            async with asyncio.timeout(_CONNECT_SECONDS):
                return await open_tunnel((worker.host, worker.port), self._tls)
        family = socket.AF_INET6 if ":" in worker.host else socket.AF_INET
        connection = socket.socket(family)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            address = (worker.host, worker.port)
            await asyncio.wait_for(self._loop.sock_connect(connection, address), _CONNECT_SECONDS)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _keep_waking(self, sleeper: Sleeper) -> None:
        """Have a worker started until one is ready: then no call waits any more, and this is cancelled."""
        names = {"app": sleeper.app, "model": sleeper.model, "version": sleeper.version}
        log.info("version.waking", extra=names)
        while True:
            try:
                await self._sleepers.wake(sleeper.app)
            except Exception as error:
                log.warning("wake.failed", extra={**names, "reason": reason_of(error)})
            # Serve says that there is one, or Serve is being started again. The worker may be about to stop.
            await asyncio.sleep(_RETRY_SECONDS)

    async def _send(self, client: socket.socket, answer: bytes) -> None:
        await self._loop.sock_sendall(client, answer)
        await finish(client)

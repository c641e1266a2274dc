"""Holds the calls to versions that sleep: has a worker started, and passes their bytes on to it.

A canary whose workers are gone sleeps as well, but nobody waits for it: the stable version answers.

The edge sends a call here when its version has no worker that is up. It comes over a Unix socket with
the PROXY protocol, whose unique id names the edge's backend. The call's head is read, the rest waits at
the edge; once a worker is there the connection is tied to it, byte by byte in both directions, so that
every protocol over HTTP/1.1 passes as it is. A call that comes next goes from the edge to the worker.

Whether a version is ready is answered here: it is, and must not wake for being asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from gateway.contract import Announcement, WorkerState
from gateway.control.activator.held_call import HeldCall, readiness, refusal
from gateway.control.activator.sleepers import Sleeper, Sleepers
from gateway.errors import CannotWake, EdgeError

MOST_CALLS = 400
"""How many calls may wait or pass at a time; each holds two sockets and `held_call.HEAD_BYTES` at most."""
_HEAD_SECONDS = 5.0
_CONNECT_SECONDS = 1.0
_LOOK_SECONDS = 0.2
_AGAIN_SECONDS = 1.0
_LINGER_SECONDS = 1.0
_PIECE_BYTES = 64 * 1024

log = logging.getLogger(__name__)


class Activator:
    """Listens for the edge in a thread of its own.

    `hear` is to be called with what workers report, from any thread.
    """

    def __init__(self, path: Path, sleepers: Sleepers) -> None:
        self._path = path
        self._sleepers = sleepers
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="activator", daemon=True)
        self._calls: set[asyncio.Task[None]] = set()
        self._waiting: Counter[str] = Counter()
        self._wakings: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, tuple[float, str]] = {}
        self._news = asyncio.Event()
        self._turn = 0

    def start(self) -> None:
        """Listen, in place of whoever did before.

        Raises:
            OSError: when the socket cannot be made.
        """
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._path.chmod(0o600)
        self._listener.listen(MOST_CALLS)
        self._listener.setblocking(False)
        self._thread.start()

    def stop(self) -> None:
        """Close; the edge tells those who wait to ask again. Safe to call twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)

    def waiting(self) -> Mapping[str, int]:
        """How many calls wait for each app."""
        return dict(self._waiting)

    def holds_calls(self, app: str) -> bool:
        """Whether calls wait for a worker of an app."""
        return app in self._waiting

    def hear(self, news: Announcement) -> None:
        """Take a worker's report that changes its state."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._take, news)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        accepting = self._loop.create_task(self._accept())
        try:
            self._loop.run_forever()
        finally:
            left = [accepting, *self._calls, *self._wakings.values()]
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._listener.close()
            self._loop.close()

    def _take(self, news: Announcement) -> None:
        if news.state is WorkerState.FAILED:
            self._failures[news.app] = (time.monotonic(), news.detail)
        self._news.set()
        self._news = asyncio.Event()

    async def _accept(self) -> None:
        while True:
            try:
                client, _ = await self._loop.sock_accept(self._listener)
            except OSError as error:
                # No more files may be open; some call ends soon.
                log.warning("activator.refused", extra={"reason": str(error)})
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            client.setblocking(False)
            task = self._loop.create_task(self._serve(client))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    async def _serve(self, client: socket.socket) -> None:
        """Answer one call: by a worker, or by saying why not."""
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
            await self._say(client, refusal(call, "this version is being changed; ask again"))
        elif call.asks_readiness and not self._sleepers.ready_workers(sleeper.app):
            await self._say(client, readiness(call, sleeper.model, sleeper.version, sleeper.digest))
        elif len(self._calls) > MOST_CALLS:
            await self._say(client, refusal(call, f"{MOST_CALLS} calls wait for models to wake; ask again"))
        else:
            try:
                worker = await self._worker(client, sleeper)
            except CannotWake as error:
                await self._say(client, refusal(call, str(error)))
                return
            if worker is not None:
                with worker:
                    await self._pass(client, worker, call.closing())

    async def _worker(self, client: socket.socket, sleeper: Sleeper) -> socket.socket | None:
        """A connection to a worker, once there is one; None when the caller has gone.

        Raises:
            CannotWake: when a worker failed to start since the call came, or none came in time; what it
                says is for the caller.
        """
        app, started = sleeper.app, time.monotonic()
        hung_up = select.poll()
        hung_up.register(client, select.POLLRDHUP)
        self._waiting[app] += 1
        try:
            while True:
                news = self._news
                for found in self._in_turn(self._sleepers.ready_workers(app)):
                    with contextlib.suppress(OSError):
                        return await self._connect(found)
                if hung_up.poll(0):
                    return None
                failed_at, why = self._failures.get(app, (started, ""))
                if failed_at > started:
                    raise CannotWake(f"model {sleeper.model} was asleep and cannot be woken: {why}")
                left = started + sleeper.wake_seconds - time.monotonic()
                if left <= 0:
                    raise CannotWake(
                        f"model {sleeper.model} was asleep and is not awake after "
                        f"{sleeper.wake_seconds:g} s; ask again"
                    )
                if app not in self._wakings:
                    self._wakings[app] = self._loop.create_task(self._keep_waking(sleeper))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), min(left, _LOOK_SECONDS))
        finally:
            self._waiting[app] -= 1
            if not self._waiting[app]:
                del self._waiting[app]
                if app in self._wakings:
                    self._wakings.pop(app).cancel()

    def _in_turn(self, workers: list[Announcement]) -> list[Announcement]:
        """The same, another one first each time."""
        self._turn += 1
        first = self._turn % len(workers) if workers else 0
        return workers[first:] + workers[:first]

    async def _connect(self, worker: Announcement) -> socket.socket:
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
        """Ask for a worker until one is there, which ends those who wait, and so this."""
        names = {"app": sleeper.app, "model": sleeper.model, "version": sleeper.version}
        log.info("version.waking", extra=names)
        while True:
            try:
                await self._sleepers.wake(sleeper.app)
            except Exception as error:
                log.warning("wake.failed", extra={**names, "reason": str(error) or type(error).__name__})
            # One is there, says Serve, or Serve is being started again. The one that is there may be on its
            # way out just now.
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _pass(self, client: socket.socket, worker: socket.socket, head: bytes) -> None:
        """Tie both ends together until the worker has answered, or the caller has gone."""
        await self._loop.sock_sendall(worker, head)
        answer = self._loop.create_task(self._copy(worker, client))
        rest = self._loop.create_task(self._copy(client, worker))
        try:
            await asyncio.wait((answer, rest), return_when=asyncio.FIRST_COMPLETED)
            # A worker may answer without having read all, and close; the rest then has nowhere to go.
            if not answer.done() and not rest.result():
                await answer
            if answer.done():
                await self._finish(client)
        finally:
            for task in (answer, rest):
                task.cancel()
            await asyncio.gather(answer, rest, return_exceptions=True)

    async def _copy(self, source: socket.socket, target: socket.socket) -> bool:
        """Copy until one side ends; returns whether that is the source."""
        while True:
            try:
                piece = await self._loop.sock_recv(source, _PIECE_BYTES)
            except OSError:
                return True
            if not piece:
                return True
            try:
                await self._loop.sock_sendall(target, piece)
            except OSError:
                return False

    async def _say(self, client: socket.socket, answer: bytes) -> None:
        await self._loop.sock_sendall(client, answer)
        await self._finish(client)

    async def _finish(self, client: socket.socket) -> None:
        """Take what is still sent: a socket that is closed over it may cost its other end the answer."""
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while await self._loop.sock_recv(client, _PIECE_BYTES):
                    pass

"""A light HTTP client, which sends a call when it is due, whether others were answered or not."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, cast

import httptools

MAX_CONNECTIONS = 1000
_TIMEOUT_SECONDS = 20
_SWEEP_SECONDS = 1

Then = Callable[[int, bytes], None]
"""Takes the status and body of an answer. With status 0 there is no answer, and the body says why."""


class _Connection(asyncio.Protocol):
    """A connection with one call at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._then: Then | None = None
        self._transport: asyncio.Transport | None = None
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, then: Then) -> None:
        assert self._transport is not None
        self._then = then
        self._body = []
        self.due = self._client.loop.time() + _TIMEOUT_SECONDS
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(f"not HTTP: {error}")

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        then, self._then = self._then, None
        keeps_alive = self._parser.should_keep_alive()
        status = self._parser.get_status_code()
        if not keeps_alive:
            self.close()
        self._client.answered(self, keeps_alive)
        if then is not None:
            then(status, b"".join(self._body))

    def connection_lost(self, error: Exception | None) -> None:
        self._client.forget(self)
        self.fail(f"closed before an answer: {error}")

    def fail(self, why: str) -> None:
        then, self._then = self._then, None
        self.close()
        if then is not None:
            self._client.forget(self)
            then(0, why.encode())

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Client:
    """Persistent connections to one server, as many as calls are under way. Use it on its event loop only."""

    def __init__(self, host: str, port: int) -> None:
        self.loop = asyncio.get_running_loop()
        self._address = host, port
        # The one that was idle longest is taken first, so that none is idle until the server closes it.
        self._idle: deque[_Connection] = deque()
        self._busy: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._sweeper = self.loop.call_later(_SWEEP_SECONDS, self._sweep)

    @property
    def under_way(self) -> int:
        """The number of calls that are not answered yet."""
        return len(self._busy) + len(self._opening)

    def call(self, request: bytes, then: Then) -> None:
        """Send one request, given as the bytes of its head and body."""
        if self._idle:
            self._send(self._idle.popleft(), request, then)
        elif self.under_way < MAX_CONNECTIONS:
            self._run(self._open(request, then))
        else:
            then(0, b"%d calls are under way" % MAX_CONNECTIONS)

    def hang_up(self, request: bytes, size: int, seconds: float) -> None:
        """Send `size` bytes of a request on a connection of its own, and close it after `seconds`."""
        self._run(self._leave(request[:size], seconds))

    async def close(self) -> None:
        """Wait for the calls under way, and close all connections."""
        deadline = self.loop.time() + _TIMEOUT_SECONDS
        while self.under_way and self.loop.time() < deadline:
            await asyncio.sleep(0.05)
        self._sweeper.cancel()
        for connection in [*self._idle, *self._busy]:
            connection.close()

    def answered(self, connection: _Connection, keeps_alive: bool) -> None:
        """Take a connection back."""
        self._busy.discard(connection)
        if keeps_alive:
            self._idle.append(connection)

    def forget(self, connection: _Connection) -> None:
        """Drop a connection that is closed."""
        self._busy.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _send(self, connection: _Connection, request: bytes, then: Then) -> None:
        self._busy.add(connection)
        connection.send(request, then)

    async def _open(self, request: bytes, then: Then) -> None:
        try:
            _, connection = await self.loop.create_connection(lambda: _Connection(self), *self._address)
        except OSError as error:
            then(0, f"no connection: {error}".encode())
            return
        self._send(connection, request, then)

    async def _leave(self, part: bytes, seconds: float) -> None:
        try:
            transport, _ = await self.loop.create_connection(asyncio.Protocol, *self._address)
        except OSError:
            return
        transport.write(part)
        await asyncio.sleep(seconds)
        transport.abort()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in [busy for busy in self._busy if busy.due < now]:
            connection.fail(f"no answer in {_TIMEOUT_SECONDS} s")
        self._sweeper = self.loop.call_later(_SWEEP_SECONDS, self._sweep)

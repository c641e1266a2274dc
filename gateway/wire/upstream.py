"""A client of HTTP/1.1 on a Unix socket, for an engine that is a process of its own.

It moves bytes: requests go out as they are given, and an answer's body comes back in the pieces in which it
arrived, without the chunks that it was sent in. All of it is for one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import httptools

from gateway.wire.exchange import Header, lines

_CONNECT_SECONDS = 5.0
# An engine closes connections that are idle for longer (llama-server after 5 s), so they are not used again.
_IDLE_SECONDS = 2.0
_CLOSED = "it closed the connection before its answer's end"


class Receiver(Protocol):
    """What takes an answer. After `abort` it is called no more."""

    def head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Take the status and the headers, which have lower-case names."""

    def piece(self, data: bytes) -> None:
        """Take the next bytes of the body."""

    def end(self) -> None:
        """Know that the answer is complete."""

    def failed(self, reason: str) -> None:
        """Know that no answer comes, or no more of it."""


@dataclass(frozen=True, slots=True)
class Request:
    """A call to the engine."""

    method: str
    path: str
    body: bytes | memoryview = b""
    headers: Sequence[Header] = ()

    def pieces(self) -> list[bytes | memoryview]:
        """Return the request as it is sent."""
        head = b"%s %s HTTP/1.1\r\nhost: engine\r\n%scontent-length: %d\r\n\r\n" % (
            self.method.encode(),
            self.path.encode(),
            lines(self.headers),
            len(self.body),
        )
        return [head, self.body] if self.body else [head]


class Upstream:
    """The connections to one engine: each carries one call at a time, and is kept where it ended cleanly."""

    def __init__(self, socket: Path, max_idle: int = 8) -> None:
        self._socket = str(socket)
        self._max_idle = max_idle
        self._idle: list[_Connection] = []
        self._closing: asyncio.Task[None] | None = None

    def send(self, request: Request, receiver: Receiver) -> UpstreamCall:
        """Send a request; its receiver is called later, with the answer or why there is none."""
        call = UpstreamCall(self, request, receiver)
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since < _IDLE_SECONDS and connection.is_usable:
                call.start(connection, is_fresh=False)
                return call
            connection.close()
        call.connect()
        return call

    async def open(self) -> _Connection:
        """Connect. Raises OSError, TimeoutError among them."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, connection = await loop.create_unix_connection(lambda: _Connection(self), self._socket)
        return connection

    def keep(self, connection: _Connection) -> None:
        """Take back a connection whose call ended cleanly."""
        if len(self._idle) < self._max_idle:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
            if self._closing is None or self._closing.done():
                self._closing = asyncio.get_running_loop().create_task(self._close_idle())
        else:
            connection.close()

    def forget(self, connection: _Connection) -> None:
        """Drop a connection that the engine closed."""
        if connection in self._idle:
            self._idle.remove(connection)

    async def _close_idle(self) -> None:
        """Close the connections that carry no call: in time, and as the loop ends, which cancels this."""
        loop = asyncio.get_running_loop()
        try:
            while self._idle:
                await asyncio.sleep(_IDLE_SECONDS)
                oldest = loop.time() - _IDLE_SECONDS
                for connection in [each for each in self._idle if each.idle_since <= oldest]:
                    self._idle.remove(connection)
                    connection.close()
        finally:
            while self._idle:
                self._idle.pop().close()


class UpstreamCall:
    """One call to the engine, until its answer ends."""

    __slots__ = (
        "_connecting",
        "_connection",
        "_is_fresh",
        "_is_paused",
        "_receiver",
        "_request",
        "_upstream",
    )

    def __init__(self, upstream: Upstream, request: Request, receiver: Receiver) -> None:
        self._upstream = upstream
        self._request: Request | None = request
        self._receiver: Receiver | None = receiver
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._is_fresh = True
        self._is_paused = False

    def connect(self) -> None:
        """Have the call sent on a connection of its own."""
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def start(self, connection: _Connection, is_fresh: bool) -> None:
        """Send the call on a connection."""
        request, receiver = self._request, self._receiver
        assert request is not None
        assert receiver is not None
        self._connection, self._is_fresh = connection, is_fresh
        connection.begin(self, receiver)
        if self._is_paused:
            connection.pause(True)
        connection.write(request.pieces())

    def abort(self) -> None:
        """End the call: its connection is closed, which tells the engine that nobody waits any more."""
        self._receiver = self._request = None
        if self._connecting is not None:
            self._connecting.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def pause(self) -> None:
        """Take no more of the answer from the engine until `resume`."""
        self._pause(True)

    def resume(self) -> None:
        """Take the rest of the answer."""
        self._pause(False)

    def answering(self) -> None:
        """Forget the request: its answer has begun, so it is not sent again."""
        self._request = None

    def ended(self) -> None:
        """Give the connection back; the answer is complete."""
        self._connection = self._request = None
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.end()

    def lost(self, reason: str) -> None:
        """Go on without the connection; one that was kept may have been closed just as it was used."""
        self._connection = None
        if self._receiver is None:
            return
        if self._request is not None and not self._is_fresh:
            self.connect()
        else:
            receiver, self._receiver = self._receiver, None
            receiver.failed(reason)

    async def _connect(self) -> None:
        try:
            connection = await self._upstream.open()
        except OSError as error:
            self._connecting = None
            self._is_fresh = True
            self.lost(f"it takes no connection: {error or 'in time'}")
            return
        self._connecting = None
        if self._receiver is None:
            connection.close()
        else:
            self.start(connection, is_fresh=True)

    def _pause(self, is_paused: bool) -> None:
        self._is_paused = is_paused
        if self._connection is not None:
            self._connection.pause(is_paused)


class _Connection(asyncio.Protocol):
    """One connection to the engine; what the parser calls only takes notes, as in `connection.Connection`."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._transport = cast(asyncio.Transport, None)
        self._parser = httptools.HttpResponseParser(self)
        self._call: UpstreamCall | None = None
        self._receiver: Receiver | None = None
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self._has_head = False
        self._is_complete = False
        self._may_keep = False
        self.idle_since = 0.0

    @property
    def is_usable(self) -> bool:
        """Whether it may carry another call."""
        return not self._transport.is_closing()

    def begin(self, call: UpstreamCall, receiver: Receiver) -> None:
        """Carry a call; its answer goes to the receiver."""
        self._call, self._receiver = call, receiver
        self._has_head = self._is_complete = False
        self._headers = {}

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Send bytes."""
        self._transport.writelines(pieces)

    def pause(self, is_paused: bool) -> None:
        """Read no more, or read on."""
        if not self._transport.is_closing():
            (self._transport.pause_reading if is_paused else self._transport.resume_reading)()

    def close(self) -> None:
        """Close at once, and call nobody."""
        self._call = self._receiver = None
        self._transport.abort()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._call is None:
            self.close()  # nothing was asked
            self._upstream.forget(self)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._lose(f"its answer is not HTTP/1.1: {error}")
            return
        receiver = self._receiver
        if self._pieces and receiver is not None:
            pieces, self._pieces = self._pieces, []
            receiver.piece(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._is_complete:
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        if self._call is None:
            self._upstream.forget(self)
        elif self._has_head and not self._is_complete and self._is_until_close:
            self._may_keep = False
            self._finish()
        else:
            self._lose(_CLOSED if error is None else f"{_CLOSED}: {error}")

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status: int = self._parser.get_status_code()
        if status < 200:
            self._headers = {}
            return
        self._has_head = True
        self._may_keep = self._parser.should_keep_alive()
        if self._call is not None and self._receiver is not None:
            self._call.answering()
            self._receiver.head(status, self._headers)

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        self._is_complete = self._has_head

    @property
    def _is_until_close(self) -> bool:
        """Whether the answer's end is that of the connection."""
        return b"content-length" not in self._headers and b"transfer-encoding" not in self._headers

    def _finish(self) -> None:
        """End the call, and keep the connection where nothing is left on it."""
        call, self._call, self._receiver = self._call, None, None
        if call is None:
            return  # its receiver aborted it in its last piece
        if self._may_keep and not self._transport.is_closing():
            self._transport.resume_reading()
            self._upstream.keep(self)
        else:
            self._transport.abort()
        call.ended()

    def _lose(self, reason: str) -> None:
        call, self._call, self._receiver = self._call, None, None
        self._transport.abort()
        if call is not None:
            call.lost(reason)

"""Sends copies of answered calls to the canary's workers: bounded, paced, one at a time.

It happens on the server's loop, after the caller has its answer. A thread of its own would cost more, as
each of its steps takes the interpreter's lock from the loop. What does not fit into the queue is dropped: no
caller ever waits for the canary.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import httptools

from gateway.contract import Mirroring
from gateway.metrics.tally import Tally
from gateway.wire.headers import EDGE
from gateway.wire.worker_tls import WORKER_NAME

MIRROR_PATH = "/kitserve/mirror"

_MAX_WAITING = 64
_MAX_BYTES = 4 * 1024 * 1024
_RETRY_SECONDS = 0.1
# The rate: so many calls a second at most, and so many bytes.
_CALLS_PER_SECOND = 50
_BYTES_PER_SECOND = 20_000_000
_HEAD = b"POST %s HTTP/1.1\r\nhost: canary\r\n" + EDGE + b": %s\r\n%scontent-length: %d\r\n\r\n"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Copy:
    """A call to a worker of the canary; `headers` are lines, `held` the bytes that it keeps in memory."""

    path: str
    headers: bytes
    body: Sequence[bytes | memoryview]
    held: int
    answered: Callable[[int, bytes, float], str]
    """Takes the answer's status and body, and how many seconds it took.

    Returns why it says nothing, "" where it was of use.
    """

    @property
    def size(self) -> int:
        """How many bytes the body has."""
        return sum(map(len, self.body))


class MirrorSender:
    """Sends copies until it is stopped, with `tls` over TLS. All but `stop` is for one loop alone."""

    def __init__(
        self,
        mirroring: Mirroring,
        tally: Tally,
        edge_key: bytes,
        timeout: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.mirroring = mirroring
        self.timeout = timeout
        self._share = mirroring.share
        self._tally = tally
        self._edge_key = edge_key
        self._tls = tls
        self._targets = itertools.cycle(mirroring.targets)
        self._waiting: deque[Copy] = deque()
        self._is_busy = False
        self._is_stopped = False
        self._peer: _Peer | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def is_picked(self) -> bool:
        """Tell whether chance picks a call."""
        return random.random() < self._share  # noqa: S311  a sample is no secret

    def has_room(self, held: int) -> bool:
        """Tell whether there is room for a call that keeps so many bytes; else count it as dropped."""
        if len(self._waiting) >= _MAX_WAITING or held > _MAX_BYTES:
            self._tally.not_mirrored()
            return False
        return True

    def send(self, copy: Copy, loop: asyncio.AbstractEventLoop) -> None:
        """Send a copy once it is its turn."""
        self._waiting.append(copy)
        if not self._is_busy:
            self._loop = loop
            self._send_next()

    def stop(self) -> None:
        """Send no more, and close the connection soon; may be called from any thread."""
        self._is_stopped = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hang_up)

    def answered(self, copy: Copy, status: int, body: bytes, seconds: float) -> None:
        """Go on after the canary's worker answered a copy in `seconds`."""
        reason = copy.answered(status, body, seconds)
        if reason:
            self.failed(reason)
            return
        interval = max(1 / _CALLS_PER_SECOND, copy.held / _BYTES_PER_SECOND)
        self._send_later(interval - seconds)

    def failed(self, reason: str) -> None:
        """Go on after a call that was not compared; the next one goes to the next worker."""
        log.debug("mirror.failed", extra={"reason": reason})
        self._tally.not_mirrored()
        self._hang_up()
        self._send_later(_RETRY_SECONDS)

    def lost(self) -> None:
        """Forget the connection, which was closed with no call on it."""
        self._peer = None

    def _send_later(self, seconds: float) -> None:
        assert self._loop is not None
        self._loop.call_later(max(0.0, seconds), self._send_next)

    def _send_next(self) -> None:
        """Send the next call that waits."""
        assert self._loop is not None
        self._is_busy = bool(self._waiting) and not self._is_stopped
        if not self._is_busy:
            return
        if self._peer is None:
            self._connecting = self._loop.create_task(self._connect())
            return
        copy = self._waiting.popleft()
        head = _HEAD % (copy.path.encode(), self._edge_key, copy.headers, copy.size)
        self._peer.send(copy, [head, *copy.body])

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        host, port = next(self._targets)
        name = None if self._tls is None else WORKER_NAME
        try:
            async with asyncio.timeout(self.timeout):
                _, self._peer = await loop.create_connection(
                    lambda: _Peer(self), host, port, ssl=self._tls, server_hostname=name
                )
        except OSError as error:
            # A call that waits for a worker that never comes is not worth keeping.
            self._waiting.popleft()
            self.failed(str(error))
            return
        if self._is_stopped:
            self._hang_up()
        self._send_next()

    def _hang_up(self) -> None:
        peer, self._peer = self._peer, None
        if peer is not None:
            peer.close()


class _Peer(asyncio.Protocol):
    """A connection to a worker of the canary, with at most one call on it."""

    def __init__(self, sender: MirrorSender) -> None:
        self._sender = sender
        self._transport = cast(asyncio.Transport, None)
        self._parser = httptools.HttpResponseParser(self)
        self._copy: Copy | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._sent = 0.0
        self._is_complete = False
        self._alarm: asyncio.TimerHandle | None = None
        self._is_closed = False

    def send(self, copy: Copy, pieces: list[bytes | memoryview]) -> None:
        """Send a call; the sender is called with the outcome."""
        loop = asyncio.get_running_loop()
        self._copy, self._body, self._size, self._sent = copy, [], 0, loop.time()
        self._is_complete = False
        self._alarm = loop.call_later(self._sender.timeout, self._fail, "it did not answer in time")
        self._transport.writelines(pieces)

    def close(self) -> None:
        """Close the connection; the sender is not called."""
        self._is_closed = True
        self._take()
        self._transport.abort()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"its answer is not HTTP: {error}")
            return
        if self._is_complete:
            self._end()
        elif self._size > _MAX_BYTES:
            self._fail("its answer is too large")

    def connection_lost(self, error: Exception | None) -> None:
        if self._copy is not None:
            self._fail(f"it closed the connection: {error}")
        elif not self._is_closed:
            self._sender.lost()

    # What the parser calls.

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._size += len(body)

    def on_message_complete(self) -> None:
        self._is_complete = True

    def _end(self) -> None:
        copy = self._take()
        if copy is not None:
            seconds = asyncio.get_running_loop().time() - self._sent
            self._sender.answered(copy, self._parser.get_status_code(), b"".join(self._body), seconds)

    def _fail(self, reason: str) -> None:
        if self._take() is not None:
            self._sender.failed(reason)

    def _take(self) -> Copy | None:
        """Return the call that is under way, which is over now."""
        copy, self._copy = self._copy, None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        return copy

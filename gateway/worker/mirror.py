"""The stable version's half of mirroring: a share of the answered calls is sent to the canary as well.

It happens on the server's loop, after the caller has its answer: one call at a time, at a limited rate. A
thread of its own would cost more, as each of its steps takes the interpreter's lock from the loop. What does
not fit into the queue is dropped: no caller ever waits for the canary.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

import orjson

from gateway.contract import Mirroring
from gateway.engine.jobs import Job
from gateway.metrics.tally import Tally
from gateway.wire.limits import HEAD_BYTES

MIRROR_PATH = "/kitserve/mirror"
MIRROR_HEADER = b"kitserve-mirror"

_MAX_WAITING = 64
_MAX_BYTES = 4 * 1024 * 1024
_TIMEOUT_SECONDS = 10.0
_RETRY_SECONDS = 0.1
# The rate: so many calls a second at most, and so many bytes.
_CALLS_PER_SECOND = 50
_BYTES_PER_SECOND = 20_000_000
_HEAD_END = b"\r\n\r\n"
_OK = b"HTTP/1.1 200"
_HEAD = b"POST %s HTTP/1.1\r\nhost: canary\r\nkitserve-edge: %s\r\n%s: %s\r\ncontent-length: %d\r\n\r\n"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Copy:
    """An answered call; the sizes say how much of its body and of its answer is JSON, see `Job`."""

    body: Sequence[bytes | memoryview]
    json_size: bytes
    answer: bytes
    answer_json_size: int | None


class Mirror:
    """Sends a share of calls to the canary's workers until it is stopped. `offer` is for the loop alone."""

    def __init__(self, mirroring: Mirroring, tally: Tally, edge_key: bytes) -> None:
        self.mirroring = mirroring
        self._share = mirroring.share
        self._tally = tally
        self._edge_key = edge_key
        self._agreement = asdict(mirroring.agreement)
        self._targets = itertools.cycle(mirroring.targets)
        self._waiting: deque[_Copy] = deque()
        self._is_busy = False
        self._is_stopped = False
        self._peer: _Peer | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def offer(self, job: Job) -> None:
        """Copy an answered call to the queue, if chance picks it and there is room."""
        if random.random() >= self._share:  # noqa: S311  a sample is no secret
            return
        if len(self._waiting) >= _MAX_WAITING or sum(map(len, job.body)) + len(job.answer) > _MAX_BYTES:
            self._tally.not_mirrored()
            return
        self._waiting.append(_Copy(job.body, job.json_size, job.answer, job.answer_json_size))
        if not self._is_busy:
            self._loop = job.loop
            self._send_next()

    def stop(self) -> None:
        """Send no more, and close the connection soon; may be called from any thread."""
        self._is_stopped = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hang_up)

    def answered(self, size: int, seconds: float) -> None:
        """Go on after the canary's worker answered a call of `size` bytes in `seconds`."""
        interval = max(1 / _CALLS_PER_SECOND, size / _BYTES_PER_SECOND)
        self._send_later(interval - seconds)

    def failed(self, reason: str) -> None:
        """Go on after a call that was not compared; the next one goes to the next worker."""
        log.debug("mirror.failed", extra={"reason": reason})
        self._tally.not_mirrored()
        self._hang_up()
        self._send_later(_RETRY_SECONDS)

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
        request = sum(map(len, copy.body))
        header = {
            "request": request,
            "json_size": copy.json_size.decode("latin-1"),
            "answer_json_size": copy.answer_json_size,
            "agreement": self._agreement,
        }
        size = request + len(copy.answer)
        head = _HEAD % (MIRROR_PATH.encode(), self._edge_key, MIRROR_HEADER, orjson.dumps(header), size)
        self._peer.send([head, *copy.body, copy.answer], size)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        host, port = next(self._targets)
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                _, self._peer = await loop.create_connection(lambda: _Peer(self), host, port)
        except OSError as error:
            # A call that waits for a worker that never comes is not worth keeping.
            self._waiting.popleft()
            self.failed(str(error))
            return
        if self._is_stopped:
            self._hang_up()
        self._send_next()

    def lost(self) -> None:
        """Forget the connection, which was closed with no call on it."""
        self._peer = None

    def _hang_up(self) -> None:
        peer, self._peer = self._peer, None
        if peer is not None:
            peer.close()


class _Peer(asyncio.Protocol):
    """A connection to a worker of the canary, with at most one call on it."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._transport = cast(asyncio.Transport, None)
        self._answer = b""
        self._size = 0
        self._sent = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._is_closed = False

    def send(self, pieces: list[bytes | memoryview], size: int) -> None:
        """Send a call; the mirror is called with the outcome."""
        loop = asyncio.get_running_loop()
        self._answer, self._size, self._sent = b"", size, loop.time()
        self._alarm = loop.call_later(_TIMEOUT_SECONDS, self._end, "it did not answer in time")
        self._transport.writelines(pieces)

    def close(self) -> None:
        """Close the connection; the mirror is not called."""
        self._is_closed = True
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if _HEAD_END in self._answer or len(self._answer) > HEAD_BYTES:
            self._end("" if self._answer.startswith(_OK) else f"it answers {self._answer[:64]!r}")

    def connection_lost(self, error: Exception | None) -> None:
        if self._alarm is not None:
            self._end(f"it closed the connection: {error}")
        elif not self._is_closed:
            self._mirror.lost()

    def _end(self, reason: str) -> None:
        if self._alarm is None:
            return
        self._alarm.cancel()
        self._alarm = None
        if reason:
            self._mirror.failed(reason)
        else:
            self._mirror.answered(self._size, asyncio.get_running_loop().time() - self._sent)

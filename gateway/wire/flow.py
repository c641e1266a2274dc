"""When a connection reads and writes, when its client is silent, and how it closes."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import cast

from gateway.wire.budget import BodyBudget
from gateway.wire.exchange import Exchange, Handler
from gateway.wire.limits import ARRIVING_BYTES, HEAD_BYTES

# How long a client may go on to send, so that it reads an answer that came before its request's end.
_LINGER_SECONDS = 2.0
# After so much of one connection it is the others' turn. libuv reads 32 times in a row from a socket that
# always has more, which took 10 to 30 ms where a body went to fresh memory.
_TURN_BYTES = 192 * 1024


@dataclass(slots=True, eq=False)
class Shared:
    """What all connections of a server have together; all of it belongs to the loop."""

    handler: Handler
    budget: BodyBudget = field(default_factory=lambda: BodyBudget(ARRIVING_BYTES))
    connections: set[FlowControl] = field(default_factory=set)
    scratch: memoryview = field(default_factory=lambda: memoryview(bytearray(HEAD_BYTES)))
    """Where bytes arrive; each read is taken out of it before the next."""
    tick: int = 0
    """Counts up; tells how long a connection has been quiet."""
    is_stopping: bool = False


class FlowControl(asyncio.BufferedProtocol):
    """The part of a connection that has to do with its socket; `Connection` is the other.

    It reads nothing while calls wait behind one another, while the client does not take its answers, or
    while the handler holds the request. After `_TURN_BYTES` it rests until the loop's next turn.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.budget = shared.budget
        self._transport = cast(asyncio.Transport, None)
        self._beneath = self._transport
        """What writes to the socket: the same, but with TLS what is below that."""
        self._waiting: deque[Exchange] = deque()
        """Calls in their order; the first is being handled."""
        self._is_dropping = False
        """Whether all that still comes is dropped."""
        self._is_held = False
        """Whether the handler holds the rest of its request."""
        self._is_resting = False
        """Whether it reads nothing so that others have their turn."""
        self._long_reads = 0
        """How many bytes came in long reads since it rested."""
        self._is_paused = False
        """Whether nothing is read."""
        self.is_writable = True
        self._active_tick = shared.tick
        """When the client last did something."""
        self._unread = 0
        """How many bytes of the answers the client had not taken at the last look."""

    def connection_made(
        self, transport: asyncio.BaseTransport, beneath: asyncio.Transport | None = None
    ) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._beneath = beneath or self._transport
        self._shared.connections.add(self)

    def pause_writing(self) -> None:
        self.is_writable = False
        self._flow()

    def hold(self, is_held: bool) -> None:
        """Read no more, or again, on behalf of the call that is being handled."""
        self._is_held = is_held
        self._flow()

    def is_quiet_since(self, tick: int) -> bool:
        """Whether it has been the client's turn for longer than that, and it neither sent nor read."""
        unread = self._transport.get_write_buffer_size()
        if self._beneath is not self._transport:
            unread += self._beneath.get_write_buffer_size()
        if unread != self._unread:
            self._unread = unread
            self._active_tick = self._shared.tick
        if self._active_tick >= tick:
            return False
        if not self._waiting or not self.is_writable:
            return True
        return not self._waiting[0].is_complete and self._waiting[0].on_piece is None

    def end_if_slow(self, now: float) -> None:
        """End the call whose body comes too slowly, where there is one; `now` is of `time.monotonic`."""

    def finish(self) -> None:
        """Close as soon as the call that is being handled is answered."""
        if self._waiting:
            self._waiting[0].keep_alive = False
        else:
            self._transport.close()

    def write_at_once(self) -> None:
        """Have writes go to the socket at once: uvloop does so with what is over the limit of its buffer."""
        if not self._transport.is_closing():
            self._beneath.set_write_buffer_limits(high=0)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _close(self, is_request_complete: bool) -> None:
        """Close behind an answer; a client that still sends is let finish, so that it comes to read."""
        self._is_dropping = True
        self._waiting.clear()
        if is_request_complete:
            self._transport.close()
        else:
            self._flow()
            if self._transport.can_write_eof():
                self._transport.write_eof()
            else:
                # With TLS, it says that it closes, and drops what comes until the client does so too.
                self._transport.close()
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._transport.abort)

    def _note_long_read(self, nbytes: int) -> None:
        """Count a read after which the socket may have more, and rest where that was much."""
        self._long_reads += nbytes
        if self._long_reads >= _TURN_BYTES and not self._is_resting:
            self._is_resting = True
            self._flow()
            asyncio.get_running_loop().call_soon(self._end_rest)

    def _end_rest(self) -> None:
        self._is_resting = False
        self._long_reads = 0
        self._flow()

    def _flow(self) -> None:
        """Read on, or do not."""
        must_pause = self._is_resting or (
            not self._is_dropping and (self._is_held or not self.is_writable or len(self._waiting) > 1)
        )
        if must_pause != self._is_paused and not self._transport.is_closing():
            self._is_paused = must_pause
            if must_pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

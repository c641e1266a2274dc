"""The places of an engine, and the bounded queue of calls that wait for one.

An engine queues calls without end and without a deadline when it gets more than it can work on, so it never
gets more: at most as many run at a time as it has slots, and the others wait here: callers take turns, and
the calls of one are served in the order in which they came.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field
from typing import Protocol

from gateway.engine.shares import displaced
from gateway.errors import DeadlineExceeded, Overload, QueueFull
from gateway.metrics.tally import Tally
from gateway.serving import DEFAULT_LIMITS, QueueLimits
from gateway.wording import counted

_LONGEST_RETRY_SECONDS = 30


class Call(Protocol):
    """What has a turn."""

    def begin(self) -> None:
        """Run now."""

    def fail(self, failure: Overload, retry_after: int) -> None:
        """Know that the call runs no more, and never did if `begin` was not called; its turn has ended.

        `retry_after` says in how many seconds to come back; 0 where that is not said.
        """


@dataclass(slots=True, eq=False)
class Turn:
    """One call's place in the order; times are of `time.perf_counter`, in seconds, and so are durations."""

    size: int = 0
    """How many bytes the call has."""
    places: int = 1
    """How many slots it takes."""
    timeout: float = math.inf
    """How long the caller waits for the whole answer, from `began` on."""
    began: float = field(default_factory=time.perf_counter)
    """When the call came."""
    queue_seconds: float = 0.0
    is_running: bool = False
    source: bytes = b""
    """Who calls, see `shares`."""
    is_placed: bool = False
    """Whether chance alone decided which version answers, so that a rollout may be judged by the call."""
    sticky: bytes = b""
    """A hash of what keeps its caller on the version; b"" where nothing does."""
    alarm: asyncio.TimerHandle | None = None
    call: Call | None = None
    """None once the turn has ended."""


class Slots:
    """Lets calls run while there are places; all of it is for one event loop, but `queued` and `stop`.

    What happens to a call, and what becomes of its turn:

        it comes, and places are free      running
        it comes, and none is              waiting
        it comes, and too many wait        ended: `fail` with QueueFull; where another caller has more
                                           waiting, that one's last calls instead
        it has waited too long             ended: `fail` with DeadlineExceeded
        its caller's time is over          ended: the same, running or not
        others end, and it is its turn     running
        its answer has ended               ended: `leave`
        its caller hangs up                ended: `cancel`

    `tally.ongoing` goes up in `enter` and down once for each turn as it ends; `tally.generating` counts those
    that run.
    """

    def __init__(self, slots: int, tally: Tally, limits: QueueLimits = DEFAULT_LIMITS) -> None:
        self._slots = slots
        self._free = slots
        self._tally = tally
        self._limits = limits
        self._waiting: dict[Turn, None] = {}
        # The same turns by source; the one whose turn it is comes first.
        self._by_source: dict[bytes, dict[Turn, None]] = {}
        self._bytes = 0
        self._running: set[Turn] = set()
        self._is_stopped = False

    @property
    def queued(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    def enter(self, turn: Turn, call: Call) -> None:
        """Have a call run now, or later, or never."""
        turn.call = call
        self._tally.ongoing += 1
        turn.places = min(turn.places, self._slots)
        if not self._waiting and turn.places <= self._free and not self._is_stopped:
            self._watch(turn, turn.timeout)
            self._run(turn)
        elif self._has_room(turn) or self._displace(turn):
            self._waiting[turn] = None
            self._by_source.setdefault(turn.source, {})[turn] = None
            self._bytes += turn.size
            self._watch(turn, min(turn.timeout, self._limits.timeout))
        else:
            self._refuse(turn)

    def leave(self, turn: Turn) -> None:
        """End a turn: its answer has ended."""
        self._end(turn)
        self._advance()

    def cancel(self, turn: Turn) -> None:
        """End a turn whose caller hung up."""
        self._tally.dropped("cancelled")
        self.leave(turn)

    def stop(self) -> None:
        """Let no more calls in; from any thread, once the loop is at rest."""
        self._is_stopped = True

    def _has_room(self, turn: Turn) -> bool:
        limits = self._limits
        waiting = len(self._waiting)
        # A call that is larger than all the room may come in alone.
        has_bytes = not waiting or self._bytes + turn.size <= limits.max_bytes
        return waiting < limits.max_requests and has_bytes and not self._is_stopped

    def _displace(self, turn: Turn) -> bool:
        """Refuse calls of another caller that has more of them waiting, to have room for this one."""
        limits, waiting = self._limits, self._waiting
        if self._is_stopped:
            return False
        if len(waiting) >= limits.max_requests:
            others = displaced(((other, 1) for other in waiting), turn.source, 1, 1)
        else:
            lacking = self._bytes + turn.size - limits.max_bytes
            others = displaced(((other, other.size) for other in waiting), turn.source, turn.size, lacking)
        room = limits.max_bytes - self._bytes + sum(other.size for other in others)
        if not others or turn.size > room:
            return False
        for other in others:
            self._take(other)
            if other.alarm is not None:
                other.alarm.cancel()
                other.alarm = None
            self._refuse(other)
        return True

    def _refuse(self, turn: Turn) -> None:
        oldest = next(iter(self._waiting), None)
        age = 0.0 if oldest is None else time.perf_counter() - oldest.began
        # The queue takes about as long as its oldest has waited.
        retry_after = min(max(1, math.ceil(age)), _LONGEST_RETRY_SECONDS)
        self._tally.ongoing -= 1
        self._tally.dropped("rejected")
        load = f"{counted(len(self._waiting), 'call')}, {counted(self._bytes, 'byte')}"
        call, turn.call = turn.call, None
        assert call is not None
        call.fail(QueueFull(f"too many calls wait for the model: {load}; ask again later"), retry_after)

    def _watch(self, turn: Turn, timeout: float) -> None:
        """Set the alarm for the moment when a turn's time is over."""
        if turn.alarm is not None:
            turn.alarm.cancel()
        turn.alarm = None
        if timeout < math.inf:
            rest = max(0.0, turn.began + timeout - time.perf_counter())
            turn.alarm = asyncio.get_running_loop().call_later(rest, self._expire, turn)

    def _expire(self, turn: Turn) -> None:
        self._tally.dropped("expired")
        waited = time.perf_counter() - turn.began
        if turn.is_running:
            text = f"the answer was not complete after {waited:.3g} s, the time that the caller gave it"
        else:
            turn.queue_seconds = waited
            text = f"waited {waited:.3g} s for the model, which works on other calls; ask again later"
        call = turn.call
        assert call is not None
        self._end(turn)
        call.fail(DeadlineExceeded(text), 0)
        self._advance()

    def _run(self, turn: Turn) -> None:
        self._free -= turn.places
        self._running.add(turn)
        self._tally.generating += 1
        turn.is_running = True
        turn.queue_seconds = time.perf_counter() - turn.began
        assert turn.call is not None
        turn.call.begin()

    def _end(self, turn: Turn) -> None:
        if turn.alarm is not None:
            turn.alarm.cancel()
            turn.alarm = None
        if turn in self._running:
            self._running.remove(turn)
            self._free += turn.places
            self._tally.generating -= 1
        elif turn in self._waiting:
            self._take(turn)
        else:
            return
        turn.is_running = False
        turn.call = None
        self._tally.ongoing -= 1

    def _take(self, turn: Turn) -> None:
        del self._waiting[turn]
        self._bytes -= turn.size
        turns = self._by_source[turn.source]
        del turns[turn]
        if not turns:
            del self._by_source[turn.source]

    def _advance(self) -> None:
        """Let those run whose turn it is."""
        while self._waiting:
            source, turns = next(iter(self._by_source.items()))
            turn = next(iter(turns))
            if turn.places > self._free:
                return
            self._take(turn)
            if turns:
                # The others come first now.
                del self._by_source[source]
                self._by_source[source] = turns
            self._watch(turn, turn.timeout)
            self._run(turn)

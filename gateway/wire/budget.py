"""A budget of bytes for the bodies that a server holds, and the pace at which they must come.

A body that is not here whole with its head has a reservation: of its announced size, or of what has come of
it. It is given back once the call is answered, or, where the caller hung up, once nothing works on it.
"""

from __future__ import annotations

import threading
import time
from collections import deque

# Larger bodies leave so much of a budget, as a divisor, to smaller ones.
_SMALL_BYTES = 1024 * 1024
_LEFT_TO_SMALL = 4
# A body must come at this pace on average, after a time in which it need not.
_GRACE_SECONDS = 10.0
_MIN_BYTES_PER_SECOND = 1024
# A long one must be here in this time besides: 64 MiB at 220 KB/s.
_LONGEST_SECONDS = 300.0
# While more than half of a budget is taken, bodies must come so many times as fast.
_HASTE = 5


class BudgetFull(Exception):
    """There is no room for another body now; its message is for the caller."""


class BodyBudget:
    """At most `limit` bytes of bodies at a time; safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._most = 0
        """The most that was reserved at a time since `take_peak` last told it."""
        self.refusals = 0
        """How often there was no room."""
        self._lock = threading.Lock()
        # A reservation may be given back by the garbage collector, within any line here: it takes no lock.
        self._returned: deque[int] = deque()

    @property
    def used(self) -> int:
        """How many bytes are reserved."""
        with self._lock:
            self._settle()
            return self._used

    @property
    def is_tight(self) -> bool:
        """Whether more than half of it is reserved."""
        return self.used * 2 > self.limit

    def take_peak(self) -> int:
        """Return the most that was reserved at a time since this last told it; 0 while anything is."""
        with self._lock:
            self._settle()
            if self._used:
                return 0
            most, self._most = self._most, 0
            return most

    def reserve(self, size: int, received: int = 0) -> Reservation:
        """Reserve bytes for a body, of which `received` bytes came before its pace counts.

        Raises:
            BudgetFull: when there is no room.
        """
        self.take(size, size)
        return Reservation(self, size, received)

    def take(self, size: int, total: int) -> None:
        """Reserve `size` bytes more for a body that has `total` with them. Raises BudgetFull."""
        room = self.limit if total <= _SMALL_BYTES else self.limit - self.limit // _LEFT_TO_SMALL
        with self._lock:
            self._settle()
            if self._used + size > room:
                self.refusals += 1
                raise BudgetFull(f"the bodies of other calls take {self._used} bytes now; ask again")
            self._used += size
            self._most = max(self._most, self._used)

    def give_back(self, size: int) -> None:
        """Make room; may be called from `__del__`."""
        self._returned.append(size)

    def _settle(self) -> None:
        while self._returned:
            self._used -= self._returned.popleft()


class Reservation:
    """The bytes of a budget that one body has; they are given back with `release`, or with this object."""

    __slots__ = ("_began", "_budget", "_received", "size")

    def __init__(self, budget: BodyBudget, size: int, received: int) -> None:
        self._budget = budget
        self.size = size
        self.restart(received)

    def resize(self, size: int) -> None:
        """Reserve another number of bytes. Raises BudgetFull."""
        if size > self.size:
            self._budget.take(size - self.size, size)
        else:
            self._budget.give_back(self.size - size)
        self.size = size

    def release(self) -> None:
        """Give all back. Safe to call twice."""
        size, self.size = self.size, 0
        if size:
            self._budget.give_back(size)

    def restart(self, received: int) -> None:
        """Count the pace from now on, with so many bytes received."""
        self._began = time.monotonic()
        self._received = received

    def is_slow(self, received: int, now: float) -> bool:
        """Whether a body of which so many bytes are here comes too slowly."""
        haste = _HASTE if self._budget.is_tight else 1
        seconds = now - self._began - _GRACE_SECONDS / haste
        pace = max(_MIN_BYTES_PER_SECOND, self.size / _LONGEST_SECONDS) * haste
        return seconds > 0 and received - self._received < seconds * pace

    def __del__(self) -> None:
        self.release()

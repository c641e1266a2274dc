"""What becomes of a model on a GPU when that fails: smaller batches for a time, or the end of its worker.

A run that finds no memory is tried again in halves, and batches stay that small for a time. A call that finds
none alone is answered with 503. Where none finds any for a time, not even calls that are no larger than one
that was answered before, the worker is replaced: engines keep memory that they do not use. After an error
that leaves the GPU lost to this process, that is so at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from runtimes.base import Array
from runtimes.device_errors import device_failure
from runtimes.errors import DeviceLost, DeviceOutOfMemory, InputError

SMALLER_SECONDS = 30.0
"""For how long batches stay smaller, until they may be twice as large again."""
_ENOUGH = 3
"""So many calls must have found no memory, one after the other, until the worker is replaced …"""
_ENOUGH_SECONDS = 5.0
"""… and the first of them so long ago."""


class DeviceHealth:
    """What the runs of one model say about its GPU; used by one thread at a time, and `failure` by any."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._largest = 0
        self._max_rows: int | None = None
        self._larger_from = 0.0
        self._without_memory = 0
        self._without_memory_since = 0.0
        self.failure = ""
        """Why the model is of no use any more, "" while it is."""
        self.is_lost = False
        """Whether it is so for an error after which all others fail."""

    def answered(self, inputs: Mapping[str, Array]) -> None:
        """Learn from a run that ended well."""
        self._largest = max(self._largest, _size(inputs))
        self._without_memory = 0

    def explained(
        self, failure: Exception, inputs: Mapping[str, Array], *, is_alone: bool
    ) -> Exception | None:
        """Learn from a run that failed; return what it says of the GPU, None where nothing.

        `is_alone` says that it was one call's.
        """
        if isinstance(failure, InputError):
            return None
        error = device_failure(failure)
        if isinstance(error, DeviceLost):
            self.failure, self.is_lost = str(error), True
        elif isinstance(error, DeviceOutOfMemory):
            if is_alone:
                self._note_without_memory(_size(inputs))
            else:
                self._make_smaller(inputs)
        return error

    def max_rows(self, usual: int) -> int:
        """Return how many rows a batch may have now, where `usual` is what it may have otherwise."""
        if self._max_rows is None:
            return usual
        now = self._clock()
        while self._max_rows < usual and now >= self._larger_from:
            self._max_rows *= 2
            self._larger_from += SMALLER_SECONDS
        if self._max_rows >= usual:
            self._max_rows = None
            return usual
        return self._max_rows

    def _make_smaller(self, inputs: Mapping[str, Array]) -> None:
        rows = max((array.shape[0] for array in inputs.values() if array.ndim), default=1)
        self._max_rows = max(1, min(rows, self._max_rows or rows) // 2)
        self._larger_from = self._clock() + SMALLER_SECONDS

    def _note_without_memory(self, size: int) -> None:
        if 0 < self._largest < size:
            # That it is too large says nothing about the worker.
            return
        now = self._clock()
        if not self._without_memory:
            self._without_memory_since = now
        self._without_memory += 1
        if self._without_memory >= _ENOUGH and now - self._without_memory_since >= _ENOUGH_SECONDS:
            self.failure = (
                f"{self._without_memory} calls in a row found no memory on the GPU, in "
                f"{now - self._without_memory_since:.0f} s"
            )


def _size(inputs: Mapping[str, Array]) -> int:
    return sum(array.nbytes for array in inputs.values())

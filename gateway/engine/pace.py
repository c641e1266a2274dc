"""Whether a model's calls are so quick that the event loop answers them itself.

To hand a call to the model's thread and its answer back costs tens of microseconds, more than a small model
takes. But a loop that runs a model does nothing else meanwhile, so it runs quick ones alone.
"""

from __future__ import annotations

# A call that takes this long is handed over.
_QUICK_SECONDS = 0.0005
# After a call that took this long, `_CALLS` calls must be quick in the thread before the loop runs one.
_SLOW_SECONDS = 0.002
_CALLS = 32
# A larger body takes long to decode, however quick the model is.
_LARGE_BYTES = 16384


class Pace:
    """Estimates how long the next call will take, from those that ran alone."""

    __slots__ = ("_mean_seconds", "_until_trusted")

    def __init__(self) -> None:
        self._mean_seconds = 0.0
        """Of about the last 32 calls."""
        self._until_trusted = _CALLS
        """How many calls must still be quick before the loop runs one."""

    def note(self, seconds: float) -> None:
        """Learn from a call."""
        self._mean_seconds += (seconds - self._mean_seconds) / _CALLS
        if seconds > _SLOW_SECONDS:
            self._until_trusted = _CALLS
        elif self._until_trusted:
            self._until_trusted -= 1

    def is_quick(self, size: int) -> bool:
        """Whether a call with a body of `size` bytes is to be answered on the loop."""
        return not self._until_trusted and self._mean_seconds < _QUICK_SECONDS and size < _LARGE_BYTES

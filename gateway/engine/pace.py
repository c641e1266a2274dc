"""Whether a model's calls are so quick that the event loop answers them itself.

To hand a call to the model's thread and its answer back costs tens of microseconds, which is more than a
small model takes. A loop that works on a call does nothing else meanwhile, so this is for quick calls alone.
"""

from __future__ import annotations

# A call that takes so long is worth being handed over.
_QUICK_SECONDS = 0.0003
# A loop that was held up for so long is not held up again before that many calls were quick elsewhere.
_SLOW_SECONDS = 0.001
_CALLS = 32
# Reading a larger body takes long, however quick the model is.
_LARGE_BYTES = 16384


class Pace:
    """Learns from each call that ran alone how long the next one will take."""

    __slots__ = ("_mean", "_wary")

    def __init__(self) -> None:
        self._mean = 0.0
        """Of about the last 32 calls, in seconds."""
        self._wary = _CALLS
        """How many calls must be quick before it is believed."""

    def note(self, seconds: float) -> None:
        """Learn from a call."""
        self._mean += (seconds - self._mean) / _CALLS
        if seconds > _SLOW_SECONDS:
            self._wary = _CALLS
        elif self._wary:
            self._wary -= 1

    def is_quick(self, size: int) -> bool:
        """Whether a call with a body of `size` bytes is to be answered on the loop."""
        return not self._wary and self._mean < _QUICK_SECONDS and size < _LARGE_BYTES

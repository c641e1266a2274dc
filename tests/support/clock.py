"""A clock that a test turns on."""

from __future__ import annotations


class Clock:
    """Seconds that stand still until a test adds some to `now`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

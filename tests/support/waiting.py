"""Waiting for what other threads do."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait(holds: Callable[[], bool], seconds: float = 10) -> None:
    """Until `holds()`; raises AssertionError when it takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)

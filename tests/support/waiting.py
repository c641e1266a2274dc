"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait(holds: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until `holds()`. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"this did not come to hold within {seconds} s"
        time.sleep(0.005)

"""The GPUs of this machine as they were a moment ago."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from gateway.gpus.devices import Gpus
from gateway.gpus.nvml import read_gpus

_FRESH_SECONDS = 10.0
# Where there is no driver, one may be loaded later; that is looked for seldom.
_NONE_SECONDS = 300.0


class GpuWatch:
    """The GPUs for who asks often: a thread of its own reads them, as a driver may take seconds, or hang.

    `read` is what asks for them.
    """

    def __init__(self, read: Callable[[], Gpus] = read_gpus) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._gpus = Gpus()
        self._told_at = float("-inf")
        self._is_asking = False

    def latest(self) -> Gpus:
        """Return what was told last, and have it be asked for anew where that is old."""
        now = time.monotonic()
        with self._lock:
            fresh = _NONE_SECONDS if self._gpus.trouble else _FRESH_SECONDS
            # A driver that hangs holds up no scrape, and is not asked a second time meanwhile.
            if not self._is_asking and now - self._told_at > fresh:
                self._is_asking = True
                threading.Thread(target=self._ask, name="gpus", daemon=True).start()
            return self._gpus

    def _ask(self) -> None:
        try:
            latest = self._read()
        except Exception as error:
            latest = Gpus(trouble=f"{type(error).__name__}: {error}")
        with self._lock:
            self._gpus, self._told_at, self._is_asking = latest, time.monotonic(), False

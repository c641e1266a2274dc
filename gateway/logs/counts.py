"""How many lines of trouble a process has logged, by level and event: for its metrics."""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter

MAX_EVENTS = 64
"""So many pairs of level and event are counted each by itself, and all later ones as `OTHER`."""
OTHER = "other"
"""The event of a line whose text is for people."""
_EVENT = re.compile(r"[a-z_]+(\.[a-z_]+)+")


class LineCounts:
    """Counts warnings and errors, also those that are not written; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, record: logging.LogRecord) -> None:
        """Count a line, unless it is no trouble."""
        if record.levelno < logging.WARNING:
            return
        level = "error" if record.levelno >= logging.ERROR else "warning"
        # The text before its arguments are put in, which callers may choose.
        kind = level, str(record.msg) if _EVENT.fullmatch(str(record.msg)) else OTHER
        with self._lock:
            if kind not in self._counts and len(self._counts) >= MAX_EVENTS:
                kind = level, OTHER
            self._counts[kind] += 1

    def totals(self) -> Counter[tuple[str, str]]:
        """Return the lines so far by level (`warning` or `error`) and event."""
        with self._lock:
            return self._counts.copy()

"""Lines that say again what was just said: counted, and told once with their number.

A registry that fails each second is one line at once, and then one a minute that says how often. Lines are
the same where their events, levels and fields are; of the field `reason` numbers do not count, as texts of
others have times and ids in them.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

REPEAT_SECONDS = 60.0
"""For so long, lines that are the same are one."""
REPEATS = "repeats"
"""The field that says how often a line came again since it was last written."""
_REASON = "reason"
_MAX_KINDS = 256
_MAX_COMPARED = 1000  # characters of each field
_NUMBERS = re.compile(r"[0-9a-fA-F-]{8,}|[0-9]+")


@dataclass(slots=True)
class _Repeated:
    """A record that was written at a moment, and how often it came again since; `last` is the latest."""

    last: logging.LogRecord
    written_at: float
    count: int = 0


class Repeats:
    """Tells which records are to be written. Not safe to use from several threads.

    Repeats of `_MAX_KINDS` records are counted at a time; others are all written.
    """

    def __init__(self, seconds: float = REPEAT_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._kinds: dict[Hashable, _Repeated] = {}

    def is_new(self, record: logging.LogRecord, fields: Mapping[str, object]) -> bool:
        """Tell whether a record is to be written; one that is not is counted."""
        kind = _kind(record, fields)
        repeated = self._kinds.get(kind)
        if repeated is None:
            if len(self._kinds) < _MAX_KINDS:
                self._kinds[kind] = _Repeated(record, self._clock())
            return True
        repeated.last = record
        repeated.count += 1
        return False

    @property
    def is_counting(self) -> bool:
        """Whether `take_due` has something to return, now or later."""
        return any(repeated.count for repeated in self._kinds.values())

    def take_due(self, *, is_over: bool = False) -> list[tuple[logging.LogRecord, int]]:
        """Return the records that came again and are to be written now, and how often they came.

        These are those that were last written long enough ago, or all where `is_over` is set.
        """
        now, due = self._clock(), []
        for kind, repeated in list(self._kinds.items()):
            if not is_over and now - repeated.written_at < self._seconds:
                continue
            if not repeated.count:
                del self._kinds[kind]
                continue
            due.append((repeated.last, repeated.count))
            repeated.written_at, repeated.count = now, 0
        return due


def _kind(record: logging.LogRecord, fields: Mapping[str, object]) -> Hashable:
    error = record.exc_info[1] if record.exc_info else None
    shown = {name: str(value)[:_MAX_COMPARED] for name, value in fields.items()}
    if _REASON in shown:
        shown[_REASON] = _NUMBERS.sub("#", shown[_REASON])
    message = record.getMessage()[:_MAX_COMPARED]
    return record.name, record.levelno, message, tuple(sorted(shown.items())), repr(error)[:_MAX_COMPARED]

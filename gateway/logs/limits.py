"""How many lines of one kind are written: enough to see what happens, and no flood of them in an outage."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

Logged = Literal["off", "errors", "all"]
"""Which calls are logged: none, those with trouble, or all; the config's `access_log`."""
BURST = 50
"""So many lines of a kind are written at once."""
PER_SECOND = 5.0
"""So many more are written later, on average."""
_MAX_KINDS = 256
_OTHERS = "others"


@dataclass(slots=True)
class _Allowance:
    lines: float
    counted_at: float


class LineLimiter:
    """Tells which lines are written, by kind, and how many of each kind were not.

    There are up to `_MAX_KINDS` kinds, as what is told apart may be what callers send; all later ones count
    as one. Not safe to use from several threads.
    """

    def __init__(
        self,
        burst: int = BURST,
        per_second: float = PER_SECOND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._allowances: dict[Hashable, _Allowance] = {}
        self._omitted: dict[Hashable, int] = {}

    def allows(self, kind: Hashable) -> bool:
        """Tell whether a line of this kind is to be written; one that is not is counted."""
        now = self._clock()
        if kind not in self._allowances and len(self._allowances) >= _MAX_KINDS:
            self._forget_quiet(now)
            kind = kind if len(self._allowances) < _MAX_KINDS else _OTHERS
        allowance = self._allowances.setdefault(kind, _Allowance(self._burst, now))
        allowance.lines = self._lines(allowance, now)
        allowance.counted_at = now
        if allowance.lines >= 1:
            allowance.lines -= 1
            return True
        self._omitted[kind] = self._omitted.get(kind, 0) + 1
        return False

    @property
    def has_omitted(self) -> bool:
        """Whether `take_omitted` has something to tell."""
        return bool(self._omitted)

    def take_omitted(self) -> Mapping[Hashable, int]:
        """Return how many lines of each kind were left out since the last time."""
        omitted, self._omitted = self._omitted, {}
        return omitted

    def _lines(self, allowance: _Allowance, now: float) -> float:
        return min(self._burst, allowance.lines + (now - allowance.counted_at) * self._per_second)

    def _forget_quiet(self, now: float) -> None:
        """Forget the kinds of which a whole burst may be written again."""
        self._allowances = {
            kind: allowance
            for kind, allowance in self._allowances.items()
            if self._lines(allowance, now) < self._burst
        }

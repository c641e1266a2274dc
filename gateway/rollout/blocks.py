"""Bets on blocks of windows: evidence that a worker's share of bad calls is over its limit, at any moment.

Each unit has a share X in [0, 1] and a bound m for its mean. A bet of `stake` multiplies the capital by
1 - stake + stake * X / m. While the mean of X, given what was before, is m at most, no factor gains anything
on average, so the capital ever exceeds 1/a with a probability of at most a (Ville 1939, "Etude critique de la
notion de collectif"). It is the mean over several stakes (Waudby-Smith, Ramdas 2024, "Estimating means of
bounded random variables by betting", JRSS B 86). The capitals of several workers are averaged, which holds
however they depend on each other (Vovk, Wang 2021, "E-values: calibration, combination and applications",
Annals of Statistics 49).

Windows that follow each other are not independent where a worker has slow spells. So a unit is a block of
windows, and a gap follows that does not count (Bernstein 1927, "Sur l'extension du theoreme limite du calcul
des probabilites aux sommes de quantites dependantes"): a spell shorter than the gap touches one unit alone.
Where no spell has been seen, units are single windows, and the gain of each is capped, so that a first spell
of a few windows decides nothing; a cap only lowers X, so the bound stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

STAKES = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98)
LONG_BLOCK, LONG_GAP = 6, 9
"""Windows of a block, and of the gap behind it, where little is known or calls are few: 3 s, and 4.5 s."""


@dataclass(frozen=True, slots=True)
class Spacing:
    """How windows become units: `block` windows count and `gap` do not, in turn.

    A unit gains `cap` times its stake at most; 0 is no cap. One that has fewer than `minimum` calls goes on,
    to the length of a long block, and then it has no cap but a long gap.
    """

    block: int = LONG_BLOCK
    gap: int = LONG_GAP
    cap: float = 0.0
    minimum: int = 5


@dataclass(frozen=True, slots=True)
class Capital:
    """What bets on one worker's units have come to, and the unit that is still open.

    `logs` are the logarithms of the capitals, by stake. `free` is the first window that counts again after a
    gap. The open unit began with the window `start` and sums up `windows` shares and bounds.
    """

    logs: tuple[float, ...] = (0.0,) * len(STAKES)
    counted: int = 0
    """The windows of all units that are over."""
    calls: int = 0
    """The calls of these windows."""
    free: int = 0
    start: int = 0
    windows: int = 0
    open_calls: int = 0
    share: float = 0.0
    bound: float = 0.0

    @property
    def log(self) -> float:
        """The logarithm of the capital."""
        return log_mean(self.logs)

    def bet(self, spacing: Spacing, index: int, share: float, bound: float, calls: int) -> Capital:
        """Return the capital after a window of `calls` calls; windows come in the order of their indices."""
        capital = self
        longest = max(spacing.block, LONG_BLOCK)
        if capital.windows and index - capital.start >= longest:
            # Too few calls, and no window since: the unit has been over for a while.
            capital = capital._close_long(spacing, longest)
        if not capital.windows and index < capital.free:
            return capital
        capital = replace(
            capital,
            start=capital.start if capital.windows else index,
            windows=capital.windows + 1,
            open_calls=capital.open_calls + calls,
            share=capital.share + share,
            bound=capital.bound + bound,
        )
        length = index - capital.start + 1
        if length >= spacing.block and capital.open_calls >= spacing.minimum:
            return capital._close(spacing.cap, index + 1 + spacing.gap)
        return capital._close_long(spacing, longest) if length >= longest else capital

    def _close_long(self, spacing: Spacing, longest: int) -> Capital:
        return self._close(0.0, self.start + longest + max(spacing.gap, LONG_GAP))

    def _close(self, cap: float, free: int) -> Capital:
        ratio = self.share / self.bound
        if cap:
            ratio = min(ratio, cap)
        logs = tuple(
            log + math.log1p(stake * (ratio - 1)) for log, stake in zip(self.logs, STAKES, strict=True)
        )
        return Capital(logs, self.counted + self.windows, self.calls + self.open_calls, free)


def log_mean(logs: Iterable[float]) -> float:
    """Return the logarithm of the mean of numbers that are given by their logarithms; of none, 0."""
    logs = tuple(logs)
    if not logs:
        return 0.0
    largest = max(logs)
    return largest + math.log(sum(math.exp(log - largest) for log in logs) / len(logs))

"""Tests of means that may be made after every pair, and stopped at any; sums alone are kept.

They bet against "the mean is `limit` at most". A bet of `stake` multiplies the capital by 1 + stake * excess
for each value, `excess` being how far it is over the limit, as a share of the range below the limit. If the
mean keeps the limit, no multiplication gains anything on average, so the capital ever exceeds 1/a with a
probability of at most a (Ville 1939), at whatever moments one looks. It is the mean over several stakes
(Waudby-Smith, Ramdas 2024, "Estimating means of bounded random variables by betting", section 4).

Of pairs, a value is 1 where the canary's answer alone has a fault, -1 where the stable version's alone has it
and 0 else: a sign test on the discordant pairs, as McNemar's (1947), with a margin. The capital depends on
the counts of the three alone.

Of other values, 1 + stake * excess is not a function of sums. It is at least
exp(stake * excess + (log(1 - stake) + stake) * excess**2) for any excess of -1 or more (Fan, Grama, Liu 2015,
"Exponential inequalities for martingales with applications", inequality 4.11), the way to an empirical
Bernstein bound (Howard, Ramdas, McAuliffe, Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic
confidence sequences", theorem 4). That is one of the sum and the sum of squares.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gateway.rollout.sequential import LogEvidence

# As shares of the largest stake that can never lose everything.
_STAKES = (0.01, 0.03, 0.06, 0.12, 0.25, 0.4, 0.6, 0.8, 0.95)
_BISECTIONS = 40


@dataclass(frozen=True, slots=True)
class Signs:
    """How many values are 1 and how many -1, of `total` values; the others are 0."""

    plus: int
    minus: int
    total: int

    def __neg__(self) -> Signs:
        return Signs(self.minus, self.plus, self.total)

    @property
    def mean(self) -> float:
        """The mean of the values; NaN without any."""
        return (self.plus - self.minus) / self.total if self.total else math.nan


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over values that are between -`bound` and `bound`."""

    count: int
    total: float
    squares: float
    bound: float

    def __neg__(self) -> Sums:
        return Sums(self.count, -self.total, self.squares, self.bound)

    @property
    def mean(self) -> float:
        """The mean of the values; NaN without any."""
        return self.total / self.count if self.count else math.nan


def evidence_above(values: Signs | Sums, limit: float) -> float:
    """Return the logarithm of the evidence that the mean is above `limit`; 0 is none."""
    log_capital = _log_capital_of_signs if isinstance(values, Signs) else _log_capital_of_sums
    return max(0.0, log_capital(values, limit))  # type: ignore[arg-type]  # each by its own kind


def weigh_mean(values: Signs | Sums, limit: float) -> LogEvidence:
    """Weigh the evidence on whether the mean is above or below `limit`."""
    return LogEvidence(evidence_above(values, limit), evidence_above(-values, -limit))


def weigh_distance(values: Signs, limit: float) -> LogEvidence:
    """Weigh the evidence on whether the mean is farther from 0 than `limit`, in either direction.

    To be nearer, it must be nearer in both.
    """
    up, down = weigh_mean(values, limit), weigh_mean(-values, limit)
    return LogEvidence(max(0.0, _log_mean((up.above, down.above))), min(up.below, down.below))


def interval(values: Sums, chance: float) -> tuple[float, float]:
    """Return bounds of the mean that hold at all moments together, but for `chance`.

    The lower bound is over a limit when the evidence that the mean is above that limit exceeds 2 / chance.
    """
    threshold = math.log(2 / chance)
    lower = _largest(lambda limit: evidence_above(values, limit) > threshold, values.bound)
    upper = -_largest(lambda limit: evidence_above(-values, limit) > threshold, values.bound)
    return lower, upper


def _largest(is_exceeded: Callable[[float], bool], bound: float) -> float:
    """Return the largest limit within the bounds that is exceeded, the lowest where none is."""
    low, high = -bound, bound
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_exceeded(middle) else (low, middle)
    return low


def _log_capital_of_signs(signs: Signs, limit: float) -> float:
    """Return the capital exactly: a value of -1 is the farthest below the limit."""
    zeros = signs.total - signs.plus - signs.minus
    unit = 1 + limit
    return _log_mean(
        tuple(
            signs.plus * math.log1p(stake * (1 - limit) / unit)
            + signs.minus * math.log1p(-stake)
            + zeros * math.log1p(-stake * limit / unit)
            for stake in _STAKES
        )
    )


def _log_capital_of_sums(sums: Sums, limit: float) -> float:
    unit = sums.bound + limit
    if unit <= 0:
        return 0.0
    excess = (sums.total - sums.count * limit) / unit
    squares = (sums.squares - 2 * limit * sums.total + sums.count * limit**2) / unit**2
    return _log_mean(tuple(stake * excess + (math.log1p(-stake) + stake) * squares for stake in _STAKES))


def _log_mean(logs: tuple[float, ...]) -> float:
    largest = max(logs)
    return largest + math.log(sum(math.exp(log - largest) for log in logs) / len(logs))

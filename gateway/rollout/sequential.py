"""Tests of rates that may be looked at after every call, and stopped at any.

A fixed-size test that is looked at each second is wrong far more often than it says. These are built
on martingales instead. Under a true rate p, the ratio of a mixture of likelihoods to the likelihood of
p has expectation 1 at every moment, so it ever exceeds 1/a with probability a at most (Ville 1939).
The mixture is over a beta distribution (Robbins 1970, "Statistical methods related to the law of the
iterated logarithm"; Howard, Ramdas, McAuliffe, Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic
confidence sequences", section 4.2); for a null hypothesis that is a set of rates, the largest
likelihood in the set divides (Wasserman, Ramdas, Balakrishnan 2020, "Universal inference"). For the
difference of two rates that is the likelihood on the boundary, whose place has a closed form
(Miettinen, Nurminen 1985, "Comparative analysis of two rates", appendix).

Counts may be sums of shares between 0 and 1: such a variable's ratio has expectation 1 at most, as the
likelihood is convex in it. All results depend on sums alone, so sums are all that is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_FLAT = (0.5, 0.5)
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Rate:
    """`hits` in `trials`; hits need not be whole."""

    hits: float
    trials: float

    @property
    def share(self) -> float:
        """The observed rate; NaN without trials."""
        return self.hits / self.trials if self.trials else math.nan


@dataclass(frozen=True, slots=True)
class LogEvidence:
    """The logarithms of the evidence that a rate is above its limit, and that it is below; 0 is none."""

    above: float
    below: float


def weigh(rate: Rate, limit: float) -> LogEvidence:
    """Weigh the evidence on whether a rate is above or below `limit` (0 < limit < 1)."""
    bound = _log_likelihood(rate, limit)
    if rate.hits > limit * rate.trials:
        return LogEvidence(max(0.0, _log_mixture(rate, *_FLAT) - bound), 0.0)
    return LogEvidence(0.0, max(0.0, _log_mixture(rate, *_near(limit)) - bound))


def weigh_difference(rate: Rate, base: Rate, margin: float, scale: float) -> LogEvidence:
    """Weigh the evidence on whether `rate` exceeds `base` by more than `margin`, or by less.

    `scale` is a guess at the rates: the nearer it comes, the sooner there is evidence.
    """
    if not rate.trials or not base.trials:
        return LogEvidence(0.0, 0.0)
    first, second = _boundary(rate, base, margin)
    bound = _log_likelihood(rate, first) + _log_likelihood(base, second)
    near = _near(scale)
    apart_base = _log_mixture(base, *near)
    if rate.share > base.share + margin:
        return LogEvidence(max(0.0, _log_mixture(rate, *_FLAT) + apart_base - bound), 0.0)
    apart = _log_mixture(rate, *near) + apart_base
    alike = _log_mixture(Rate(rate.hits + base.hits, rate.trials + base.trials), *near)
    return LogEvidence(0.0, max(0.0, _log_mean(apart, alike) - bound))


def p_value(evidence: float) -> float:
    """Return the p-value of a logarithm of evidence; it holds at any moment."""
    return min(1.0, math.exp(-evidence))


def _near(rate: float) -> tuple[float, float]:
    """Return the parameters of a beta distribution over rates of the size of `rate`."""
    return 0.5, 0.5 / rate


def _log_mixture(rate: Rate, a: float, b: float) -> float:
    hits, misses = rate.hits, rate.trials - rate.hits
    return _log_beta(a + hits, b + misses) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_likelihood(rate: Rate, p: float) -> float:
    misses = rate.trials - rate.hits
    hit = rate.hits * math.log(p) if rate.hits and p > 0 else (-math.inf if rate.hits else 0.0)
    miss = misses * math.log1p(-p) if misses and p < 1 else (-math.inf if misses else 0.0)
    return hit + miss


def _log_mean(one: float, other: float) -> float:
    larger = max(one, other)
    return larger + math.log((math.exp(one - larger) + math.exp(other - larger)) / 2)


def _boundary(rate: Rate, base: Rate, margin: float) -> tuple[float, float]:
    """Return the likeliest two rates of which the first is greater by `margin` exactly."""
    if not margin:
        pooled = (rate.hits + base.hits) / (rate.trials + base.trials)
        return pooled, pooled
    low, high = 0.0, 1.0 - margin
    start = _cubic_root(rate, base, margin)
    # The closed form loses digits where rates are tiny; a few steps of Newton's method bring them back.
    second = min(max(start - margin, low + _TINY), high - _TINY)
    for _ in range(3):
        slope, bend = 0.0, 0.0
        for counts, p in ((rate, second + margin), (base, second)):
            misses = counts.trials - counts.hits
            slope += counts.hits / p - misses / (1 - p)
            bend -= counts.hits / p**2 + misses / (1 - p) ** 2
        if not bend:
            break
        second = min(max(second - slope / bend, low + _TINY), high - _TINY)
    return second + margin, second


def _cubic_root(rate: Rate, base: Rate, margin: float) -> float:
    """Return the first rate, by Miettinen and Nurminen's closed form."""
    theta = base.trials / rate.trials
    one, two = rate.share, base.share
    a = 1 + theta
    b = -(1 + theta + one + theta * two + margin * (theta + 2))
    c = margin**2 + margin * (2 * one + theta + 1) + one + theta * two
    d = -one * margin * (1 + margin)
    v = (b / (3 * a)) ** 3 - b * c / (6 * a * a) + d / (2 * a)
    u = math.copysign(math.sqrt(max(0.0, (b / (3 * a)) ** 2 - c / (3 * a))), v)
    w = (math.pi + math.acos(min(1.0, max(-1.0, v / u**3 if u else 0.0)))) / 3
    return 2 * u * math.cos(w) - b / (3 * a)

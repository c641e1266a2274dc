"""Sequential tests of rates: right at any moment, and exact where they can be checked by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gateway.rollout.sequential import Rate, p_value, weigh, weigh_difference
from gateway.rollout.sequential import _boundary as boundary
from gateway.rollout.sequential import _log_likelihood as log_likelihood


def test_no_calls_are_no_evidence() -> None:
    for evidence in (
        weigh(Rate(0, 0), 0.01),
        weigh_difference(Rate(0, 0), Rate(0, 100), 0.01, 0.01),
        weigh_difference(Rate(3, 3), Rate(0, 0), 0.01, 0.01),
    ):
        assert (evidence.above, evidence.below) == (0, 0)


def test_the_evidence_grows_with_the_calls_and_points_one_way() -> None:
    bad = [weigh_difference(Rate(n * 0.05, n), Rate(n * 0.1, 10 * n), 0.01, 0.01) for n in (100, 400, 1600)]
    assert [evidence.below for evidence in bad] == [0, 0, 0]
    assert bad[0].above < bad[1].above < bad[2].above
    good = [weigh_difference(Rate(0, n), Rate(0, 10 * n), 0.01, 0.01) for n in (400, 800, 1600)]
    assert [evidence.above for evidence in good] == [0, 0, 0]
    assert good[0].below < good[1].below < good[2].below


def test_two_failures_in_two_calls_are_clear_where_none_may_fail() -> None:
    assert p_value(weigh_difference(Rate(2, 2), Rate(0, 500), 0.01, 0.01).above) < 0.001


@pytest.mark.parametrize("seed", range(40))
def test_the_boundary_is_the_likeliest_point_on_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    trials, margin = 10 ** random.uniform(0, 4, 2), float(10 ** random.uniform(-3, -0.5))
    rates = [Rate(int(random.binomial(int(n), 10 ** random.uniform(-4, 0))), int(n)) for n in trials]
    first, second = boundary(rates[0], rates[1], margin)
    assert first - second == pytest.approx(margin)
    best = log_likelihood(rates[0], first) + log_likelihood(rates[1], second)
    for other in np.linspace(0, 1 - margin, 2001)[1:-1]:
        assert log_likelihood(rates[0], other + margin) + log_likelihood(rates[1], other) <= best + 1e-6


def peeks(random: np.random.Generator, rate: float, calls: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Failures so far after each of a run of calls."""
    return np.cumsum(random.random(calls) < rate)


def test_looking_after_every_call_does_not_make_it_wrong() -> None:
    """A rate right at its limit is called worse, or better, in no more runs than promised."""
    random, runs, alarm = np.random.default_rng(11), 300, 0.05
    worse = better = 0
    for _ in range(runs):
        failures = peeks(random, 0.05, 600)
        looks = [weigh(Rate(int(k), n + 1), 0.05) for n, k in enumerate(failures)]
        worse += any(p_value(look.above) <= alarm for look in looks)
        better += any(p_value(look.below) <= alarm for look in looks)
    assert worse <= runs * alarm
    assert better <= runs * alarm


def test_a_difference_right_at_its_margin_is_rarely_called_anything() -> None:
    random, runs, alarm = np.random.default_rng(5), 300, 0.05
    worse = better = 0
    for _ in range(runs):
        canary, stable = peeks(random, 0.06, 300), peeks(random, 0.03, 1200)
        looks = [
            weigh_difference(Rate(int(canary[n]), n + 1), Rate(int(stable[4 * n + 3]), 4 * n + 4), 0.03, 0.03)
            for n in range(300)
        ]
        worse += any(p_value(look.above) <= alarm for look in looks)
        better += any(p_value(look.below) <= alarm for look in looks)
    assert worse <= runs * alarm
    assert better <= runs * alarm


def test_shares_count_like_hits() -> None:
    assert weigh(Rate(10.5, 40), 0.05).above > weigh(Rate(10, 40), 0.05).above
    assert math.isfinite(weigh(Rate(0.25, 1), 0.05).above)

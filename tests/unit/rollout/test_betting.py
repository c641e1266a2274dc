"""Tests of means that may be made after every pair: how often they are wrong, and how soon they are right."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gateway.rollout.betting import Signs, Sums, evidence_above, interval, weigh_distance, weigh_mean
from gateway.rollout.sequential import LogEvidence

ALARM = math.log(100)
FALSE_ALARM = math.log(100 * 3 * 8)
"""That of each of eight checks in a rollout of three steps."""
PAIRS = 1500
LOOKS = sorted({*range(1, 40), *np.geomspace(40, PAIRS, 60).astype(int).tolist()})


def _walks(canary: float, stable: float, walks: int, seed: int) -> np.ndarray:
    """Return the counts of discordant pairs at each look: [walks, looks, (canary alone, stable alone)]."""
    random = np.random.default_rng(seed)
    of_canary = random.random((walks, PAIRS)) < canary
    of_stable = random.random((walks, PAIRS)) < stable
    counts = np.stack([of_canary & ~of_stable, of_stable & ~of_canary], axis=2).cumsum(axis=1)
    return np.asarray(counts[:, [look - 1 for look in LOOKS]])


def _ends(
    walks: np.ndarray, limit: float, is_distance: bool = False, alarm: float = ALARM
) -> list[tuple[str, int]]:
    """Return how each walk ends at the first look with clear evidence, and after how many pairs."""
    weigh = weigh_distance if is_distance else weigh_mean
    ends = []
    for walk in walks:
        end = ("unknown", PAIRS)
        for look, (canary, stable) in zip(LOOKS, walk.tolist(), strict=True):
            evidence = weigh(Signs(canary, stable, look), limit)
            if evidence.above > alarm or evidence.below > ALARM:
                end = ("above" if evidence.above > alarm else "below", look)
                break
        ends.append(end)
    return ends


def _share(ends: list[tuple[str, int]], outcome: str) -> float:
    return sum(end == outcome for end, _ in ends) / len(ends)


@pytest.mark.parametrize("is_distance", [False, True])
@pytest.mark.parametrize(("rate", "limit"), [(0.0, 0.03), (0.02, 0.03), (0.3, 0.1)])
def test_equal_versions_are_hardly_ever_told_apart(rate: float, limit: float, is_distance: bool) -> None:
    ends = _ends(_walks(rate, rate, 150, seed=1), limit, is_distance)
    assert _share(ends, "above") <= 0.01


@pytest.mark.parametrize(("canary", "stable", "limit"), [(0.03, 0.0, 0.03), (0.4, 0.3, 0.1)])
def test_a_canary_at_its_limit_is_wrongly_judged_at_most_as_often_as_stated(
    canary: float, stable: float, limit: float
) -> None:
    """The limit itself is the worst case; each of 500 walks is wrong with a chance of 1 %."""
    ends = _ends(_walks(canary, stable, 500, seed=2), limit)
    assert _share(ends, "above") <= 0.02
    assert _share(ends, "below") <= 0.02


@pytest.mark.parametrize(
    ("canary", "stable", "limit", "end", "median"),
    [
        (0.0, 0.0, 0.03, "below", 222),
        (0.01, 0.01, 0.03, "below", 387),
        (0.2, 0.2, 0.1, "below", 357),
        (0.1, 0.0, 0.03, "above", 264),
        (0.2, 0.0, 0.03, "above", 93),
        (1.0, 0.0, 0.03, "above", 16),
        (0.5, 0.2, 0.1, "above", 206),
    ],
)
def test_verdicts_come_after_as_many_pairs_as_the_docs_say(
    canary: float, stable: float, limit: float, end: str, median: float
) -> None:
    ends = _ends(_walks(canary, stable, 100, seed=3), limit, alarm=FALSE_ALARM)
    assert _share(ends, end) >= (1.0 if end == "above" else 0.97)
    assert np.median([look for _, look in ends]) == pytest.approx(median, rel=0.12)


def test_a_canary_without_faults_passes_as_soon_as_the_limit_allows() -> None:
    assert weigh_mean(Signs(0, 0, 220), 0.03).below < ALARM < weigh_mean(Signs(0, 0, 221), 0.03).below
    assert weigh_mean(Signs(0, 0, 70), 0.1).below > ALARM


def test_a_shift_is_seen_in_either_direction() -> None:
    up, down = Signs(80, 2, 200), Signs(2, 80, 200)
    assert weigh_distance(up, 0.1).above == pytest.approx(weigh_distance(down, 0.1).above)
    assert weigh_distance(up, 0.1).above > ALARM
    assert weigh_mean(down, 0.1).above == 0.0
    assert weigh_distance(Signs(30, 30, 900), 0.1).below > ALARM
    assert weigh_distance(Signs(120, 30, 900), 0.1).below == pytest.approx(0.0, abs=1)


def test_no_pairs_are_no_evidence() -> None:
    assert weigh_mean(Signs(0, 0, 0), 0.03) == LogEvidence(0.0, 0.0)
    assert weigh_distance(Signs(0, 0, 0), 0.03) == LogEvidence(0.0, 0.0)
    assert weigh_mean(Sums(0, 0.0, 0.0, 1.0), 0.1) == LogEvidence(0.0, 0.0)
    assert math.isnan(Signs(0, 0, 0).mean)
    low, high = interval(Sums(0, 0.0, 0.0, 1.0), 0.02)
    assert [low, high] == pytest.approx([-1, 1])


def _sums(values: np.ndarray) -> Sums:
    return Sums(len(values), float(values.sum()), float((values**2).sum()), 1.0)


def test_the_bounds_of_a_mean_hold_at_all_moments() -> None:
    """200 series of 400 values, of a skewed distribution whose mean is known."""
    random = np.random.default_rng(4)
    misses = 0
    for _ in range(200):
        values = np.where(random.random(400) < 0.1, 1.0, -1 / 90)
        bounds = [interval(_sums(values[:look]), 0.02) for look in (5, 10, 20, 50, 100, 200, 400)]
        misses += any(not low <= 0.09 <= high for low, high in bounds)
    assert misses / 200 <= 0.03


def test_the_bounds_close_in_on_the_mean_and_meet_the_evidence() -> None:
    random = np.random.default_rng(5)
    values = np.clip(random.normal(0.02, 0.05, 2000), -1, 1)
    few, many = interval(_sums(values[:100]), 0.02), interval(_sums(values), 0.02)
    assert few[0] < many[0] < 0.02 < many[1] < few[1]
    assert many[1] - many[0] < 0.02
    assert evidence_above(_sums(values), many[0]) == pytest.approx(math.log(100), abs=1e-3)


@pytest.mark.parametrize(
    ("mean", "deviation", "outcome", "pairs"),
    [(-0.003, 0.02, "below", 100), (0.5, 0.3, "above", 60), (0.3, 0.2, "above", 100)],
)
def test_a_loss_is_judged_after_few_pairs(mean: float, deviation: float, outcome: str, pairs: int) -> None:
    """Means and deviations as measured of one model in another precision, and with noise in its weights."""
    values = np.clip(np.random.default_rng(6).normal(mean, deviation, pairs), -1, 1)
    evidence = weigh_mean(_sums(values), 0.1)
    assert getattr(evidence, outcome) > ALARM
    assert min(evidence.above, evidence.below) < 1

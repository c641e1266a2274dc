"""What the stable version's past says: how long blocks must be, what is slow, and what cannot be judged."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gateway.metrics.counts import BUCKETS
from gateway.rollout.blocks import LONG_BLOCK, LONG_GAP
from gateway.rollout.calibration import UNKNOWN_ERRORS, Calibration, calibrate, slow_count, slow_parts
from gateway.rollout.evidence import Durations, Side
from gateway.rollout.plan import Checks
from gateway.rollout.units import WINDOW_SECONDS, History, Window

CHECKS = Checks(max_latency_ratio=1.5)
CALLS = 40


def history(spells: list[tuple[int, int]], windows: int = 600, are_shared: bool = False) -> History:
    """Return windows of three workers; the first, or all, is slow and fails in each of the spells."""
    random = np.random.default_rng(1)
    rows = []
    for index in range(windows):
        for worker in range(3):
            is_bad = (worker == 0 or are_shared) and any(first <= index < end for first, end in spells)
            counts = np.zeros(len(BUCKETS) + 1, int)
            slow = CALLS if is_bad else int(random.binomial(CALLS, 0.03))
            counts[4], counts[7] = CALLS - slow, slow
            errors = CALLS // 2 if is_bad else int(random.binomial(CALLS, 0.001))
            rows.append(Window(f"w{worker}", index, Side(CALLS, errors, tuple(counts.tolist()))))
    return History(tuple(rows))


def calibrated(past: History) -> Calibration:
    return calibrate(CHECKS, False, past, 30.0, 0.001)


def test_steady_workers_are_judged_window_by_window_with_a_cap() -> None:
    calibration = calibrated(history([]))
    for check in ("error_rate", "latency"):
        spacing = calibration.spacings[check]
        assert (spacing.block, spacing.gap, spacing.cap > 0) == (1, 0, True)
    assert not calibration.unsteady


def test_spells_of_a_worker_ask_for_blocks_and_gaps_longer_than_they_are() -> None:
    calibration = calibrated(history([(first, first + 6) for first in range(20, 580, 100)]))
    for check in ("error_rate", "latency"):
        spacing = calibration.spacings[check]
        assert 3 <= spacing.block <= 12, check
        assert spacing.gap >= 1.5 * spacing.block
        assert spacing.cap == 0
    assert not calibration.unsteady


def test_what_all_workers_share_is_no_spell_of_one() -> None:
    calibration = calibrated(history([(first, first + 6) for first in range(20, 580, 100)], are_shared=True))
    assert calibration.spacings["error_rate"].block == 1


def test_with_little_history_blocks_are_long() -> None:
    for past in (History(), history([], windows=100)):
        spacing = calibrated(past).spacings["latency"]
        assert (spacing.block, spacing.gap, spacing.cap) == (LONG_BLOCK, LONG_GAP, 0)


def test_with_little_history_failures_are_judged_by_seconds_that_a_gap_keeps_apart() -> None:
    for past in (History(), history([], windows=100)):
        assert calibrated(past).spacings["error_rate"] == UNKNOWN_ERRORS
    assert UNKNOWN_ERRORS.block < LONG_BLOCK
    assert UNKNOWN_ERRORS.gap * WINDOW_SECONDS == 3
    assert not UNKNOWN_ERRORS.cap
    spells = calibrated(history([(20, 26), (60, 66)], windows=100)).spacings["error_rate"]
    assert (spells.block, spells.gap) >= (LONG_BLOCK, LONG_GAP)


def test_a_worker_that_is_worse_for_minutes_leaves_nothing_to_judge_by() -> None:
    calibration = calibrated(history([(100, 900)], windows=1200))
    assert calibration.unsteady == ("error_rate",), "its slow calls are many enough to be what is usual"


def test_a_step_without_an_end_is_calibrated_as_a_long_one() -> None:
    past = history([], windows=200)
    assert calibrate(CHECKS, False, past, math.inf, 0.001) == calibrate(CHECKS, False, past, 3600.0, 0.001)


def test_what_is_slow_comes_from_the_past() -> None:
    past = history([])
    bases = calibrated(past).bases
    counts = np.sum([window.side.latency for window in past.windows], axis=0)
    whole = Durations(tuple(counts.tolist()), BUCKETS)
    assert bases["latency"] == pytest.approx(whole.quantile(0.95))


@pytest.mark.parametrize("seconds", [1e-6, 0.0017, 0.0025, 40.0])
def test_parts_of_buckets_count_as_durations_do(seconds: float) -> None:
    counts = tuple(range(1, len(BUCKETS) + 2))
    parts = slow_parts(BUCKETS, seconds)
    assert slow_count(parts, counts) == pytest.approx(Durations(counts, BUCKETS).longer_than(seconds))

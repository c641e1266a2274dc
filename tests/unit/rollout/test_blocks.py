"""Bets on blocks of windows: what counts, what gaps leave out, and how often an equal share is wronged."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gateway.rollout.blocks import LONG_BLOCK, LONG_GAP, STAKES, Capital, Spacing, log_mean

SINGLE = Spacing(block=1, gap=0, cap=3.5)


def bets(spacing: Spacing, shares: list[float], bound: float = 0.05, calls: int = 12) -> Capital:
    capital = Capital()
    for index, share in enumerate(shares):
        capital = capital.bet(spacing, index, share, bound, calls)
    return capital


def test_a_capital_grows_by_bad_windows_and_shrinks_by_good_ones() -> None:
    assert Capital().log == pytest.approx(0)
    assert bets(SINGLE, [0.0] * 10).log < 0 < bets(SINGLE, [0.1] * 10).log


def test_a_first_spell_of_six_windows_ends_no_rollout_and_seven_do() -> None:
    alarm = 0.01 / 9
    assert bets(SINGLE, [1.0] * 6).log < math.log(1 / alarm) < bets(SINGLE, [1.0] * 7).log


def test_the_windows_of_a_gap_do_not_count() -> None:
    spacing = Spacing(block=2, gap=3)
    capital = bets(spacing, [0.0, 0.0, 1.0, 1.0, 1.0] * 4)
    assert capital.log == bets(spacing, [0.0] * 20).log
    assert (capital.counted, capital.calls) == (8, 96)


def test_a_unit_of_few_calls_goes_on_to_the_length_of_a_long_block_and_has_a_long_gap() -> None:
    capital = bets(SINGLE, [1.0] * LONG_BLOCK, calls=0)
    assert capital.log == pytest.approx(log_mean(math.log1p(stake * 19) for stake in STAKES))
    assert capital.free == LONG_BLOCK + LONG_GAP
    assert capital.bet(SINGLE, capital.free - 1, 1.0, 0.05, 12) == capital


def test_calls_a_minute_apart_are_a_unit_each() -> None:
    capital = Capital()
    for minute in range(1, 5):
        capital = capital.bet(SINGLE, 120 * minute, 1.0, 0.05, 1)
    assert capital.counted == 3, "the last one is still open"
    assert capital.log > math.log(900)


@pytest.mark.parametrize("spacing", [SINGLE, Spacing(block=1, gap=0), Spacing(block=3, gap=2)])
def test_a_share_at_its_limit_is_hardly_ever_wronged(spacing: Spacing) -> None:
    random, alarm, runs = np.random.default_rng(5), 0.05, 300
    failures = 0
    for _ in range(runs):
        capital = Capital()
        for index, hits in enumerate(random.binomial(20, 0.05, 120).tolist()):
            capital = capital.bet(spacing, index, hits / 20, 0.05, 20)
            if capital.log >= math.log(1 / alarm):
                failures += 1
                break
    assert failures <= alarm * runs

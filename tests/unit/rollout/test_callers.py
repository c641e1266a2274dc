"""Callers as units: each is compared with itself, and looks share out the chance of a false alarm."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from gateway.rollout.callers import MAX_LOOKS, Callers
from gateway.rollout.units import MAX_TRIAL_CALLERS, CallerCounts

NUMBER = 60


def table(
    failing: set[int], numbers: range, seconds: float = 0.002, calls: int = 20
) -> dict[str, CallerCounts]:
    return {
        f"c{number}": CallerCounts(calls, calls * (number in failing), calls * math.log(seconds))
        for number in numbers
    }


BEFORE = table({3, 40}, range(NUMBER))
STABLE, CANARY = range(30), range(30, NUMBER)


def looked(canary: dict[str, CallerCounts], seconds: float = 10.0) -> Callers:
    return Callers(before=BEFORE).with_counts(table({3}, STABLE), canary).look(seconds, 0.01, 1.5)


def test_a_caller_that_has_always_failed_is_not_held_against_the_canary() -> None:
    callers = looked(table({40}, CANARY))
    assert max(callers.errors, callers.latency) <= 0
    assert callers.failures_beyond_own(callers.canary) == 0


def test_callers_who_fail_or_wait_since_they_are_at_the_canary_are_evidence() -> None:
    assert looked(table(set(range(35, 45)), CANARY)).errors > math.log(2000)
    slow = looked(table({40}, CANARY, seconds=0.006))
    assert slow.latency > math.log(2000)
    assert slow.errors <= 0


def test_looks_come_ever_more_seldom_and_each_costs_more() -> None:
    callers = looked(table({40}, CANARY), seconds=4.5)
    assert callers.looks == 0
    for seconds, looks in ((5.0, 1), (9.5, 1), (10.0, 2), (15.0, 2), (20.0, 3), (39.5, 3), (40.0, 4)):
        callers = callers.look(seconds, 0.01, 1.5)
        assert callers.looks == looks


def test_callers_who_all_fail_are_clear_after_five_seconds_and_no_chance_is_spent_twice() -> None:
    assert looked(table(set(CANARY), CANARY), seconds=5.0).errors > math.log(2000)
    callers, spent, gain = Callers().with_counts(table(set(), STABLE), table(set(CANARY), CANARY)), 0.0, None
    for look in range(MAX_LOOKS + 5):
        seen = replace(callers, errors=-math.inf, looks=look).look(5.0 * 2**look, 0.01, None)
        if seen.looks > look:
            gain = gain or seen.errors + math.log(MAX_LOOKS + 1)
            spent += math.exp(seen.errors - gain)
    assert spent == pytest.approx(1.0)


def test_callers_beyond_the_bound_are_not_kept() -> None:
    callers = Callers().with_counts({}, table(set(), range(MAX_TRIAL_CALLERS + 5)))
    assert len(callers.canary) == MAX_TRIAL_CALLERS
    more = callers.with_counts({}, table(set(), range(1)))
    assert more.canary["c0"].calls == 40


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_equal_callers_are_hardly_ever_wronged(share: float) -> None:
    random, runs, failures = np.random.default_rng(8), 200, 0
    for _ in range(runs):
        failing = set(np.flatnonzero(random.random(NUMBER) < share).tolist())
        callers = Callers().with_counts(table(failing, STABLE), table(failing, CANARY))
        for seconds in (10.0, 20.0, 40.0):
            callers = callers.look(seconds, 0.01, 1.5)
        failures += callers.errors >= math.log(1 / 0.01)
    assert failures <= 0.01 * runs

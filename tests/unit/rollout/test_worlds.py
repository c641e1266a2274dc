"""Made-up worlds: their calls are counted as a live Kitserve's are, and verdicts hold in all of them."""

from __future__ import annotations

import os

import pytest

from gateway.rollout.records import CallRecord, Fold, Pair, Role
from gateway.rollout.units import WINDOW_SECONDS, Units
from loadtests.verdicts import ROLLOUTS, UNITS, Row, simulate
from tests.support.world_calls import Calls, Traffic
from tests.support.world_units import FIRST_WINDOW, WorldFold
from tests.support.worlds import CANARIES, WORLDS, World

_BY_NAME = {world.name: world for world in WORLDS}


def _folded(world: World, calls: Calls, end: float) -> tuple[object, Units]:
    """Return what the calls are as records, folded one by one."""
    fold = Fold()
    for record in calls.records():
        pair = record["pair"]
        caller = record["caller"] if world.callers.is_sticky else None
        fold.add(
            CallRecord(
                record["time"] + FIRST_WINDOW * WINDOW_SECONDS,
                Role(record["version"]),
                record["worker"],
                caller,
                record["status"],
                record["seconds"],
                record["weighted"],
                None if pair is None else Pair(**pair),
            )
        )
    return fold.take(end + FIRST_WINDOW * WINDOW_SECONDS)


@pytest.mark.parametrize(
    "name",
    ["independent calls", "sticky; 1 % of the callers always fail", "bursts of errors that both share"],
)
def test_calls_are_counted_as_records_are(name: str) -> None:
    world = _BY_NAME[name]
    calls = Traffic(world, CANARIES["20 % other answers"], (1,), 100).calls(0, 2, 25, 0.5)
    evidence, units = WorldFold(world).take(calls)
    expected, expected_units = _folded(world, calls, 2)
    assert evidence == expected
    assert units.stable == expected_units.stable
    assert units.canary == expected_units.canary
    for ours, theirs in (
        (units.stable_callers, expected_units.stable_callers),
        (units.canary_callers, expected_units.canary_callers),
    ):
        assert {caller: (counts.calls, counts.failures) for caller, counts in ours.items()} == {
            caller: (counts.calls, counts.failures) for caller, counts in theirs.items()
        }
        for caller, counts in ours.items():
            assert counts.log_seconds == pytest.approx(theirs[caller].log_seconds)


_FEW = 3
_TODAY = {"errors on 5 %": 345, "3 times slower": 33, "20 % other answers": 53}
"""How many calls bad canaries answered, on average, when calls were the unit, where calls are independent."""
_WORLD_NAMES = [world.name for world in WORLDS]


def _rows(name: str, rollouts: int, processes: int = 1) -> dict[str, Row]:
    return {canary: simulate(_BY_NAME[name], canary, UNITS, rollouts, processes) for canary in CANARIES}


@pytest.mark.parametrize("name", _WORLD_NAMES)
def test_verdicts_hold_in_a_few_rollouts(name: str) -> None:
    for row in _rows(name, _FEW).values():
        assert row.wrong == 0, row


@pytest.mark.soak
@pytest.mark.parametrize("name", _WORLD_NAMES)
def test_verdicts_hold_in_a_thousand_rollouts(name: str) -> None:
    rows = _rows(name, ROLLOUTS, os.cpu_count() or 1)
    for row in rows.values():
        assert row.wrong <= 0.01 * ROLLOUTS, row
    if name == "independent calls":
        for canary, calls in _TODAY.items():
            assert rows[canary].calls <= 3 * calls, rows[canary]

"""Made-up worlds: their calls are counted as those of a live Kitserve are, and are what they say."""

from __future__ import annotations

import pytest

from gateway.rollout.records import CallRecord, Fold, Pair, Role
from gateway.rollout.units import CallerCounts, Units
from tests.support.world_calls import Calls, Traffic
from tests.support.world_units import WorldFold
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
                record["time"],
                Role(record["version"]),
                record["worker"],
                caller,
                record["status"],
                record["seconds"],
                record["weighted"],
                None if pair is None else Pair(**pair),
            )
        )
    return fold.take(end)


def _exact(counts: CallerCounts) -> tuple[int, int, float]:
    return counts.calls, counts.failures, pytest.approx(counts.log_seconds, abs=0.1)


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
        assert {caller: _exact(counts) for caller, counts in ours.items()} == {
            caller: (counts.calls, counts.failures, counts.log_seconds) for caller, counts in theirs.items()
        }

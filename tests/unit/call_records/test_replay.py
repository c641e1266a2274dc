"""Records of calls are judged as a rollout's first step judges them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from gateway.call_records.replay import Judgement, Replay
from gateway.rollout.plan import Agreement, Checks, Plan, Step, Sticky
from gateway.rollout.records import CallRecord, Pair, Role
from gateway.rollout.verdict import Outcome

_PLAN = Plan(
    steps=(Step(50, hold=20),),
    checks=Checks(max_error_rate=0.05, max_latency_ratio=2.0, min_requests=50, agreement=Agreement(min=0.9)),
)
_HISTORY = 60.0


def _calls(
    seconds: float,
    *,
    failing: int = 0,
    slower: float = 1.0,
    differing: int = 0,
    rate: int = 40,
    begin: float = 1_700_000_000.25,
) -> Iterator[CallRecord]:
    """Yield the calls of two versions, after a minute of history; of the canary's, one in so many is bad."""
    for number in range(int((seconds + _HISTORY) * rate)):
        time = begin - _HISTORY + number / rate
        caller = f"caller {number % 97}"
        if number % 2 and time >= begin:
            has_failed = failing and number % (2 * failing) == 1
            yield CallRecord(time, Role.CANARY, "c", caller, 500 if has_failed else 200, 0.004 * slower)
        else:
            differs = differing and number % (2 * differing) == 0
            pair = Pair(not differs, False, 0.004 * slower) if time >= begin else None
            yield CallRecord(time, Role.STABLE, f"s{number % 3}", caller, 200, 0.004, True, pair)


def _judge(records: Iterable[CallRecord], plan: Plan = _PLAN) -> Judgement:
    return Replay(plan).judge(records)


def _outcomes(judgement: Judgement) -> dict[str, Outcome]:
    return {finding.verdict.check: finding.verdict.outcome for finding in judgement.findings}


def test_an_equally_good_canary_is_successful_once_the_step_has_lasted() -> None:
    judgement = _judge(_calls(120))
    assert judgement.outcome is Outcome.SUCCESSFUL
    assert set(_outcomes(judgement).values()) == {Outcome.SUCCESSFUL}
    assert judgement.begin == pytest.approx(1_700_000_000.25, abs=0.1)
    assert judgement.history_seconds == pytest.approx(_HISTORY, abs=0.1)
    assert judgement.clear_at is not None
    assert judgement.calls["canary"] < 20 * 120, "what comes after the step is not judged"


@pytest.mark.parametrize(
    ("bad", "check"),
    [
        ({"failing": 2}, "error_rate"),
        ({"slower": 10.0}, "latency"),
        ({"differing": 2}, "agreement"),
    ],
)
def test_a_bad_canary_fails_at_once(bad: dict[str, float], check: str) -> None:
    judgement = _judge(_calls(300, **bad))  # type: ignore[arg-type]
    assert judgement.outcome is Outcome.FAILED
    assert _outcomes(judgement)[check] is Outcome.FAILED
    assert judgement.clear_at is not None
    assert judgement.clear_at < 60
    assert judgement.calls["canary"] < 20 * 60


def test_too_few_calls_are_inconclusive() -> None:
    judgement = _judge(_calls(2))
    assert judgement.outcome is Outcome.INCONCLUSIVE
    assert judgement.calls["canary"] == 40


def test_without_a_call_to_the_canary_nothing_is_said() -> None:
    judgement = _judge(call for call in _calls(10) if call.version is Role.STABLE)
    assert judgement.outcome is Outcome.INCONCLUSIVE
    assert judgement.begin is None
    assert not judgement.findings


def test_no_records_at_all_are_inconclusive() -> None:
    assert _judge([]).outcome is Outcome.INCONCLUSIVE


def test_a_step_that_a_person_ends_lasts_as_long_as_there_are_calls() -> None:
    plan = replace(_PLAN, steps=(Step(50, pause=True),))
    judgement = _judge(_calls(120), plan)
    assert judgement.outcome is Outcome.SUCCESSFUL
    assert judgement.calls["canary"] == 20 * 120


def test_calls_that_chance_did_not_place_and_wrong_ones_are_no_evidence() -> None:
    def hostile(calls: Iterable[CallRecord]) -> Iterator[CallRecord]:
        for call in calls:
            yield call
            if call.version is Role.CANARY:
                yield replace(call, status=500, is_weighted=False)
                yield replace(call, status=422)

    judgement = _judge(hostile(_calls(120)))
    assert judgement.outcome is Outcome.SUCCESSFUL
    assert judgement.not_counted > 0


def test_one_caller_does_not_outweigh_the_others() -> None:
    def attacked(calls: Iterable[CallRecord]) -> Iterator[CallRecord]:
        for call in calls:
            yield call
            if call.version is Role.CANARY:
                for _ in range(20):
                    yield replace(call, caller="attacker")

    judgement = _judge(attacked(_calls(300, failing=4)))
    assert judgement.outcome is Outcome.FAILED
    assert judgement.not_counted > 0


def test_a_caller_that_sticks_is_one_unit() -> None:
    """One caller of ten on the canary fails always, on either version."""
    plan = replace(_PLAN, sticky=Sticky(header="x-user"))

    def calls() -> Iterator[CallRecord]:
        for call in _calls(120, rate=100):
            caller = int((call.caller or "").split()[1])
            is_canary = caller % 2 == 1 and call.time >= 1_700_000_000.25
            version, worker = (Role.CANARY, "c") if is_canary else (Role.STABLE, f"s{caller % 3}")
            status = 500 if caller == 1 else 200
            yield replace(call, version=version, worker=worker, status=status, pair=None)

    assert _judge(calls(), plan).outcome is not Outcome.FAILED

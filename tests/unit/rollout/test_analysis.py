"""Verdicts: which of the four, at what evidence, in what words."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.metrics.counts import BUCKETS, MirroredCalls
from gateway.rollout.analysis import FALSE_ALARM, judge, stability_index
from gateway.rollout.evidence import Evidence, Side
from gateway.rollout.plan import Agreement, Checks, Match, Metric, Plan, Step
from gateway.rollout.verdict import Outcome, Verdict, duration, overall, times

ALL = Checks(max_latency_ratio=1.5, min_requests=50, agreement=Agreement())
PLAN = Plan(steps=(Step(10, hold=30), Step(50, hold=30)), checks=ALL)


def side(calls: int, errors: int = 0, median: float = 0.002, seed: int = 3) -> Side:
    seconds = np.random.default_rng(seed).lognormal(np.log(median), 0.4, calls)
    counts = np.bincount(np.searchsorted(BUCKETS, seconds), minlength=len(BUCKETS) + 1)
    return Side(calls, errors, tuple(int(count) for count in counts))


def verdicts(evidence: Evidence, plan: Plan = PLAN, step: int = 0) -> dict[str, Verdict]:
    return {verdict.check: verdict for verdict in judge(plan, step, evidence)}


def test_no_data_is_inconclusive_for_every_check() -> None:
    judged = verdicts(Evidence())
    assert set(judged) == {"requests", "error_rate", "latency", "agreement"}
    assert {verdict.outcome for verdict in judged.values()} == {Outcome.INCONCLUSIVE}
    assert overall(tuple(judged.values())) is Outcome.INCONCLUSIVE


def test_plenty_of_good_calls_are_successful() -> None:
    judged = verdicts(Evidence(side(9000, 9), side(1000, 1, seed=4), MirroredCalls(1000, 997)))
    assert {verdict.outcome for verdict in judged.values()} == {Outcome.SUCCESSFUL}
    assert overall(tuple(judged.values())) is Outcome.SUCCESSFUL


def test_each_check_fails_by_itself_and_says_why_in_numbers() -> None:
    bad_errors = verdicts(Evidence(side(9000, 9), side(1000, 50)))["error_rate"]
    assert bad_errors.outcome is Outcome.FAILED
    assert bad_errors.message.startswith(
        "canary fails 5 % of 1,000 calls, stable 0.1 % of 9,000 (limit 1 % more); p "
    )
    assert bad_errors.numbers["canary_errors"] == 50
    slow = verdicts(Evidence(side(4500), side(500, median=0.006)))["latency"]
    assert slow.outcome is Outcome.FAILED
    assert slow.numbers["ratio"] == pytest.approx(3, rel=0.3)
    wrong = verdicts(Evidence(mirrored=MirroredCalls(412, 284)))["agreement"]
    assert wrong.outcome is Outcome.FAILED
    assert wrong.message == "canary disagrees on 31 % of 412 mirrored calls (limit 5 %); p < 1e-6"


def test_a_bad_canary_is_seen_early_and_below_the_minimum_of_calls() -> None:
    assert verdicts(Evidence(mirrored=MirroredCalls(6, 0)))["agreement"].outcome is Outcome.FAILED
    assert verdicts(Evidence(side(100), side(3, 3)))["error_rate"].outcome is Outcome.FAILED


def test_what_both_versions_fail_alike_is_not_held_against_the_canary() -> None:
    judged = verdicts(Evidence(side(90000, 4500), side(18000, 900)))["error_rate"]
    assert judged.outcome is Outcome.SUCCESSFUL


def test_mirrored_calls_without_an_answer_are_told() -> None:
    judged = verdicts(Evidence(mirrored=MirroredCalls(50, 20, failed=30)))["agreement"]
    assert "30 of which it could not answer" in judged.message


def test_broken_measuring_is_an_error_unless_it_had_seen_enough() -> None:
    trouble = "the workers' numbers are 12 s old"
    judged = verdicts(Evidence(side(900), side(100), MirroredCalls(100, 99), trouble=trouble))
    assert {verdict.outcome for verdict in judged.values()} == {Outcome.ERROR}
    assert judged["error_rate"].message == trouble
    judged = verdicts(Evidence(side(900), side(100, 100), trouble=trouble))
    assert judged["error_rate"].outcome is Outcome.FAILED
    assert overall(tuple(judged.values())) is Outcome.FAILED


def test_a_shadow_step_is_judged_by_mirrored_calls_alone() -> None:
    _assert_judged_by_mirrored_calls(Step(0, mirror=1.0))


def test_a_step_that_only_headers_lead_to_is_judged_by_mirrored_calls_too() -> None:
    _assert_judged_by_mirrored_calls(Step(0, mirror=1.0, match=(Match("x-staff"),)))
    assert judge(Plan(steps=(Step(0, match=(Match("x-staff"),)),)), 0, Evidence(side(900))) == ()


def _assert_judged_by_mirrored_calls(step: Step) -> None:
    plan = Plan(steps=(step,), checks=ALL)
    judged = verdicts(Evidence(side(900), Side(), MirroredCalls(400, 400)), plan)
    assert set(judged) == {"requests", "agreement"}
    assert judged["requests"].message == "canary was mirrored 400 of at least 50 calls"
    assert overall(tuple(judged.values())) is Outcome.SUCCESSFUL


def test_a_step_that_shows_nothing_asks_for_nothing() -> None:
    assert judge(Plan(steps=(Step(0), Step(100))), 0, Evidence()) == ()
    assert overall(()) is Outcome.SUCCESSFUL


def test_with_all_calls_and_no_step_before_the_limit_stands_alone() -> None:
    plan = Plan(steps=(Step(100),), checks=ALL)
    judged = verdicts(Evidence(canary=side(2000, 2)), plan)
    assert {check: verdict.outcome for check, verdict in judged.items()} == {
        "requests": Outcome.SUCCESSFUL,
        "error_rate": Outcome.SUCCESSFUL,
    }
    assert verdicts(Evidence(canary=side(500, 40)), plan)["error_rate"].outcome is Outcome.FAILED


def test_the_false_alarms_are_shared_out_over_steps_and_checks() -> None:
    judged = verdicts(Evidence(side(900), side(100)))["error_rate"]
    assert judged.numbers["alarm"] == pytest.approx(FALSE_ALARM / 6)


PSI = Plan(steps=(Step(10),), checks=Checks(agreement=Agreement(metric=Metric.PSI, max=0.2)))


@pytest.mark.parametrize(
    ("stable", "canary", "outcome"),
    [
        ({}, {}, Outcome.INCONCLUSIVE),
        ({"a": 40, "b": 40}, {"a": 80}, Outcome.INCONCLUSIVE),
        ({"a": 500, "b": 500}, {"a": 510, "b": 490}, Outcome.SUCCESSFUL),
        ({"a": 500, "b": 500}, {"a": 900, "b": 100}, Outcome.FAILED),
        ({"a": 1000}, {"c": 1000}, Outcome.FAILED),
        ({"a": 55, "b": 50}, {"a": 75, "b": 30}, Outcome.INCONCLUSIVE),
    ],
)
def test_a_shifted_distribution_is_told_from_noise(
    stable: dict[str, int], canary: dict[str, int], outcome: Outcome
) -> None:
    mirrored = MirroredCalls(1000, 1000, stable=stable, canary=canary)
    assert verdicts(Evidence(mirrored=mirrored), PSI)["agreement"].outcome is outcome


def test_the_stability_index_is_the_usual_one() -> None:
    assert stability_index({"a": 5, "b": 5}, {"a": 50, "b": 50}) == 0
    expected = (0.6 - 0.5) * np.log(0.6 / 0.5) + (0.4 - 0.5) * np.log(0.4 / 0.5)
    assert stability_index({"a": 50, "b": 50}, {"a": 60, "b": 40}) == pytest.approx(expected)


def test_quantiles_of_buckets_are_near_those_of_the_calls() -> None:
    calls = side(20000)
    seconds = np.random.default_rng(3).lognormal(np.log(0.002), 0.4, 20000)
    for share in (0.5, 0.9, 0.95, 0.99):
        assert calls.latencies.quantile(share) == pytest.approx(float(np.quantile(seconds, share)), rel=0.25)
        assert calls.latencies.longer_than(calls.latencies.quantile(share)) == pytest.approx(
            (1 - share) * 20000, rel=1e-6
        )
    assert calls.latencies.longer_than(1e-7) == 20000
    assert np.isnan(Side().latencies.quantile(0.5))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0063, "6.3 ms"), (0.0265, "26.5 ms"), (0.9999, "1 s"), (4.514, "4.51 s"), (2400.0, "2,400 s")],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("ratio", "text"), [(1.54, "1.5 times"), (12.3, "12 times"), (1700.0, "1,700 times")]
)
def test_ratios_are_written_for_people(ratio: float, text: str) -> None:
    assert times(ratio) == text

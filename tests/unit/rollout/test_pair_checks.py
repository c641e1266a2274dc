"""Verdicts on pairs of generated answers: which of the four, at what evidence, in what words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gateway.metrics.counts import FIRST_TOKEN_BUCKETS, TOKEN_GAP_BUCKETS, MirroredCalls
from gateway.metrics.pairs import AnswerPairs, FaultyAnswers, Losses
from gateway.rollout.analysis import FALSE_ALARM, judge
from gateway.rollout.answers import Fault
from gateway.rollout.evidence import Evidence, Side
from gateway.rollout.plan import Agreement, AnswerChecks, Checks, Plan, Step
from gateway.rollout.verdict import Outcome, Verdict, overall

STEPS = (Step(0, hold=30), Step(10, hold=30))
PLAN = Plan(steps=STEPS, checks=Checks(max_error_rate=None))
ALWAYS = {Fault.ERROR, Fault.CUT_OFF, Fault.EMPTY, Fault.REPETITION, Fault.LENGTH}


def pairs(count: int, **faults: tuple[int, ...]) -> AnswerPairs:
    """Make pairs of which so many have a fault: (canary alone, stable alone, both, asked)."""
    counts = {fault.value: FaultyAnswers(count) for fault in ALWAYS}
    for name, (canary, stable, both, *asked) in faults.items():
        counts[Fault[name].value] = FaultyAnswers(asked[0] if asked else count, canary, stable, both)
    return AnswerPairs(count, counts)


def verdicts(answers: AnswerPairs | None, plan: Plan = PLAN, step: int = 0) -> dict[str, Verdict]:
    mirrored = MirroredCalls(compared=answers.pairs if answers else 0)
    evidence = Evidence(mirrored=mirrored, pairs=answers)
    return {verdict.check: verdict for verdict in judge(plan, step, evidence)}


def test_no_pairs_are_inconclusive_for_every_check() -> None:
    judged = verdicts(AnswerPairs())
    assert set(judged) == {"requests", *ALWAYS}
    assert {verdict.outcome for verdict in judged.values()} == {Outcome.INCONCLUSIVE}
    assert judged["empty"].message == "no call has been mirrored yet"


def test_plenty_of_good_answers_are_successful() -> None:
    judged = verdicts(pairs(300, CUT_OFF=(9, 9, 9), EMPTY=(0, 0, 4)))
    assert {verdict.outcome for verdict in judged.values()} == {Outcome.SUCCESSFUL}
    assert judged["empty"].message.startswith(
        "canary says nothing in 1.3 % of 300 mirrored calls, stable 1.3 % (limit 3 % more); it keeps"
    )


@pytest.mark.parametrize("fault", sorted(ALWAYS))
def test_each_check_fails_by_itself(fault: Fault) -> None:
    judged = verdicts(pairs(200, **{fault.name: (100, 0, 0)}))
    assert [check for check, verdict in judged.items() if verdict.outcome is Outcome.FAILED] == [fault]
    assert overall(tuple(judged.values())) is Outcome.FAILED


def test_a_verdict_has_its_numbers() -> None:
    verdict = verdicts(pairs(200, EMPTY=(60, 2, 3)))["empty"]
    assert verdict.message == (
        "canary says nothing in 32 % of 200 mirrored calls, stable 2.5 % (limit 3 % more); p < 1e-6"
    )
    numbers = {
        name: verdict.numbers[name] for name in ("pairs", "asked", "canary_alone", "stable_alone", "both")
    }
    assert numbers == {"pairs": 200, "asked": 200, "canary_alone": 60, "stable_alone": 2, "both": 3}


def test_what_both_versions_do_alike_is_not_held_against_the_canary() -> None:
    judged = verdicts(pairs(400, REPETITION=(0, 0, 400), CUT_OFF=(0, 0, 390)))
    assert {verdict.outcome for verdict in judged.values()} == {Outcome.SUCCESSFUL}


def test_answers_that_are_much_shorter_fail_like_those_that_are_much_longer() -> None:
    longer, shorter = pairs(200, LENGTH=(80, 0, 0)), pairs(200, LENGTH=(0, 80, 0))
    assert verdicts(longer)["length"].outcome is verdicts(shorter)["length"].outcome is Outcome.FAILED


def test_fewer_faults_than_the_stable_version_are_successful() -> None:
    assert verdicts(pairs(200, EMPTY=(0, 80, 0)))["empty"].outcome is Outcome.SUCCESSFUL


def test_a_rare_wish_fails_by_its_own_calls_and_passes_by_all() -> None:
    rare = verdicts(pairs(1000, INVALID=(16, 0, 0, 16)))["invalid"]
    assert rare.outcome is Outcome.FAILED
    kept = verdicts(pairs(1000, INVALID=(0, 0, 1, 16)))["invalid"]
    assert kept.outcome is Outcome.SUCCESSFUL
    unclear = verdicts(pairs(1000, INVALID=(3, 0, 0, 16)))["invalid"]
    assert unclear.outcome is Outcome.INCONCLUSIVE
    assert "invalid" not in verdicts(pairs(1000))


def test_functions_that_are_called_less_often_fail() -> None:
    assert verdicts(pairs(100, TOOL_CALLS=(0, 60, 30)))["tool_calls"].outcome is Outcome.FAILED


def test_there_is_no_success_below_the_minimum_of_pairs() -> None:
    plan = Plan(steps=STEPS, checks=Checks(answers=AnswerChecks(max_faults=0.3, max_shift=0.3, min_pairs=80)))
    judged = verdicts(pairs(79), plan)
    assert judged["empty"].outcome is Outcome.INCONCLUSIVE
    assert judged["empty"].message.endswith("it needs 80 mirrored calls at least")
    assert verdicts(pairs(80), plan)["empty"].outcome is Outcome.SUCCESSFUL


def test_checks_can_be_left_out() -> None:
    some = Plan(steps=STEPS, checks=Checks(answers=AnswerChecks(skip=("length", "cut_off"))))
    assert set(verdicts(pairs(9), some)) == {"requests", *ALWAYS} - {Fault.LENGTH, Fault.CUT_OFF}
    none = Plan(steps=(Step(0, mirror=1.0),), checks=Checks(answers=None))
    assert set(verdicts(pairs(9), none)) == {"requests"}
    assert verdicts(pairs(9), Plan(steps=(Step(0),), checks=Checks(answers=None))) == {}


def test_models_that_generate_no_text_are_not_judged_by_it() -> None:
    plan = Plan(steps=(Step(0, mirror=1.0),), checks=Checks(agreement=Agreement()))
    assert set(verdicts(None, plan)) == {"requests", "agreement"}
    assert "agreement" not in verdicts(pairs(9), plan)
    assert PLAN.mirror(0) == 0.0
    assert PLAN.mirror(0, is_text=True) == AnswerChecks().mirror
    assert Plan(steps=(Step(0, mirror=0.0),)).mirror(0, is_text=True) == 0.0


def test_the_false_alarms_are_shared_out_over_steps_and_checks() -> None:
    assert verdicts(pairs(9))["empty"].numbers["alarm"] == pytest.approx(FALSE_ALARM / (2 * len(Fault)))


LIMITED = Plan(steps=STEPS, checks=Checks(answers=AnswerChecks(max_loss=0.1)))


@pytest.mark.parametrize(
    ("mean", "outcome"),
    [(0.0, Outcome.SUCCESSFUL), (0.5, Outcome.FAILED), (0.1, Outcome.INCONCLUSIVE)],
)
def test_the_loss_is_judged_where_it_has_a_limit(mean: float, outcome: Outcome) -> None:
    losses = Losses(200, 200 * mean, 200 * (mean**2 + 0.01))
    verdict = verdicts(replace(pairs(200), losses=losses), LIMITED)["loss"]
    assert verdict.outcome is outcome
    assert verdict.numbers["lower"] < mean < verdict.numbers["upper"]
    assert verdict.message.startswith(
        f"canary finds stable's answers less likely by {mean:.2g} nats per token"
    )
    assert "loss" not in verdicts(replace(pairs(200), losses=losses))


def test_a_limit_on_the_loss_passes_nobody_where_no_answer_is_scored() -> None:
    verdict = verdicts(pairs(200), LIMITED)["loss"]
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "no answer has been scored by both versions yet" in verdict.message


def test_greedy_answers_that_are_the_same_are_told_and_not_judged() -> None:
    verdict = verdicts(replace(pairs(60), greedy=40, identical=3))["requests"]
    assert verdict.outcome is Outcome.SUCCESSFUL
    assert verdict.message.endswith("; 3 of 40 answers without chance word for word the same")
    assert verdict.numbers["identical"] == 3


def _side(calls: int, first: float, each: float) -> Side:
    """Make calls whose first token takes about so long, and each further one."""
    random = np.random.default_rng(7)
    histograms = []
    for bounds, median in ((FIRST_TOKEN_BUCKETS, first), (TOKEN_GAP_BUCKETS, each)):
        seconds = random.lognormal(np.log(median), 0.3, calls)
        counts = np.bincount(np.searchsorted(bounds, seconds), minlength=len(bounds) + 1)
        histograms.append(tuple(int(count) for count in counts))
    return Side(calls, first_token=histograms[0], per_token=histograms[1])


@pytest.mark.parametrize(
    ("canary", "failed"),
    [
        (_side(400, 0.2, 0.02), set()),
        (_side(400, 0.8, 0.02), {"first_token"}),
        (_side(400, 0.2, 0.08), {"token_time"}),
    ],
)
def test_the_times_of_tokens_are_compared_where_they_have_a_limit(canary: Side, failed: set[str]) -> None:
    checks = Checks(max_error_rate=None, max_first_token_ratio=2, max_token_time_ratio=2, answers=None)
    plan = Plan(steps=(Step(50), Step(80)), checks=checks)
    judged = judge(plan, 0, Evidence(_side(4000, 0.2, 0.02), canary, pairs=AnswerPairs()))
    outcomes = {verdict.check: verdict.outcome for verdict in judged}
    assert set(outcomes) == {"requests", "first_token", "token_time"}
    assert {check for check, outcome in outcomes.items() if outcome is Outcome.FAILED} == failed
    assert {check for check, outcome in outcomes.items() if outcome is Outcome.SUCCESSFUL} == set(
        outcomes
    ) - failed
    if failed:
        (message,) = (verdict.message for verdict in judged if verdict.check in failed)
        words = {"first_token": "to the first token is", "token_time": "for each further token is"}
        assert f"canary's p95 {words[failed.pop()]} " in message
    assert [verdict.check for verdict in judge(plan, 0, Evidence(Side(9), Side(9)))] == ["requests"]

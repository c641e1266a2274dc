"""Rollouts as they are stored, by this release and by those before."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StoreError
from gateway.metrics.counts import MirroredCalls
from gateway.metrics.pairs import AnswerPairs, FaultyAnswers, Losses
from gateway.rollout.documents import ROLLOUT_SCHEMA, rollout_from_json, rollout_to_json
from gateway.rollout.evidence import Evidence, Side
from gateway.rollout.plan import Agreement, AnswerChecks, Checks, Golden, Match, Metric, Plan, Step, Sticky
from gateway.rollout.state import Reason, Rollout, Stage
from gateway.rollout.verdict import Outcome, Verdict

PLAN = Plan(
    steps=(Step(10, 1.0), Step(30, pause=True, match=(Match("x-team", "forecasts"),)), Step(60, 5.0)),
    checks=Checks(0.05, 20.0, 0.9, 20, Agreement(0.9, mirror=0.5)),
    golden=Golden("iris", 0.9, "species"),
    sticky=Sticky(header="x-user"),
    progress_deadline=300.0,
    scale_down_delay=2.0,
)
ROLLOUT = Rollout(
    stable="v1",
    canary="v2",
    declared="v2",
    plan=PLAN,
    stage=Stage.PAUSED,
    reason=Reason.PAUSE_STEP,
    message="step 2 of 3",
    step=1,
    workers=("abc",),
    evidence=Evidence(Side(20, 1), Side(10), MirroredCalls(5, 4.5, 1, 2, {"a": 5}, {"b": 4})),
    verdicts=(Verdict("requests", Outcome.SUCCESSFUL, "fine", {"canary_calls": 10.0}),),
)
SCHEMA_1 = Path("tests/data/homes/schema-1/state.db")


def schema_1_document() -> dict[str, Any]:
    """The rollout that the release with schema 1 left, midway."""
    with closing(sqlite3.connect(f"file:{SCHEMA_1}?mode=ro&immutable=1", uri=True)) as database:
        ((text,),) = database.execute("SELECT document FROM rollouts").fetchall()
    document: dict[str, Any] = json.loads(text)
    return document


def test_a_stored_rollout_is_read_as_it_was() -> None:
    for rollout in (Rollout(), ROLLOUT):
        assert rollout_from_json(rollout_to_json(rollout)) == rollout


def test_pairs_of_answers_are_stored_and_a_release_that_knew_none_left_no_gap() -> None:
    faults = {"empty": FaultyAnswers(9, 1, 2, 3)}
    pairs = AnswerPairs(10, faults, greedy=4, identical=1, losses=Losses(5, 0.5, 0.1))
    answers = AnswerChecks(max_loss=0.2, skip=("length",))
    plan = replace(PLAN, checks=replace(PLAN.checks, answers=answers))
    rollout = replace(ROLLOUT, plan=plan, evidence=replace(ROLLOUT.evidence, pairs=pairs))
    stored = rollout_to_json(rollout)
    assert rollout_from_json(stored) == rollout
    document = json.loads(stored)
    del document["evidence"]["pairs"], document["plan"]["checks"]["answers"]
    assert rollout_from_json(json.dumps(document)) == ROLLOUT


def test_a_rollout_of_a_newer_release_is_refused_with_words() -> None:
    newer = {**json.loads(rollout_to_json(ROLLOUT)), "schema": ROLLOUT_SCHEMA + 1, "stage": "unheard of"}
    with pytest.raises(StoreError, match=f"newer Kitserve wrote this rollout .schema {ROLLOUT_SCHEMA + 1}"):
        rollout_from_json(json.dumps(newer))


@pytest.mark.parametrize(
    "text", ["{}x", "{}", "[]", "null", '{"schema": 0}', '{"schema": "1"}', '{"schema": 1}']
)
def test_what_is_no_rollout_is_refused_with_words(text: str) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        rollout_from_json(text)


def test_fields_that_are_unknown_are_passed_over_and_missing_ones_have_their_default() -> None:
    document = json.loads(rollout_to_json(ROLLOUT))
    document["later"] = document["plan"]["later"] = document["plan"]["steps"][0]["later"] = 1
    document["evidence"]["stable"]["later"] = document["verdicts"][0]["later"] = {}
    del (
        document["restarts"],
        document["plan"]["max_restarts"],
        document["plan"]["checks"]["agreement"]["rtol"],
    )
    assert rollout_from_json(json.dumps(document)) == ROLLOUT


def test_a_rollout_of_schema_1_goes_on_midway() -> None:
    document = schema_1_document()
    assert document["schema"] == 1
    rollout = rollout_from_json(json.dumps(document))
    assert rollout.plan == PLAN
    assert (rollout.stage, rollout.reason, rollout.step, rollout.weight) == (
        Stage.PAUSED,
        Reason.PAUSE_STEP,
        1,
        30,
    )
    assert (rollout.stable, rollout.canary) == (document["stable"], document["canary"])
    assert (rollout.number, rollout.held, rollout.workers) == (4, document["held"], ("pwft080s",))
    assert (rollout.evidence.stable.calls, rollout.evidence.canary.calls) == (2622, 1197)
    assert rollout.evidence.mirrored == MirroredCalls(1033, 1033.0, dropped=282)
    assert [verdict.check for verdict in rollout.verdicts] == [
        "requests",
        "error_rate",
        "latency",
        "agreement",
    ]


def test_a_stability_index_of_schema_1_becomes_a_maximum() -> None:
    document = schema_1_document()
    document["plan"]["checks"]["agreement"] |= {"metric": "psi", "least": 0.3}
    document["plan"]["golden"] = None
    rollout = rollout_from_json(json.dumps(document))
    agreement = Agreement(max=0.3, mirror=0.5, metric=Metric.PSI)
    assert rollout.plan == replace(PLAN, checks=replace(PLAN.checks, agreement=agreement), golden=None)
    document["plan"]["checks"]["agreement"] = None
    assert rollout_from_json(json.dumps(document)).plan.checks.agreement is None

"""Rollouts as a user writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config.config import parse_config
from gateway.config.rollout import Rollout
from gateway.control.state.desired import desired_from
from gateway.errors import ConfigError
from gateway.rollout.plan import Agreement, AnswerChecks, Checks, Golden, Match, Metric, Plan, Step, Sticky

KIT = "registry.test/iris:v1"


def read(**fields: Any) -> Rollout:
    return Rollout.model_validate({"steps": [{"weight": 5}], **fields})


def test_everything_written_reaches_the_plan() -> None:
    written = read(
        steps=[
            {"weight": 0, "for": "1m", "mirror": 1.0, "match": {"X-Staff": "yes"}},
            {"weight": 25, "pause": True},
        ],
        checks={
            "max_error_rate": 0.02,
            "max_latency_ratio": 2,
            "max_first_token_ratio": 1.5,
            "max_token_time_ratio": 3,
            "latency_quantile": 0.99,
            "min_requests": 10,
            "agreement": {"metric": "cosine", "min": 0.9, "mirror": 0.2, "cosine": 0.95},
            "answers": {
                "max_faults": 0.02,
                "max_shift": 0.2,
                "max_length_ratio": 3,
                "max_loss": 0.1,
                "min_pairs": 100,
                "mirror": 0.5,
                "skip": ["length", "cut_off"],
            },
        },
        golden={"dataset": "iris", "min": 0.9},
        allow_signature_change=True,
        sticky={"header": "X-User"},
        progress_deadline="2m",
        scale_down_delay="10s",
        max_restarts=0,
    )
    assert written.plan() == Plan(
        steps=(Step(0, 60, mirror=1.0, match=(Match("x-staff", "yes"),)), Step(25, pause=True)),
        checks=Checks(
            max_error_rate=0.02,
            max_latency_ratio=2,
            max_first_token_ratio=1.5,
            max_token_time_ratio=3,
            latency_quantile=0.99,
            min_requests=10,
            agreement=Agreement(0.9, mirror=0.2, metric=Metric.COSINE, cosine=0.95),
            answers=AnswerChecks(0.02, 0.2, 3, 0.1, 100, 0.5, ("length", "cut_off")),
        ),
        golden=Golden("iris", 0.9),
        allow_signature_change=True,
        sticky=Sticky(header="x-user"),
        progress_deadline=120,
        scale_down_delay=10,
        max_restarts=0,
    )


def test_what_is_not_written_has_its_default() -> None:
    assert read().plan() == Plan(steps=(Step(5),))
    assert read(golden="iris").plan().golden == Golden("iris")
    assert read(checks={"answers": {}}).plan().checks.answers == AnswerChecks()
    assert read(checks={"answers": None}).plan().checks.answers is None
    shift = read(checks={"agreement": {"metric": "psi"}}).plan().checks.agreement
    assert shift == Agreement(metric=Metric.PSI, max=0.2)


@pytest.mark.parametrize("metric", ["auto", "psi"])
def test_a_bound_that_is_null_has_its_default(metric: str) -> None:
    bounds = read(checks={"agreement": {"metric": metric, "min": None, "max": None}}).checks.agreement
    assert bounds == read(checks={"agreement": {"metric": metric}}).checks.agreement


def test_a_written_rollout_survives_the_way_to_the_gateway() -> None:
    written = read(steps=[{"weight": 5, "for": "30s"}], checks={"agreement": {"metric": "psi", "max": 0.1}})
    assert Rollout.model_validate(written.model_dump(mode="json")) == written
    assert Rollout.model_validate_json(written.model_dump_json()) == written


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": []}, "at least 1 item"),
        ({"steps": [{"weight": 50}, {"weight": 5}]}, r"weights only grow from step to step, not \[50, 5\]"),
        ({"steps": [{"weight": 101}]}, "less than or equal to 100"),
        ({"steps": [{"weight": 5, "for": "1m", "pause": True}]}, "not both"),
        ({"steps": [{"weight": 5, "for": "soon"}]}, "not a duration"),
        ({"steps": [{"weight": 5, "match": {"x\nstaff": "1"}}]}, "not the name of a header"),
        ({"steps": [{"weight": 5, "match": {"x-staff": "a'b"}}]}, "not a header's value that can be matched"),
        ({"checks": {"max_error_rate": 0}}, "greater than 0"),
        ({"checks": {"agreement": {"metric": "psi", "min": 0.9}}}, "has a `max`"),
        ({"checks": {"agreement": {"max": 0.9}}}, "`max` is for `metric: psi`"),
        ({"checks": {"answers": {"skip": ["words"]}}}, "'mirrored_error', 'cut_off', 'empty'"),
        ({"checks": {"answers": {"max_loss": 1}}}, "less than 1"),
        ({"golden": {"dataset": "x", "metric": "psi"}}, "row by row"),
        ({"sticky": {}}, "write `header: NAME` or `cookie: NAME`"),
        ({"sticky": {"header": "a", "cookie": "b"}}, "write `header: NAME` or `cookie: NAME`"),
        ({"step": 5}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused_with_words(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        read(**fields)


def faults(**model: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(json.dumps({"models": [{"name": "iris", "kit": KIT, **model}]}))
    return caught.value.faults


def test_faults_of_a_rollout_are_reported_with_their_place() -> None:
    steps = [{"weight": 5}]
    (fault,) = faults(rollout={"steps": steps, "cheks": {}})
    assert fault.endswith("models[0].rollout.cheks: unknown field; did you mean 'checks'?")
    (fault,) = faults(rollout={"steps": steps}, canary={"kit": f"{KIT}2", "weight": 5})
    assert "models[0].canary: with `rollout`, another `kit` is the canary by itself" in fault
    (fault,) = faults(track="1m", kit=f"{KIT}@sha256:{'ab' * 32}")
    assert "is pinned to a digest, which never moves" in fault
    (fault,) = faults(track="10ms")
    assert "must be at least 1, not" in fault


def test_a_swap_has_no_steps_and_no_trial() -> None:
    swap = Rollout.model_validate({"surge": 0})
    assert (swap.surge, swap.steps) == (0, ())
    model = {"name": "iris", "kit": "r.io/iris:v1", "rollout": {"surge": 0}}
    (desired,) = desired_from(parse_config(json.dumps({"models": [model]}), "test")).models
    assert (desired.surge, desired.plan) == (0, None)
    config = parse_config(json.dumps({"models": [model]}), "test")
    assert parse_config(config.model_dump_json(), "what the gateway keeps") == config
    assert read().surge == 1
    with pytest.raises(ValidationError, match="leave out `steps`"):
        read(surge=0)
    with pytest.raises(ValidationError, match="`steps` is missing, and must be written"):
        Rollout.model_validate({})

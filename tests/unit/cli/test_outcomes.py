"""What commands say of a model and its rollout, and when they end."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.cli.outcomes import Outcome, outcome


def revision(tag: str, digit: str) -> dict[str, str]:
    digest = f"sha256:{digit * 64}"
    return {"tag": tag, "digest": digest, "reference": f"registry.test/iris:{tag}@{digest}"}


V1, V2, V3 = revision("v1", "1"), revision("v2", "2"), revision("v3", "3")
V1_MOVED = revision("v1", "4")


def model(state: str = "ready", **rollout: Any) -> dict[str, Any]:
    whole = {
        "phase": "Progressing",
        "reason": "StepRunning",
        "message": "step 2 of 3",
        "number": 4,
        "stable": V1,
        "canary": V2,
        "declared": V2,
        "step": 2,
        "steps": ["5 %", "20 %", "50 %"],
    }
    return {"name": "iris", "state": state, "message": "", "rollout": whole | rollout}


HEALTHY: dict[str, Any] = {
    "phase": "Healthy",
    "reason": "RolloutCompleted",
    "canary": None,
    "stable": V2,
    "step": 0,
}
DEGRADED = {"phase": "Degraded", "reason": "AnalysisFailed", "step": 0}
PAUSED = {"phase": "Paused", "reason": "CanaryPauseStep"}
RETRY = "start it again with `kitserve rollout retry iris`"
ORDERS = "`kitserve rollout promote iris`, or `kitserve rollout abort iris`"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("pulling", Outcome(False, False, False, "")),
        ("loading", Outcome(False, False, False, "")),
        ("ready", Outcome(True, True, False, "")),
        ("asleep", Outcome(True, True, False, "")),
        ("failed", Outcome(True, True, True, "")),
    ],
)
@pytest.mark.parametrize("rollout", [None, HEALTHY, HEALTHY | {"declared": None}])
def test_a_model_without_a_rollout_on_its_way(
    state: str, expected: Outcome, rollout: dict[str, Any] | None
) -> None:
    document = model(state) | {"rollout": None} if rollout is None else model(state, **rollout)
    assert outcome(document) == expected


@pytest.mark.parametrize(
    ("rollout", "before", "advice"),
    [
        ({}, None, "a rollout from v1 to v2 has begun: kitserve rollout status iris"),
        ({}, 3, "a rollout from v1 to v2 has begun: kitserve rollout status iris"),
        ({}, 4, "a rollout from v1 to v2 goes on at step 2 of 3: kitserve rollout status iris"),
        ({"step": 0}, 4, "a rollout from v1 to v2 goes on: kitserve rollout status iris"),
        ({"declared": V3}, 3, "a rollback from v1 to v2 has begun: kitserve rollout status iris"),
        (
            {"canary": V1_MOVED, "declared": V1_MOVED},
            3,
            "a rollout from v1@111111111111 to v1@444444444444 has begun: kitserve rollout status iris",
        ),
        (PAUSED, 4, f"the rollout from v1 to v2 waits for a person at step 2 of 3: {ORDERS}"),
        (
            PAUSED | {"reason": "InconclusiveAnalysis", "message": "12 of 50 so far"},
            4,
            "the rollout from v1 to v2 is paused at step 2 of 3 (12 of 50 so far); it goes on if evidence "
            f"comes, or with {ORDERS}",
        ),
    ],
)
def test_a_rollout_on_its_way(rollout: dict[str, Any], before: int | None, advice: str) -> None:
    assert outcome(model(**rollout), before) == Outcome(True, False, False, f"iris: {advice}")


@pytest.mark.parametrize(
    ("rollout", "advice"),
    [
        (DEGRADED, f"the rollout from v1 to v2 has failed (AnalysisFailed), and v1 serves; {RETRY}"),
        (
            DEGRADED | {"reason": "RolloutAborted"},
            f"the rollout from v1 to v2 was aborted, and v1 serves; {RETRY}",
        ),
        (
            DEGRADED | {"declared": V3},
            f"the rollback from v1 to v2 has failed (AnalysisFailed), and v1 serves; {RETRY}",
        ),
    ],
)
def test_a_rollout_that_failed(rollout: dict[str, Any], advice: str) -> None:
    assert outcome(model("failed", **rollout)) == Outcome(True, True, True, f"iris: {advice}")


def test_a_version_that_was_rolled_back() -> None:
    rolled_back = HEALTHY | {"stable": V1}
    advice = f"iris: v2 was rolled back, and v1 serves; {RETRY}"
    assert outcome(model(**rolled_back)) == Outcome(True, True, True, advice)
    same_tag = outcome(model(**rolled_back | {"stable": V1_MOVED, "declared": V1})).advice
    assert same_tag.startswith("iris: v1@111111111111 was rolled back, and v1@444444444444 serves")


def test_a_kit_that_failed_is_not_waited_for_whatever_rollout_goes_on() -> None:
    """Another kit that cannot be resolved, while the one before is on its way."""
    failed = outcome(model("failed", **PAUSED))
    assert (failed.is_settled, failed.is_over, failed.is_lost) == (True, True, True)


def test_a_kit_that_failed_was_not_rolled_back() -> None:
    assert outcome(model("failed", **HEALTHY | {"stable": V1})).advice == ""
    loading = outcome(model("loading", **HEALTHY | {"stable": V1}))
    assert (loading.is_over, loading.is_lost, loading.advice) == (False, False, "")

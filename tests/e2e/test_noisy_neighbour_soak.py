"""Rollouts beside a process that takes the cores in spells. For `make soak`.

KITSERVE_ROLLOUTS is how many there are of an equal canary, and of each that is worse.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.kitserve import Running, running
from tests.support.load import Load
from tests.support.neighbour import Neighbour
from tests.support.trial_kits import BODIES, trial_kits

ROLLOUT: dict[str, Any] = {
    "steps": [{"weight": 20, "for": "15s"}, {"weight": 50, "for": "15s"}],
    "checks": {
        "max_error_rate": 0.01,
        "max_latency_ratio": 1.5,
        "min_requests": 50,
        "agreement": {"min": 0.95, "mirror": 0.1},
    },
    "scale_down_delay": "1s",
    "progress_deadline": "10m",
}
# What the stable version's workers do before the first rollout.
HISTORY_SECONDS = 120.0
ROLLOUT_SECONDS = 700.0
# What makes a rollout fail, whatever else does.
CHECKS = {"failing": "error_rate", "slow": "latency", "lying": "agreement"}


@pytest.mark.soak
def test_a_noisy_neighbour_aborts_no_equal_canary_and_saves_no_bad_one(tmp_path: Path) -> None:
    count = int(os.environ.get("KITSERVE_ROLLOUTS", "10"))
    kits = trial_kits(tmp_path / "layout")
    ends: Counter[tuple[str, str, str]] = Counter()
    with running(tmp_path) as kitserve, Neighbour():
        kitserve.models = {"trial": {"kit": f"{kits}:even", "replicas": 2, "rollout": ROLLOUT}}
        kitserve.start()
        kitserve.wait_for_rollout("trial", phase="Healthy")
        url, seconds = f"{kitserve.url}/v2/models/trial/infer", 6 * count * ROLLOUT_SECONDS
        with Load(url, BODIES, clients=4, pause=0.02, seconds=seconds):
            time.sleep(HISTORY_SECONDS)
            stable = "even"
            for _ in range(count):
                for tag in ("failing", "slow", "lying"):
                    ends[_rolled_out(kitserve, kits, tag)] += 1
                    # Another config ends the rollout that failed.
                    _apply(kitserve, kits, stable)
                    kitserve.wait_for_rollout("trial", phase="Healthy")
                stable = "odd" if stable == "even" else "even"
                ends[_rolled_out(kitserve, kits, stable)] += 1
                print(dict(ends), flush=True)
    assert not {end for end in ends if end[0] in ("even", "odd") and end[1] != "Healthy"}, ends
    assert not {end for end in ends if end[0] in CHECKS and end[1] != "Degraded"}, ends
    assert sum(ends.values()) == 4 * count


def _rolled_out(kitserve: Running, kits: str, tag: str) -> tuple[str, str, str]:
    """Roll a version out; return its tag, the phase in which the rollout ended, and what failed."""
    started = time.monotonic()
    before = kitserve.model("trial")["rollout"]["number"]
    _apply(kitserve, kits, tag)
    ended = ("Healthy", "Degraded")
    status = kitserve.wait(
        lambda status: (
            (rollout := status["models"][0]["rollout"])["number"] > before and rollout["phase"] in ended
        ),
        ROLLOUT_SECONDS,
    )
    rollout: dict[str, Any] = status["models"][0]["rollout"]
    failed = [verdict["check"] for verdict in rollout["verdicts"] if verdict["outcome"] == "Failed"]
    print(
        f"{tag}: {rollout['phase']} after {time.monotonic() - started:.0f} s: {rollout['message']}",
        flush=True,
    )
    if tag in CHECKS and rollout["phase"] == "Degraded":
        assert CHECKS[tag] in failed, rollout
    return tag, rollout["phase"], " ".join(failed)


def _apply(kitserve: Running, kits: str, tag: str) -> None:
    kitserve.models["trial"]["kit"] = f"{kits}:{tag}"
    kitserve.apply(check=False)

"""Many changes and deaths in a row, under load. For `make soak`."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.support.kitserve import Running
from tests.support.load import Load

ROUNDS = 24


@pytest.mark.soak
def test_no_call_fails_whatever_changes_or_dies(kitserve: Running, layout: Path) -> None:
    """Workers and the gateway are killed, and tags and weights change, in a random order."""
    seed = int(os.environ.get("KITSERVE_SEED", "2"))
    chance = random.Random(seed)

    def two_ready(_: object) -> bool:
        versions = [version for version in kitserve.model("soak")["versions"] if version["role"]]
        return all(
            version["replicas"] == 2 and len(kitserve.workers("soak")) == 2 * len(versions)
            for version in versions
        )

    def swap_tag() -> None:
        current = kitserve.models["soak"]["kit"]
        other = "v2" if current.endswith("v1") else "v1"
        kitserve.models["soak"] = {"kit": f"oci-layout:{layout}:samples/iris:{other}", "replicas": 2}
        kitserve.apply()

    def change_weight() -> None:
        current = kitserve.models["soak"]["kit"]
        other = "v2" if current.endswith("v1") else "v1"
        canary = {"kit": f"oci-layout:{layout}:samples/iris:{other}", "weight": chance.randrange(101)}
        kitserve.models["soak"]["canary"] = canary
        kitserve.apply()

    def kill_worker() -> None:
        worker = chance.choice(kitserve.workers("soak"))
        os.kill(worker, signal.SIGKILL)
        kitserve.wait(lambda _: worker not in kitserve.workers("soak"), 10)
        kitserve.wait(lambda _: not two_ready(None), 15)

    def kill_gateway() -> None:
        (gateway,) = kitserve.gateway()
        os.kill(gateway, signal.SIGKILL)
        kitserve.wait(lambda status: kitserve.gateway() != [gateway] and status["generation"] > 0, 60)

    kitserve.models = {"soak": {"kit": f"oci-layout:{layout}:samples/iris:v1", "replicas": 2}}
    kitserve.apply()
    kitserve.wait(two_ready)
    done: list[str] = []
    with Load(f"{kitserve.url}/v2/models/soak/infer", clients=4, pause=0.002, seconds=1800) as load:
        for _ in range(ROUNDS):
            step = chance.choice((swap_tag, change_weight, kill_worker, kill_gateway))
            done.append(step.__name__)
            step()
            time.sleep(chance.random())
            kitserve.wait(two_ready)
            assert load.failures == {}, (seed, done)
    assert load.failures == {}, (seed, done)
    assert load.outcomes["200"] > 1000

"""Configs applied at any moment of a rollout, under load, with orders and deaths in between. For `make soak`.

KITSERVE_ROUNDS is the number of rounds, KITSERVE_SEED the seed of the random numbers.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests

from gateway.cli.admin_client import AdminClient
from gateway.config.config import parse_config
from gateway.errors import ControlError
from tests.support.kitserve import Running
from tests.support.load import Load

CHECKS = {"max_error_rate": 0.1, "min_requests": 20, "agreement": {"min": 0.9, "mirror": 0.3}}
STEPS = [
    [{"weight": 20, "for": "2s"}, {"weight": 60, "for": "2s"}],
    [{"weight": 5, "for": "1s"}, {"weight": 100, "for": "1s"}],
    [{"weight": 30, "pause": True}],
]
GOOD = ["v1", "v2"]
TAGS = [*GOOD, *GOOD, "bad", "missing"]
ROUND_SECONDS = 180.0
PAUSE_SECONDS = 4.0


def rollout(steps: int) -> dict[str, Any]:
    return {"steps": STEPS[steps], "checks": CHECKS, "scale_down_delay": "1s", "max_restarts": 5}


class Person:
    """Whoever applies configs, gives orders and ends the gateway, by chance."""

    def __init__(self, kitserve: Running, layout: Path, chance: random.Random) -> None:
        self._kitserve = kitserve
        self._layout = layout
        self._chance = chance
        self.done: list[str] = []

    def act(self) -> None:
        """Do something."""
        action = self._chance.choice(["apply", "apply", "apply", "order", "gateway"])
        if action == "apply":
            self.apply(self._chance.choice(TAGS))
        elif action == "order":
            self.order(self._chance.choice(["promote", "abort", "retry", "rollback"]))
        else:
            self.done.append("killed the gateway")
            for process in self._kitserve.gateway():
                os.kill(process, signal.SIGKILL)

    def apply(self, tag: str) -> None:
        """Apply a config; try again while the gateway is dead."""
        self.done.append(f"applied {tag}")
        model = self._kitserve.models["soak"]
        model["kit"] = f"oci-layout:{self._layout}:samples/iris:{tag}"
        model["rollout"] = rollout(self._chance.randrange(len(STEPS)))
        self._kitserve.write()
        config = parse_config(self._kitserve.file.read_text())
        deadline = time.monotonic() + 60
        while True:
            try:
                AdminClient(self._kitserve.socket).apply(config)
            except ControlError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            else:
                return

    def order(self, order: str) -> None:
        """Give an order, which may make no sense now."""
        address = f"http://{self._kitserve.admin}/api/models/soak/rollout/{order}"
        with contextlib.suppress(requests.RequestException):
            answer = requests.post(address, json={}, headers=self._kitserve.token, timeout=10)
            self.done.append(f"{order}: {answer.status_code}")

    def see_to_its_end(self, tag: str) -> None:
        """Go through the steps of the last config, until its kit is all that serves."""
        deadline = time.monotonic() + ROUND_SECONDS
        model: dict[str, Any] = {}
        while True:
            with contextlib.suppress(requests.RequestException, AssertionError):
                model = self._kitserve.model("soak")
                shown = model["rollout"]
                stable = {version["tag"]: version for version in model["versions"]}.get(tag, {})
                if shown["phase"] == "Healthy" and stable.get("weight") == 100:
                    if shown["stable"]["tag"] == tag:
                        return
                    self.order("retry")  # it was rolled back under this same config
                elif shown["phase"] == "Degraded":
                    self.order("retry")
                elif shown["phase"] == "Paused":
                    self.order("promote")
            assert time.monotonic() < deadline, f"{model}\n{self.done}"
            time.sleep(0.5)


@pytest.mark.soak
def test_the_last_config_is_in_force_and_no_call_fails(kitserve: Running, layout: Path) -> None:
    count, seed = int(os.environ.get("KITSERVE_ROUNDS", "10")), int(os.environ.get("KITSERVE_SEED", "7"))
    chance = random.Random(seed)
    person = Person(kitserve, layout, chance)
    kitserve.models = {"soak": {"replicas": 2}}
    person.apply("v1")
    kitserve.wait(lambda status: any(model["rollout"] is not None for model in status["models"]))
    ends: Counter[str] = Counter()
    with Load(f"{kitserve.url}/v2/models/soak/infer", clients=4, pause=0.005, seconds=count * 300) as load:
        for _ in range(count):
            for _ in range(chance.randint(2, 5)):
                person.act()
                time.sleep(chance.uniform(0, PAUSE_SECONDS))
            last = chance.choice(GOOD)
            person.apply(last)
            person.see_to_its_end(last)
            ends[last] += 1
            person.done.append(f"{last} serves")
            print(person.done[-1], flush=True)
            assert load.failures == {}, (seed, person.done)
    print(json.dumps({"rounds": count, "ends": ends, "calls": load.outcomes["200"], "done": person.done}))
    assert load.failures == {}
    assert load.outcomes["200"] > 20 * count

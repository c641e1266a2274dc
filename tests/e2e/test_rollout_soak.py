"""Many rollouts in a row, under load, while processes that take part in them are killed. For `make soak`.

KITSERVE_ROLLOUTS is their number, KITSERVE_SEED the seed of the random numbers.
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
from gateway.edge.haproxy import ask
from gateway.errors import ControlError, EdgeError
from tests.support.kitserve import Running
from tests.support.load import Load

ROLLOUT: dict[str, Any] = {
    "steps": [{"weight": 20, "for": "2s"}, {"weight": 60, "for": "2s"}],
    "checks": {"max_error_rate": 0.1, "min_requests": 20, "agreement": {"min": 0.9, "mirror": 0.3}},
    "scale_down_delay": "1s",
    "progress_deadline": "120s",
    "max_restarts": 3,
}
GOOD = ["CanaryLoading", "GatesRunning", "StepRunning", "StepRunning", "RolloutCompleted"]
MAX_KILLS = 2
KILLS_WITHIN_SECONDS = 12.0
ROUND_SECONDS = 240.0
# After so long, the gateway has noticed that a killed worker is gone.
NOTICE_SECONDS = 6.0
# Calls on their way through an edge that dies are lost with it; their failures come a little later.
EDGE_SECONDS = 0.5


class Killer:
    """Kills processes that take part in a rollout, where a healthy one is left to take the calls."""

    def __init__(self, kitserve: Running, model: str, chance: random.Random) -> None:
        self._kitserve = kitserve
        self._model = model
        self._chance = chance
        self.files = kitserve.edge()
        self.killed: Counter[str] = Counter()
        self._last = float("-inf")
        self.edge_gone: list[tuple[float, float]] = []
        """The spans in which calls could fail for lack of an edge: start and end by `time.monotonic`."""

    def kill(self) -> str:
        """Kill a process by chance. Return which one it was, "" where none could be spared."""
        victim = self._chance.choice(("gateway", "edge", "stable", "canary"))
        killed = getattr(self, f"_{victim}")()
        self.killed[victim] += killed
        return victim if killed else ""

    def _gateway(self) -> bool:
        return self._end(self._kitserve.gateway())

    def _edge(self) -> bool:
        """End the process that takes the calls; its master starts anew, and so do all."""
        pid = self._edge_pid()
        if not pid:
            return False
        started = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        deadline = started + 30
        while True:
            assert time.monotonic() < deadline, "the edge did not come back"
            with contextlib.suppress(requests.RequestException):
                requests.get(f"{self._kitserve.url}/v2/health/live", timeout=5)
                if self._edge_pid() != pid:
                    break
            time.sleep(0.02)
        self.edge_gone.append((started, time.monotonic() + EDGE_SECONDS))
        return True

    def _edge_pid(self) -> int:
        try:
            shown = ask(self.files.runtime_socket, "show info")
        except EdgeError:
            return 0
        return next(int(line.split(":")[1]) for line in shown.splitlines() if line.startswith("Pid:"))

    def _stable(self) -> bool:
        if time.monotonic() - self._last < NOTICE_SECONDS:
            return False
        version = self._version("stable")
        return version is not None and version["replicas"] == 2 and self._end_one(version["app"], of=2)

    def _canary(self) -> bool:
        version = self._version("canary")
        return version is not None and self._end_one(version["app"], of=1)

    def _version(self, role: str) -> dict[str, Any] | None:
        try:
            versions = self._kitserve.model(self._model)["versions"]
        except (requests.RequestException, AssertionError):
            return None
        return next((version for version in versions if version["role"] == role), None)

    def _end_one(self, app: str, of: int) -> bool:
        workers = self._kitserve.replicas(app)
        self._last = time.monotonic()
        return len(workers) >= of and self._end([self._chance.choice(workers)])

    def _end(self, processes: list[int]) -> bool:
        for process in processes:
            os.kill(process, signal.SIGKILL)
        return bool(processes)


def unexplained(load: Load, killer: Killer) -> list[str]:
    """Return the failures of calls that the death of an edge does not explain."""
    return [
        outcome
        for moment, outcome in load.failed_at
        if outcome[:1].isdigit() or not any(start <= moment <= end for start, end in killer.edge_gone)
    ]


def apply(kitserve: Running) -> None:
    """Apply the models; try again while the gateway is dead."""
    kitserve.write()
    config = parse_config(kitserve.file.read_text())
    deadline = time.monotonic() + 60
    while True:
        try:
            AdminClient(kitserve.socket).apply(config)
        except ControlError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        else:
            return


def history(kitserve: Running, model: str, number: int) -> list[str]:
    """Return the reasons of a rollout's events, in order."""
    address = f"http://{kitserve.admin}/api/models/{model}/rollout/history"
    events = requests.get(address, timeout=10).json()["events"]
    return [event["reason"] for event in reversed(events) if event["number"] == number]


@pytest.mark.soak
def test_every_rollout_ends_as_it_should_whatever_dies(kitserve: Running, layout: Path) -> None:
    count, seed = int(os.environ.get("KITSERVE_ROLLOUTS", "50")), int(os.environ.get("KITSERVE_SEED", "7"))
    chance = random.Random(seed)
    killer = Killer(kitserve, "rolled", chance)

    def kit(tag: str) -> str:
        return f"oci-layout:{layout}:samples/iris:{tag}"

    def settled(status: dict[str, Any], tag: str, number: int) -> bool:
        model = next((model for model in status["models"] if model["name"] == "rolled"), None)
        if model is None or model["rollout"] is None:
            return False
        rollout = model["rollout"]
        stable = next((version for version in model["versions"] if version["role"] == "stable"), None)
        ended = rollout["number"] == number and rollout["phase"] in ("Healthy", "Degraded")
        return ended and stable is not None and stable["tag"] == tag and stable["replicas"] == 2

    kitserve.models = {"rolled": {"kit": kit("v1"), "replicas": 2, "rollout": ROLLOUT}}
    kitserve.apply()
    kitserve.wait(lambda status: settled(status, "v1", 0))
    stable, target = "v1", "v1"
    report: list[str] = []
    ends: Counter[str] = Counter()
    url = f"{kitserve.url}/v2/models/rolled/infer"
    with Load(url, clients=4, pause=0.005, seconds=count * ROUND_SECONDS) as load:
        for number in range(1, count + 1):
            choices = [tag for tag in ("v1", "v2", "bad") if tag not in (stable, target)]
            target = chance.choice([*choices, *(tag for tag in choices if tag != "bad")])
            kitserve.models["rolled"]["kit"] = kit(target)
            apply(kitserve)
            deaths = []
            for pause in sorted(chance.uniform(0, KILLS_WITHIN_SECONDS) for _ in range(MAX_KILLS)):
                time.sleep(pause / MAX_KILLS)
                deaths.append(killer.kill())
            good = target != "bad"
            stable = target if good else stable
            kitserve.wait(
                lambda status, tag=stable, number=number: settled(status, tag, number), ROUND_SECONDS
            )
            reasons = history(kitserve, "rolled", number)
            report.append(
                f"{number}: {target}, killed {', '.join(filter(None, deaths)) or 'nobody'}: {reasons[-1]}"
            )
            print(report[-1], flush=True)
            ends[reasons[-1]] += 1
            if good:
                assert reasons == GOOD, (seed, report, reasons)
            else:
                assert reasons[-1] == "AnalysisFailed", (seed, report, reasons)
                assert reasons.count("CanaryLoading") == 1, (seed, report, reasons)
            assert unexplained(load, killer) == [], (seed, report)
    print(
        json.dumps(
            {
                "rollouts": count,
                "ends": ends,
                "killed": killer.killed,
                "calls": load.outcomes["200"],
                "lost_with_an_edge": len(load.failed_at),
            }
        )
    )
    assert unexplained(load, killer) == [], (seed, report)
    assert load.outcomes["200"] > 20 * count

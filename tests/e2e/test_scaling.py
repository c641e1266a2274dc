"""Workers follow the load, up, down and to none, and no call fails meanwhile."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from tests.support.kitserve import IRIS, Running
from tests.support.load import Load

ROWS = 2000
LARGE = json.dumps(
    {"inputs": [{"name": "input", "shape": [ROWS, 4], "datatype": "FP32", "data": IRIS * ROWS}]}
).encode()
"""A call that keeps a worker busy for some milliseconds."""


def kit(layout: Path) -> str:
    return f"oci-layout:{layout}:samples/iris:v1"


def replicas(kitserve: Running, name: str) -> int:
    return int(kitserve.model(name)["versions"][0]["replicas"])


def state(kitserve: Running, name: str) -> str:
    return str(kitserve.model(name)["state"])


def test_workers_come_with_the_load_and_go_after_it(kitserve: Running, layout: Path) -> None:
    scaled = {"min": 1, "max": 3, "target_ongoing_requests": 1, "upscale_delay": "1s"}
    kitserve.models = {"scaled": {"kit": kit(layout), "replicas": {**scaled, "downscale_delay": "2s"}}}
    kitserve.apply()
    assert replicas(kitserve, "scaled") == 1
    url = f"{kitserve.url}/v2/models/scaled/infer"
    with Load(url, clients=1, pause=0.05) as few:
        with Load(url, LARGE, clients=8) as many:
            started = time.monotonic()
            kitserve.wait(lambda _: replicas(kitserve, "scaled") == 3, 30)
            assert time.monotonic() - started < 15, "it takes a few seconds"
            time.sleep(1)
        kitserve.wait(lambda _: replicas(kitserve, "scaled") == 1, 30)
        kitserve.wait(lambda _: len(kitserve.workers("scaled")) == 1, 30)
    assert few.failures == many.failures == {}
    assert many.outcomes["200"] > 50


def test_it_sleeps_when_nobody_calls_and_wakes_for_fifty_at_once(kitserve: Running, layout: Path) -> None:
    kitserve.models = {
        "sleeper": {"kit": kit(layout), "replicas": {"min": 0, "max": 2, "downscale_to_zero_delay": "2s"}}
    }
    kitserve.apply()
    assert state(kitserve, "sleeper") == "ready", "it has shown that it loads"
    kitserve.wait(lambda _: state(kitserve, "sleeper") == "asleep", 20)
    kitserve.wait(lambda _: kitserve.workers("sleeper") == [], 20)

    # It counts as ready, and asking for that does not wake it.
    for path in ("/v2/health/ready", "/v2/models/sleeper/ready", "/v2/models/sleeper/versions/v1/ready"):
        answer = requests.get(kitserve.url + path, timeout=5)
        assert (answer.status_code, answer.json()["ready"]) == (200, True), path
    (entry,) = requests.post(f"{kitserve.url}/v2/repository/index", timeout=5).json()
    assert (entry["state"], entry["reason"]) == ("READY", "asleep: the next call wakes it")
    assert "sleeper: the next call wakes it" in kitserve.run("status", "--admin", kitserve.admin).stdout
    lines = [line for line in kitserve.metrics().splitlines() if 'model="sleeper"' in line]
    (ready,) = (line for line in lines if line.startswith("kitserve_replicas") and 'state="ready"' in line)
    assert ready.endswith(" 0.0")
    of_versions = [line for line in lines if 'version="v1"' in line]
    assert of_versions
    assert all('runtime="onnx"' in line for line in of_versions)
    assert kitserve.workers("sleeper") == []

    with ThreadPoolExecutor(50) as callers:
        started = time.monotonic()
        answers = list(callers.map(lambda _: kitserve.infer("sleeper"), range(50)))
        seconds = time.monotonic() - started
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["ModelKit-Role"] for answer in answers} == {"stable"}
    assert seconds < 10, "it takes a few seconds"


def test_a_call_whenever_it_falls_asleep_is_always_answered(kitserve: Running, layout: Path) -> None:
    idle = 1.0
    scaled = {"min": 0, "max": 1, "downscale_to_zero_delay": idle}
    kitserve.models = {"restless": {"kit": kit(layout), "replicas": scaled}}
    kitserve.apply()
    naps = 0
    # Serve learns of the idle time a second or two later: these pauses end before, at and after its decision.
    for pause in (idle + step * 0.4 for step in range(1, 8)):
        time.sleep(pause)
        naps += state(kitserve, "restless") == "asleep"
        answer = kitserve.infer("restless")
        assert answer.status_code == 200, (pause, answer.text)
    assert 1 <= naps <= 6


def test_it_sleeps_on_while_the_gateway_is_started_again(kitserve: Running, layout: Path) -> None:
    kitserve.models = {
        "calm": {"kit": kit(layout), "replicas": {"min": 0, "max": 1, "downscale_to_zero_delay": "1s"}}
    }
    kitserve.apply()
    kitserve.wait(lambda _: state(kitserve, "calm") == "asleep" and kitserve.workers("calm") == [], 20)
    (before,) = kitserve.model("calm")["versions"]
    (gateway,) = kitserve.gateway()
    os.kill(gateway, signal.SIGKILL)
    kitserve.wait(lambda status: kitserve.gateway() != [gateway] and status["generation"] > 0, 60)
    (after,) = kitserve.model("calm")["versions"]
    for fact in ("app", "role", "weight", "state", "replicas"):
        assert after[fact] == before[fact]
    assert kitserve.workers("calm") == []
    assert requests.get(f"{kitserve.url}/v2/health/ready", timeout=5).status_code == 200
    assert kitserve.infer("calm").status_code == 200


def test_other_bounds_and_delays_keep_the_workers(kitserve: Running, layout: Path) -> None:
    kitserve.models = {"bounds": {"kit": kit(layout), "replicas": 1}}
    kitserve.apply()
    app = kitserve.model("bounds")["versions"][0]["app"]
    first = set(kitserve.workers("bounds"))
    with Load(f"{kitserve.url}/v2/models/bounds/infer", clients=2, pause=0.002) as load:
        for bounds, expected in (
            ({"min": 1, "max": 2, "target_ongoing_requests": 0.2, "upscale_delay": "1s"}, 2),
            (2, 2),
            ({"min": 2, "max": 3, "upscale_delay": "9s", "downscale_delay": "2s", "wake_timeout": "5s"}, 2),
            (3, 3),
            ({"min": 0, "max": 3, "target_ongoing_requests": 100, "downscale_delay": "1s"}, 1),
        ):
            kitserve.models["bounds"]["replicas"] = bounds
            kitserve.apply()
            kitserve.wait(lambda _, expected=expected: replicas(kitserve, "bounds") == expected, 40)
            assert [version["app"] for version in kitserve.model("bounds")["versions"]] == [app]
            if expected > 1:
                assert first <= set(kitserve.workers("bounds")), "those that run go on"
    assert load.failures == {}
    assert load.outcomes["200"] > 100

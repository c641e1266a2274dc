"""More calls than a worker can answer one by one: they run together, wait in bounds, or are refused."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support.kitserve import IRIS, Running

CALLERS = 16
ROWS = 200
SECONDS = 2.0

Answer = tuple[int, str, bytes]


def body(name: str = "input") -> bytes:
    tensor = {"name": name, "shape": [ROWS, 4], "datatype": "FP32", "data": IRIS * ROWS}
    return json.dumps({"inputs": [tensor]}).encode()


def load(kitserve: Running, model: str, headers: dict[str, str] | None = None) -> list[Answer]:
    """Call a model from many callers for some seconds. Return each answer: status, Retry-After, body."""
    answers: list[Answer] = []
    end = time.monotonic() + SECONDS

    def call() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", kitserve.port, timeout=10)
        while time.monotonic() < end:
            connection.request("POST", f"/v2/models/{model}/infer", body(), headers or {})
            answer = connection.getresponse()
            answers.append((answer.status, answer.getheader("Retry-After", ""), answer.read()))
        connection.close()

    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS + 15)
    return answers


def metric(kitserve: Running, name: str, accepts: Callable[[float], bool], **labels: str) -> float:
    """Return the sum of a metric's samples once `accepts` it, or as it is after 10 s.

    Workers report every second.
    """
    deadline = time.monotonic() + 10
    while True:
        families = text_string_to_metric_families(kitserve.metrics())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        value = sum(sample.value for sample in samples if labels.items() <= sample.labels.items())
        if accepts(value) or time.monotonic() > deadline:
            return value
        time.sleep(0.2)


def test_calls_run_together_wait_in_bounds_or_are_refused(kitserve: Running, layout: Path) -> None:
    iris = f"oci-layout:{layout}:samples/iris:v1"
    batching = {"max_batch_size": 1024, "max_delay": "5ms"}
    kitserve.models = {
        "together": {"kit": iris, "batching": batching},
        "bounded": {"kit": iris, "queue": {"max_requests": 1}},
        "script": {"kit": f"oci-layout:{layout}:samples/iris-torchscript:v1", "batching": batching},
    }
    kitserve.apply()

    answers = load(kitserve, "together")
    assert Counter(status for status, *_ in answers) == {200: len(answers)}
    outputs = {answer.partition(b'"outputs"')[2] for _, _, answer in answers}
    assert len(outputs) == 1, "the same rows have the same answers in any batch"
    rows = len(answers) * ROWS
    assert metric(kitserve, "kitserve_batch_size_sum", lambda value: value >= rows, model="together") == rows
    runs = metric(kitserve, "kitserve_batch_size_count", lambda value: value > 0, model="together")
    # How many calls wait at once depends on the callers, which share the machine.
    assert runs < len(answers)
    stats = requests.get(f"{kitserve.url}/v2/models/together/stats", timeout=10).json()["model_stats"][0]
    assert (stats["inference_count"], stats["execution_count"]) == (rows, runs)
    assert sum(entry["compute_infer"]["count"] for entry in stats["batch_stats"]) == runs
    assert max(entry["batch_size"] for entry in stats["batch_stats"]) >= 2 * ROWS
    config = requests.get(f"{kitserve.url}/v2/models/together/config", timeout=10).json()
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (1024, [4])

    answers = load(kitserve, "bounded")
    statuses = Counter(status for status, *_ in answers)
    assert set(statuses) == {200, 503}
    refused = next(answer for answer in answers if answer[0] == 503)
    assert refused[1] == "1"
    assert json.loads(refused[2])["error"].startswith("too many calls wait for the model: 1 call, ")
    rejected = {"model": "bounded", "reason": "rejected"}
    number = statuses[503]
    total = "kitserve_requests_dropped_total"
    assert metric(kitserve, total, lambda value: value >= number, **rejected) == number

    answers = load(kitserve, "together", {"X-Request-Timeout": "1ms"})
    statuses = Counter(status for status, *_ in answers)
    assert set(statuses) == {200, 504}
    late = next(answer for answer in answers if answer[0] == 504)
    assert json.loads(late[2])["error"] == "the call waited for the model for longer than its 0.001 s"
    answer = requests.post(
        f"{kitserve.url}/v2/models/together/infer", body(), headers={"X-Request-Timeout": "soon"}, timeout=10
    )
    assert (answer.status_code, answer.json()["error"][:34]) == (400, "X-Request-Timeout must be seconds ")

    shown = kitserve.run("status", "--admin", kitserve.admin).stdout
    assert "not batched: " in shown
    (version,) = kitserve.model("script")["versions"]
    assert version["note"].startswith("not batched: ")
    assert kitserve.model("together")["versions"][0]["note"] == ""

"""What an operator sees of an outage: in the metrics, and in the one stream of logs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support.dashboard import CONDITIONAL, expressions
from tests.support.kitserve import Running
from tests.support.prometheus import Prometheus, prometheus


@pytest.fixture
def monitor(kitserve: Running, tmp_path: Path) -> Iterator[Prometheus]:
    with prometheus(tmp_path / "prometheus", kitserve.admin_port) as monitor:
        yield monitor


def test_killed_workers_are_seen_in_metrics_and_in_the_stream(
    kitserve: Running, layout: Path, monitor: Prometheus
) -> None:
    kitserve.models = {
        "outage": {
            "kit": f"oci-layout:{layout}:samples/iris:v1",
            "replicas": 2,
            "batching": {"max_batch_size": 8},
            "resources": {"memory": "1GiB"},
        },
        "nowhere": {"kit": f"oci-layout:{layout}:samples/iris:none"},
    }
    kitserve.apply(check=False)
    kitserve.wait(lambda status: {model["state"] for model in status["models"]} == {"ready", "failed"})
    assert requests.get(f"{kitserve.url}/v2/health/ready?any", timeout=10).status_code == 200
    assert requests.get(f"{kitserve.url}/v2/health/ready", timeout=10).status_code == 503

    def value(name: str, **labels: str) -> float:
        families = text_string_to_metric_families(kitserve.metrics())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    # A few seconds of calls, as many as it takes until each query of the dashboard has something to show.
    empty = {"all": ""}
    deadline = time.monotonic() + 30
    while empty and time.monotonic() < deadline:
        for _ in range(20):
            assert kitserve.infer("outage").status_code == 200
        empty = {
            title: expression
            for title, expression in expressions()
            if not monitor.query(expression) and title not in CONDITIONAL
        }
    assert empty == {}
    for worker in kitserve.workers("outage"):
        os.kill(worker, signal.SIGKILL)
    statuses: Counter[int] = Counter()
    deadline = time.monotonic() + 60
    # Until Serve has started the next worker.
    while not (statuses[503] and statuses[200]) and time.monotonic() < deadline:
        with contextlib.suppress(requests.ConnectionError):
            statuses[kitserve.infer("outage").status_code] += 1
    assert statuses[503]
    alarms = {
        ("nowhere", "KitserveModelFailed"),
        ("outage", "KitserveCallsUnanswered"),
        ("nowhere", "KitserveModelUnavailable"),
    }
    fired: set[tuple[str, str]] = set()
    nowhere = 0
    deadline = time.monotonic() + 30
    while not alarms <= fired and time.monotonic() < deadline:
        assert kitserve.infer("nowhere").status_code == 503
        nowhere += 1
        time.sleep(0.2)
        fired |= monitor.firing()
    assert alarms <= fired
    assert (
        value("kitserve_edge_responses_total", model="outage", source="edge", status="5xx") >= statuses[503]
    )
    assert value("kitserve_edge_unavailable_responses_total", model="nowhere") == nowhere
    assert value("kitserve_model_state", model="nowhere", state="failed") == 1
    kitserve.wait(lambda _: value("kitserve_worker_restarts_total", model="outage") == 2, 30)
    kitserve.wait(lambda _: value("kitserve_replicas", model="outage", state="ready") == 2)
    assert value("kitserve_model_state", model="outage", state="ready") == 1
    assert value("kitserve_worker_resident_memory_bytes", model="outage") > 2 * 20_000_000
    for process in ("gateway", "edge"):
        assert value("kitserve_process_resident_memory_bytes", process=process) > 5_000_000

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in kitserve.log.read_text().splitlines()]

    def shown() -> int:
        """Return how many of the failed calls the log has, or counts."""
        written: int = sum(line["event"] == "access" and line["model"] == "outage" for line in lines())
        omitted = [int(line["lines"]) for line in lines() if line["event"] == "access.omitted"]
        return written + sum(omitted)

    kitserve.wait(lambda _: shown() >= 0.9 * statuses[503], 10)
    assert all({"time", "level", "process", "event"} <= line.keys() for line in lines())
    assert {"said", "model.changed", "version.deployed", "worker.ready"} <= {
        line["event"] for line in lines()
    }

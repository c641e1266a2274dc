"""The example of alert rules: what promtool says of it, and a real Prometheus in an outage."""

from __future__ import annotations

import json
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from gateway.edge.routes import Route, RoutingTable
from gateway.metrics.exposition import METRICS, KitserveCollector, Scrape
from gateway.metrics.system import SystemSample
from gateway.metrics.tally import Tally
from gateway.metrics.versions import VersionLabels, VersionSample
from tests.support.edge import RunningEdge, Workers, backend
from tests.support.ports import free_port
from tests.support.waiting import wait

ROOT = Path(__file__).parents[2]
RULES = ROOT / "configs" / "prometheus" / "alerts.yaml"


def promtool(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(
        ["promtool", *arguments], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, Any]]:
    document: dict[str, Any] = yaml.safe_load(RULES.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def measure(edge: RunningEdge) -> Scrape:
    """Return what is measured of an edge in front of iris v1."""
    statistics = edge.control.statistics()
    labels = VersionLabels("iris", "v1", "0123456789ab", "onnx")
    version = VersionSample(labels, Tally().numbers(), edge=statistics.versions["iris.v1"])
    return Scrape((version,), SystemSample((), statistics.whole, {"edge": statistics.memory_bytes}))


def test_the_rules_fire_on_what_they_are_for(tmp_path: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", str(RULES))
    scenario = (ROOT / "tests" / "data" / "alerts_test.yaml").read_text()
    for rule in rules():
        assert f"alertname: {rule['alert']}" in scenario, "every rule has a test"
    file = tmp_path / "test.yaml"
    file.write_text(scenario.replace("RULES", str(RULES)))
    assert "SUCCESS" in promtool("test", "rules", str(file))


def test_the_rules_name_only_metrics_that_there_are() -> None:
    names = {metric.exposed_name for metric in METRICS}
    for rule in rules():
        words = rule["expr"].replace("(", " ").replace("{", " ").replace("[", " ").replace(")", " ").split()
        used = {word for word in words if word.startswith("kitserve_")}
        assert used, rule
        assert used <= names, rule


def test_the_names_of_metrics_are_as_prometheus_wants_them(edge: RunningEdge, workers: Workers) -> None:
    edge.control.apply(RoutingTable((Route("iris", backend("v1", workers.start("v1"))),)))
    edge.get("/v2/models/iris/infer")
    registry = CollectorRegistry()
    registry.register(KitserveCollector(lambda: measure(edge)))
    assert promtool("check", "metrics", text=generate_latest(registry).decode()) == ""


@contextmanager
def prometheus(directory: Path, target: int) -> Iterator[str]:
    """A Prometheus with the example's rules, all their times a tenth; yields its URL."""
    quick = RULES.read_text().replace("[1m]", "[6s]").replace("for: 15s", "for: 1s")
    (directory / "alerts.yaml").write_text(quick)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "scrape_configs": [
            {"job_name": "kitserve", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
        ],
        "rule_files": ["alerts.yaml"],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (directory / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)["data"]


def firing(url: str) -> set[tuple[str, str]]:
    try:
        alerts = ask(f"{url}/api/v1/alerts")["alerts"]
    except OSError:
        return {("", "starting")}
    return {
        (alert["labels"].get("model", ""), alert["labels"]["alertname"])
        for alert in alerts
        if alert["state"] == "firing"
    }


def test_a_prometheus_raises_an_alarm_while_callers_find_no_worker(
    edge: RunningEdge, workers: Workers, tmp_path: Path
) -> None:
    pair = (workers.start("v1"), workers.start("v1"))
    edge.control.apply(RoutingTable((Route("iris", backend("v1", *pair)),)))
    assert edge.get("/v2/models/iris/infer")[0] == 200
    registry = CollectorRegistry()
    registry.register(KitserveCollector(lambda: measure(edge)))
    port, done = free_port(), threading.Event()
    statuses: list[int] = []

    def call() -> None:
        while not done.wait(0.02):
            statuses.append(edge.get("/v2/models/iris/infer")[0])

    server, _ = start_http_server(port, "127.0.0.1", registry)
    caller = threading.Thread(target=call)
    directory = tmp_path / "prometheus"
    directory.mkdir()
    try:
        with prometheus(directory, port) as url:
            caller.start()
            query = f"{url}/api/v1/query?query=kitserve_edge_up"
            wait(lambda: firing(url) == set() and ask(query)["result"])
            assert firing(url) == set()
            for worker in pair:
                workers.kill(worker)
            wait(lambda: ("iris", "KitserveCallsUnanswered") in firing(url), 60)
            done.set()
            caller.join()
            failed = sum(status == 503 for status in statuses)
            assert failed > 10
            assert edge.control.statistics().versions["iris.v1"].responses["edge", "5xx"] == failed
    finally:
        done.set()
        caller.join()
        server.shutdown()
        server.server_close()

"""The alert rules: what promtool says of them, and a real Prometheus in an outage."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from gateway.config.config import GatewayConfig
from gateway.edge.certificates import first_end
from gateway.edge.routes import Route, RoutingTable
from gateway.metrics.exposition import METRICS, KitserveCollector, Scrape
from gateway.metrics.system import SystemSample
from gateway.metrics.tally import Tally
from gateway.metrics.versions import VersionLabels, VersionSample
from tests.support.busy_metrics import busy_metrics
from tests.support.certificates import make_certificates
from tests.support.dashboard import expressions
from tests.support.edge import RunningEdge, Workers, backend
from tests.support.ports import free_port
from tests.support.prometheus import RULES, prometheus
from tests.support.waiting import wait

ROOT = Path(__file__).parents[2]


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
    scenario = yaml.safe_load((ROOT / "tests" / "data" / "alerts_test.yaml").read_text())
    scenario["rule_files"] = [str(RULES)]
    texts = {rule["alert"]: rule["annotations"] for rule in rules()}
    fired = set()
    for case in (case for test in scenario["tests"] for case in test["alert_rule_test"]):
        for alert in case.get("exp_alerts", ()):
            alert["exp_annotations"] = texts[case["alertname"]] | alert["exp_annotations"]
            fired.add(case["alertname"])
    assert fired == texts.keys(), "every rule fires in a test"
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(scenario))
    assert "SUCCESS" in promtool("test", "rules", str(file))


def test_the_rules_name_only_metrics_that_there_are() -> None:
    names = {metric.exposed_name for metric in METRICS}
    for rule in rules():
        used = set(re.findall(r"\bkitserve_\w+", rule["expr"]))
        assert used, rule
        assert used <= names, rule


def test_the_names_of_metrics_are_as_prometheus_wants_them(edge: RunningEdge, workers: Workers) -> None:
    edge.control.apply(RoutingTable((Route("iris", backend("v1", workers.start("v1"))),)))
    edge.get("/v2/models/iris/infer")
    for read in (lambda: measure(edge), busy_metrics(0.0, time.time)):
        registry = CollectorRegistry()
        registry.register(KitserveCollector(read))
        assert promtool("check", "metrics", text=generate_latest(registry).decode()) == ""


def test_every_alert_has_a_runbook_and_says_what_to_do() -> None:
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    names = [rule["alert"] for rule in rules()]
    assert [heading for heading in headings if heading.startswith("Kitserve")] == names
    listed = (ROOT / "docs" / "operating.md").read_text()
    for rule in rules():
        notes = rule["annotations"]
        assert notes.keys() == {"summary", "description", "runbook_url"}
        assert notes["runbook_url"] == f"docs/troubleshooting.md#{rule['alert'].lower()}"
        assert len(notes["description"].split()) > 8, rule["alert"]
        assert "{{" not in notes["description"], "the test of the rules takes it as it is"
        assert re.search(rf"\b{rule['alert']}\b", listed), rule["alert"]
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_the_config_for_prometheus_has_the_rules(tmp_path: Path) -> None:
    config = RULES.parent / "prometheus.yml"
    assert "1 rule files found" in promtool("check", "config", str(config))
    (job,) = yaml.safe_load(config.read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": [str(GatewayConfig().admin)]}]


@contextmanager
def exposed(read: Callable[[], Scrape]) -> Iterator[int]:
    """Metrics at a port of their own; yields the port."""
    registry, port = CollectorRegistry(), free_port()
    registry.register(KitserveCollector(read))
    server, _ = start_http_server(port, "127.0.0.1", registry)
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()


def test_a_prometheus_raises_an_alarm_while_callers_find_no_worker(
    edge: RunningEdge, workers: Workers, tmp_path: Path
) -> None:
    pair = (workers.start("v1"), workers.start("v1"))
    edge.control.apply(RoutingTable((Route("iris", backend("v1", *pair)),)))
    assert edge.get("/v2/models/iris/infer")[0] == 200
    done = threading.Event()
    statuses: list[int] = []

    def call() -> None:
        while not done.wait(0.02):
            statuses.append(edge.get("/v2/models/iris/infer")[0])

    caller = threading.Thread(target=call)
    with exposed(lambda: measure(edge)) as port, prometheus(tmp_path / "prometheus", port) as monitor:
        try:
            caller.start()
            wait(lambda: monitor.firing() == set() and bool(monitor.query("kitserve_edge_up")))
            assert monitor.firing() == set()
            for worker in pair:
                workers.kill(worker)
            wait(lambda: ("iris", "KitserveCallsUnanswered") in monitor.firing(), 60)
        finally:
            done.set()
            caller.join()
    failed = sum(status == 503 for status in statuses)
    assert failed > 10
    assert edge.control.statistics().versions["iris.v1"].responses["edge", "5xx"] == failed


def test_a_kitserve_that_has_everything_fills_every_panel_and_raises_its_alarms(tmp_path: Path) -> None:
    ends = first_end(make_certificates(tmp_path).expired.cert_file.read_bytes()).timestamp()
    expected = {
        ("wine", "KitserveModelFailed"),
        ("wine", "KitserveKitOutOfReach"),
        ("iris", "KitserveRolloutStuck"),
        ("iris", "KitserveWorkerMemoryNearLimit"),
        ("iris", "KitserveCallsUnanswered"),
        ("iris", "KitserveQueueFull"),
        ("iris", "KitserveLoadFailures"),
        ("iris", "KitserveWorkerLogErrors"),
        ("", "KitserveStateNotSaved"),
        ("", "KitserveConfigNotInForce"),
        ("", "KitserveGatewayLogErrors"),
        ("", "KitserveCertificateEnds"),
        ("", "KitserveMemoryLow"),
        ("", "KitserveGpuThrottled"),
        ("", "KitserveDiskLow"),
    }
    with (
        exposed(busy_metrics(ends, time.time)) as port,
        prometheus(tmp_path / "prometheus", port) as monitor,
    ):
        wait(lambda: monitor.firing() >= expected, 60)
        empty = {title for title, expression in expressions() if not monitor.query(expression)}
    assert empty == set()

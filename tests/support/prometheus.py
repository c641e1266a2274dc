"""A real Prometheus that reads a Kitserve's metrics and judges the alert rules."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.ports import free_port

RULES = Path(__file__).parents[2] / "configs" / "prometheus" / "alerts.yaml"
RATE_INTERVAL = "6s"
"""Over how long rates are taken where metrics are read each second."""


class Prometheus:
    """One that runs, at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its API."""
        question = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(question, timeout=5) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression now."""
        series: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return series

    def firing(self) -> set[tuple[str, str]]:
        """Return model and name of the alerts that fire; one without a name while it still starts."""
        try:
            alerts = self.ask("alerts")["alerts"]
        except OSError:
            return {("", "starting")}
        return {
            (alert["labels"].get("model", ""), alert["labels"]["alertname"])
            for alert in alerts
            if alert["state"] == "firing"
        }


@contextmanager
def prometheus(directory: Path, target: int) -> Iterator[Prometheus]:
    """A Prometheus that reads port `target` of this machine each second, with the rules in fast motion."""
    directory.mkdir(exist_ok=True)
    quick = re.sub(r"\[\d+m\]", f"[{RATE_INTERVAL}]", RULES.read_text())
    (directory / "alerts.yaml").write_text(re.sub(r"\bfor: \w+", "for: 1s", quick))
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
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(20)

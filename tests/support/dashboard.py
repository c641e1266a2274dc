"""The dashboard for Grafana, as tests read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.prometheus import RATE_INTERVAL

DASHBOARD = Path(__file__).parents[2] / "configs" / "grafana" / "dashboards" / "kitserve.json"
CONDITIONAL: Mapping[str, str] = {
    "Log of the gateway": "there is no series before something is logged",
    "Log of workers": "there is no series before something is logged",
    "Certificates": "only with TLS",
    "Verdicts": "only where a rollout is judged",
    "Units of evidence": "only where a rollout is judged",
    "Phases": "only where a model has `rollout`",
    "Steps": "only where a model has `rollout`",
    "Mirrored share": "only where a model has `rollout`",
    "Time at a step": "only where a model has `rollout`",
    "Rollouts begun": "only where a model has `rollout`",
    "Recorded calls": "only where a model has `payloads`",
    "Spans of traced calls": "only with `tracing`",
    "Tokens": "only of language models",
    "Time to first token": "only of language models",
    "Time between tokens": "only of language models",
    "Time per token": "only of language models",
    "Key-value cache": "only of language models",
    "Calls by key": "only with keys",
    "Turned away": "only with keys",
    "Memory of GPUs": "only with GPUs",
    "Use of GPUs": "only with GPUs",
    "GPU memory of workers": "only with GPUs",
    "Power of GPUs": "only with GPUs",
    "Throttling of GPUs": "only while one is throttled",
}
"""The panels that may be empty while a Kitserve answers calls, and why."""


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return document


def rows() -> Iterator[tuple[dict[str, Any], Sequence[dict[str, Any]]]]:
    """Yield each row and the panels in it, whether it is closed or not."""
    panels = dashboard()["panels"]
    starts = [number for number, panel in enumerate(panels) if panel["type"] == "row"]
    for start, end in zip(starts, [*starts[1:], len(panels)], strict=True):
        row, *inner = panels[start:end]
        yield row, [*inner, *row["panels"]]


def expressions() -> Iterator[tuple[str, str]]:
    """Yield the title of each panel and its queries, with every model and version chosen."""
    chosen = {
        "$model": ".*",
        "$version": ".*",
        "$__rate_interval": RATE_INTERVAL,
        "[5m]": f"[{RATE_INTERVAL}]",
    }
    for _, panels in rows():
        for panel in panels:
            for query in panel["targets"]:
                expression = query["expr"]
                for variable, value in chosen.items():
                    expression = expression.replace(variable, value)
                yield panel["title"], expression

"""The dashboard for Grafana: its form, and that it shows every metric there is, by their right names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.metrics.declarations import Kind
from gateway.metrics.exposition import METRICS
from tests.support.dashboard import CONDITIONAL, dashboard, expressions, rows

ROOT = Path(__file__).parents[2]
COLUMNS = 24
UNITS = {"short", "s", "bytes", "reqps", "percentunit", "watt"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
ENDINGS = {Kind.HISTOGRAM: ("_bucket", "_sum", "_count"), Kind.SUMMARY: ("_sum", "_count")}
NAMES = {
    metric.exposed_name + ending: metric for metric in METRICS for ending in ENDINGS.get(metric.kind, ("",))
}
NOT_SHOWN = {"kitserve_build_info", "kitserve_cache_hits_total"}


def all_panels() -> list[dict[str, Any]]:
    return [panel for row, panels in rows() for panel in (row, *panels)]


def test_the_rows_are_what_an_operator_looks_for() -> None:
    titles = {row["title"]: row["collapsed"] for row, _ in rows()}
    assert titles == {
        "Overview": False,
        "Models and versions": False,
        "Rollouts": False,
        "Edge": False,
        "Gateway and machine": False,
        "Language models": True,
        "Keys": True,
        "GPUs": True,
    }
    assert dashboard()["schemaVersion"] >= 39, "that of Grafana 11"


def test_no_two_panels_are_one() -> None:
    panels = all_panels()
    for name in ("id", "title"):
        values = [panel[name] for panel in panels]
        assert len(set(values)) == len(values), name


def area(panel: dict[str, Any]) -> set[tuple[int, int]]:
    """Return the cells of the grid that a panel takes."""
    place = panel["gridPos"]
    assert 0 <= place["x"] < place["x"] + place["w"] <= COLUMNS, panel["title"]
    columns = range(place["x"], place["x"] + place["w"])
    return {(column, place["y"] + line) for column in columns for line in range(place["h"])}


def test_no_panel_lies_over_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        # Those of a closed row take its place once it is opened, and push down what is below.
        cells = area(panel)
        assert not cells & taken, panel["title"]
        taken |= cells
    for row, panels in rows():
        if row["collapsed"]:
            areas = [area(panel) for panel in panels]
            assert len(set().union(*areas)) == sum(map(len, areas)), row["title"]
            assert all(panel["gridPos"]["y"] > row["gridPos"]["y"] for panel in panels)


def test_each_panel_says_what_it_shows_in_a_unit_of_the_chosen_prometheus() -> None:
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "model", "version"]
    assert variables["datasource"]["type"] == "datasource"
    for name in ("model", "version"):
        assert variables[name]["datasource"] == SOURCE
        assert (variables[name]["multi"], variables[name]["includeAll"]) == (True, True)
    for _, panels in rows():
        for panel in panels:
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
            assert panel["datasource"] == SOURCE
            letters = [query["refId"] for query in panel["targets"]]
            assert letters == list("ABCDEFGH"[: len(letters)]), panel["title"]
            assert all(query["datasource"] == SOURCE for query in panel["targets"])


@pytest.mark.parametrize(("title", "expression"), tuple(expressions()))
def test_each_query_asks_for_metrics_and_labels_that_there_are(title: str, expression: str) -> None:
    assert "$" not in expression, "every variable is known"
    used = re.findall(r"\b(kitserve_\w+)(?:\{([^}]*)\})?", expression)
    assert used or "ALERTS" in expression
    own = {"le", "instance", "job"}
    for name, selector in used:
        assert name in NAMES, title
        own |= set(NAMES[name].labels)
        asked = set(re.findall(r"(\w+)(?:=~|!=|=)", selector))
        assert asked <= set(NAMES[name].labels), f"{title}: {name} has no {asked - set(NAMES[name].labels)}"
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {label.strip() for label in group.split(",")} <= own, title


def test_every_metric_is_shown() -> None:
    text = " ".join(expression for _, expression in expressions())
    shown = {NAMES[name].exposed_name for name in re.findall(r"\bkitserve_\w+", text)}
    assert {metric.exposed_name for metric in METRICS} - shown == NOT_SHOWN


def test_what_may_be_empty_is_a_panel() -> None:
    assert CONDITIONAL.keys() <= {panel["title"] for panel in all_panels()}


def test_the_files_from_which_grafana_takes_it_fit_together() -> None:
    provisioning = ROOT / "configs" / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "kitserve.yaml").read_text())["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "/var/lib/grafana/dashboards")
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    interval = yaml.safe_load((ROOT / "configs" / "prometheus" / "prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == interval["scrape_interval"]

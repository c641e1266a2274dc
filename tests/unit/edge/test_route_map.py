from __future__ import annotations

import pytest

from gateway.edge.route_map import map_entries
from gateway.edge.routes import Backend, Route, RoutingTable
from tests.support.routing import backend


def test_a_model_without_a_version_has_only_its_reason() -> None:
    assert map_entries(RoutingTable((Route("iris"),)), {}) == {
        ":ready": "false",
        ":watched": "-",
        "iris:reason": "is loading",
    }


def test_a_stable_version_answers_under_all_its_names() -> None:
    assert map_entries(RoutingTable((Route("iris", backend("v1", 1)),)), {"v1": 3}) == {
        ":ready": "true",
        ":watched": "-",
        "iris:reason": "is loading",
        "iris:stable": "slot3",
        "iris/v1": "slot3",
        "iris/sha256:v1": "slot3",
    }


@pytest.mark.parametrize("weight", [0, 30, 100])
def test_a_canary_adds_its_names_and_its_weight(weight: int) -> None:
    stable_alone = RoutingTable((Route("iris", backend("v1", 1)),))
    both = RoutingTable((Route("iris", backend("v1", 1), backend("v2", 2), weight),))
    slots = {"v1": 0, "v2": 1}
    assert map_entries(both, slots) == map_entries(stable_alone, slots) | {
        "iris:canary": "slot1",
        "iris:weight": str(weight),
        "iris/v2": "slot1",
        "iris/sha256:v2": "slot1",
    }


def test_a_name_that_both_versions_have_is_the_stable_one() -> None:
    stable, canary = Backend("app1", ("v1",), ()), Backend("app2", ("v1", "v2"), ())
    entries = map_entries(RoutingTable((Route("iris", stable, canary),)), {"app1": 0, "app2": 1})
    assert (entries["iris/v1"], entries["iris/v2"]) == ("slot0", "slot1")


def test_draining_versions_are_in_no_route() -> None:
    table = RoutingTable((Route("iris", backend("v2", 2)),), draining=(backend("v1", 1),))
    entries = map_entries(table, {"v1": 0, "v2": 1})
    assert "slot0" not in entries.values()


@pytest.mark.parametrize(
    ("routes", "ready"),
    [
        ((), "true"),
        ((Route("a", backend("v1", 1)),), "true"),
        ((Route("a", backend("v1")),), "false"),
        ((Route("a", Backend("v1", (), (), may_sleep=True)),), "true"),
        ((Route("a", canary=backend("v1", 1)),), "false"),
        ((Route("a", backend("v1", 1)), Route("b")), "false"),
        ((Route("a", backend("v1", 1), backend("v2")),), "true"),
    ],
    ids=["no models", "one", "no worker", "asleep", "canary alone", "one of two", "canary without worker"],
)
def test_ready_is_when_every_model_can_be_called(routes: tuple[Route, ...], ready: str) -> None:
    assert map_entries(RoutingTable(routes), {"v1": 0, "v2": 1})[":ready"] == ready


def test_a_reason_of_several_lines_becomes_one() -> None:
    entries = map_entries(RoutingTable((Route("iris", reason="failed:\n\n  no such\ttag\n"),)), {})
    assert entries["iris:reason"] == "failed: no such tag"

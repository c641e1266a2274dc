from __future__ import annotations

from pathlib import Path

import pytest

from gateway.edge.route_map import Key, lookup, map_entries, watched, without_canary
from gateway.edge.routes import Backend, Route, RouteState, RoutingTable, Rules
from gateway.errors import EdgeError
from tests.support.routing import backend


def test_a_model_without_a_version_has_only_its_state() -> None:
    assert map_entries(RoutingTable((Route("iris"),)), {}) == {
        ":ready": "false",
        ":any-ready": "false",
        ":only": "iris",
        ":watched": "-",
        "iris:state": "loading",
    }


def test_a_stable_version_answers_under_all_its_names() -> None:
    assert map_entries(RoutingTable((Route("iris", backend("v1", 1)),)), {"v1": 3}) == {
        ":ready": "true",
        ":any-ready": "true",
        ":only": "iris",
        ":watched": "-",
        "iris:state": "loading",
        "iris:stable": "slot3",
        "iris/v1": "slot3",
        "iris/sha256:v1": "slot3",
    }


def test_a_version_with_several_workers_has_a_backend_where_they_are_chosen_by_prefix() -> None:
    stable, canary = backend("v1", 1, 2), backend("v2", 3)
    slots = {"v1": 3, "v2": 4, "v0": 5}
    table = RoutingTable((Route("iris", stable, canary),), draining=(backend("v0", 4, 5),))
    entries = map_entries(table, slots)
    assert {key: value for key, value in entries.items() if key.startswith(":prefix")} == {
        ":prefix:slot3": "slot3.prefix"
    }


def test_a_stable_version_has_weight_0_beside_it_where_its_canary_will_be_judged() -> None:
    rules = Rules(("header", "x-user"), watched=(("header", "x-user"),), is_judged=True)
    alone = map_entries(RoutingTable((Route("iris", backend("v1", 1)),)), {"v1": 3})
    judged = map_entries(RoutingTable((Route("iris", backend("v1", 1), rules=rules),)), {"v1": 3})
    assert judged | {":watched": alone[":watched"]} == alone | {
        "iris:weight": "0",
        "iris:sticky": "header:x-user",
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


@pytest.mark.parametrize(
    ("routes", "ready"),
    [
        ((), "true"),
        ((Route("a"),), "false"),
        ((Route("a", backend("v1")), Route("b", canary=backend("v2", 1))), "false"),
        ((Route("a", backend("v1", 1)), Route("b")), "true"),
        ((Route("a"), Route("b", Backend("v1", (), (), may_sleep=True))), "true"),
    ],
    ids=["no models", "loading", "no worker and a canary alone", "one of two", "asleep"],
)
def test_any_is_ready_when_one_model_can_be_called(routes: tuple[Route, ...], ready: str) -> None:
    assert map_entries(RoutingTable(routes), {"v1": 0, "v2": 1})[":any-ready"] == ready


@pytest.mark.parametrize("state", RouteState)
def test_why_nobody_answers_is_one_word_of_a_list(state: RouteState) -> None:
    assert map_entries(RoutingTable((Route("iris", state=state),)), {})["iris:state"] == state.value
    assert state.value.isidentifier()


@pytest.mark.parametrize(
    ("names", "rules", "text"),
    [
        (
            ("v1\nother:stable",),
            Rules(),
            r"'iris/v1\\nother:stable' of HAProxy's map has a key that is no word",
        ),
        (("v 1",), Rules(), "has a key that is no word"),
        (
            ("v1",),
            Rules(match=(("x-team", "a\nb"),)),
            "'iris:match:x-team'.* has a value that is no line of text",
        ),
        (("v1",), Rules(match=(("x-team", "a" * 9000),)), "has 9019 bytes; 8192 are allowed"),
    ],
    ids=["line break in a name", "space in a name", "line break in a value", "long value"],
)
def test_an_entry_that_the_map_cannot_hold_is_an_error_that_names_the_model(
    names: tuple[str, ...], rules: Rules, text: str
) -> None:
    route = Route("iris", backend("v0", 1), Backend("v1", names, ()), rules=rules)
    with pytest.raises(EdgeError, match=f"model 'iris' cannot be routed: the entry .*{text}"):
        map_entries(RoutingTable((Route("other"), route)), {"v0": 0, "v1": 1})


def test_rules_are_entries_of_the_canary() -> None:
    rules = Rules(("header", "x-user"), (("x-staff", ""), ("x-team", "red blue")))
    table = RoutingTable((Route("iris", backend("v1", 1), backend("v2", 2), 5, rules=rules),))
    without = RoutingTable((Route("iris", backend("v1", 1), backend("v2", 2), 5),))
    slots = {"v1": 0, "v2": 1}
    assert map_entries(table, slots) == map_entries(without, slots) | {
        "iris:sticky": "header:x-user",
        "iris:match:x-staff": "*",
        "iris:match:x-team": "=red blue",
    }


def test_a_canary_that_is_ended_keeps_its_names_and_other_models_keep_all() -> None:
    rules = Rules(match=(("x-staff", ""),))
    models = ("iris", "iris2", "ir")
    routes = [Route(model, backend("v1", 1), backend("v2", 2), 40, rules=rules) for model in models]
    entries = map_entries(RoutingTable(tuple(routes)), {"v1": 0, "v2": 1})
    assert without_canary(entries, "iris") == {
        key: value for key, value in entries.items() if key != "iris:match:x-staff"
    } | {"iris:weight": "0"}
    alone = map_entries(RoutingTable((Route("iris", backend("v1", 1)),)), {"v1": 0})
    assert without_canary(alone, "iris") == alone
    assert without_canary(alone, "other") == alone


def test_what_is_watched_is_one_word_however_much_it_is() -> None:
    def table(count: int) -> RoutingTable:
        names = tuple(("match", f"x-{number}") for number in range(count))
        return RoutingTable((Route("iris", rules=Rules(watched=names)),))

    assert watched(table(2)) == (("match", "x-0"), ("match", "x-1"))
    assert map_entries(table(2), {})[":watched"] == "match:x-0,match:x-1"
    many, more = (map_entries(table(count), {})[":watched"] for count in (5000, 5001))
    assert many != more
    assert len(many) == len(more) == 64


def test_keys_are_looked_up_as_they_are_written() -> None:
    path = Path("/run/routes.map")
    assert lookup(path, Key.STABLE) == "var(txn.model),concat(:stable),map(/run/routes.map)"
    assert lookup(path, Key.MATCH, "x-staff") == "var(txn.model),concat(:match:x-staff),map(/run/routes.map)"
    assert (
        lookup(path, Key.VERSION, variable="txn.version_name")
        == "var(txn.model),concat(/,txn.version_name),map(/run/routes.map)"
    )


def test_the_only_model_is_known_by_its_name() -> None:
    iris, wine = Route("iris"), Route("wine")
    assert map_entries(RoutingTable((wine,)), {})[":only"] == "wine"
    for routes in ((), (iris, wine)):
        assert ":only" not in map_entries(RoutingTable(routes), {})

from __future__ import annotations

import pytest

from gateway.edge.placement import assign_slots, backend_name, place, slots_with_activator
from gateway.edge.route_map import map_entries
from gateway.edge.routes import Backend, Route, RoutingTable, Server


def server(port: int) -> Server:
    return Server(f"w{port}", "10.0.0.1", port)


def backend(version: str, *ports: int) -> Backend:
    return Backend(version, (version, f"sha256:{version}"), tuple(server(port) for port in ports))


@pytest.mark.parametrize(
    ("versions", "held", "slots"),
    [
        ([], {"a": 0}, {}),
        (["a", "b"], {}, {"a": 0, "b": 1}),
        (["b", "a"], {"a": 0, "b": 1}, {"a": 0, "b": 1}),
        (["a", "b", "c"], {"b": 0}, {"a": 1, "b": 0, "c": 2}),
        (["b", "c"], {"a": 0, "b": 1}, {"b": 1, "c": 0}),
        (["a", "z"], {"z": 31}, {"a": 0, "z": 31}),
        (["a", "a", "b"], {}, {"a": 0, "b": 1}),
    ],
    ids=["freed", "new", "kept", "lowest free", "freed and taken", "far", "named twice"],
)
def test_slots(versions: list[str], held: dict[str, int], slots: dict[str, int]) -> None:
    assert assign_slots(versions, held) == slots


def test_a_slot_has_a_backend_name() -> None:
    assert backend_name(7) == "slot7"


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


def test_every_version_is_in_a_table_once_and_routed_ones_come_first() -> None:
    v1, v2, v3, v4 = (backend(version) for version in ("v1", "v2", "v3", "v4"))
    table = RoutingTable(
        (Route("a", v2, v1), Route("b", v1), Route("c")),
        draining=(v4, Backend("v2", (), (server(9),)), v3),
    )
    assert table.backends() == (v2, v1, v4, v3)
    assert table.routes[0].backends() == (v2, v1)
    assert table.routes[2].backends() == ()


@pytest.mark.parametrize(
    ("ports", "live", "placed"),
    [
        ([1, 2], {}, {0: 1, 1: 2}),
        ([1, 2], {0: 2, 3: 1}, {0: 2, 3: 1}),
        ([3, 1, 4], {1: 1, 2: 2}, {0: 3, 1: 1, 2: 4}),
        ([], {0: 1}, {}),
        ([1], {0: 1, 1: 1}, {0: 1}),
        ([1, 1], {}, {0: 1}),
    ],
    ids=["first", "standing", "gaps", "gone", "standing twice", "named twice"],
)
def test_places(ports: list[int], live: dict[int, int], placed: dict[int, int]) -> None:
    table = RoutingTable((Route("iris", backend("v1", *ports)),))
    standing = {5: {number: Server("", "10.0.0.1", port) for number, port in live.items()}}
    assert place(table, {"v1": 5}, standing) == {5: {number: server(port) for number, port in placed.items()}}


def test_draining_versions_keep_their_place_and_freed_slots_have_none() -> None:
    table = RoutingTable((Route("iris", backend("v2", 2)),), draining=(backend("v1", 1),))
    live = {0: {4: server(1)}, 7: {0: server(3)}}
    assert place(table, {"v1": 0, "v2": 1}, live) == {0: {4: server(1)}, 1: {0: server(2)}}


def test_calls_are_held_in_the_slots_of_versions_that_may_sleep() -> None:
    asleep, awake = Backend("v1", (), (), may_sleep=True), Backend("v2", (), (server(1),), may_sleep=True)
    table = RoutingTable((Route("a", asleep, awake), Route("b", backend("v3", 2))), (backend("v4", 3),))
    slots = {"v1": 4, "v2": 0, "v3": 1, "v4": 2}
    assert slots_with_activator(table, slots) == {4, 0}
    assert place(table, slots, {}) == {4: {}, 0: {0: server(1)}, 1: {0: server(2)}, 2: {0: server(3)}}

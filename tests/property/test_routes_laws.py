from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.haproxy_map import check_entries, read_entries, write_entries
from gateway.edge.placement import assign_slots, place
from gateway.edge.route_map import map_entries, without_canary
from gateway.edge.routes import Backend, Route, RouteState, RoutingTable, Server
from gateway.errors import EdgeError

_servers = st.lists(
    st.builds(Server, st.just(""), st.sampled_from(["10.0.0.1", "10.0.0.2"]), st.integers(1, 6)), max_size=6
).map(tuple)


@st.composite
def tables(draw: st.DrawFn) -> RoutingTable:
    versions = st.sampled_from("abcdefgh")
    backends = {version: Backend(version, (version,), draw(_servers)) for version in "abcdefgh"}
    backend = st.none() | versions.map(backends.__getitem__)
    routes = tuple(
        Route(f"m{number}", draw(backend), draw(backend), draw(st.integers(0, 100)))
        for number in range(draw(st.integers(0, 4)))
    )
    draining = draw(st.lists(versions, max_size=3))
    return RoutingTable(routes, tuple(backends[version] for version in draining))


def versions_of(table: RoutingTable) -> list[str]:
    return [backend.version for backend in table.backends()]


@settings(deadline=None)
@given(st.lists(tables(), max_size=6))
def test_slots_are_distinct_and_stay_while_their_version_does(changes: list[RoutingTable]) -> None:
    current: dict[str, int] = {}
    largest = 0
    for table in changes:
        versions = versions_of(table)
        slots = assign_slots(versions, current)
        assert sorted(slots) == sorted(versions)
        assert len(set(slots.values())) == len(slots)
        assert all(slots[version] == current[version] for version in versions if version in current)
        largest = max(largest, len(versions))
        assert all(slot < largest for slot in slots.values()), "the pool never grows for nothing"
        current = slots


@settings(deadline=None)
@given(tables())
def test_each_version_is_in_a_table_once_and_routed_ones_come_first(table: RoutingTable) -> None:
    versions = versions_of(table)
    routed = {backend.version for route in table.routes for backend in route.backends()}
    assert len(versions) == len(set(versions))
    assert set(versions[: len(routed)]) == routed


@settings(deadline=None)
@given(st.lists(tables(), max_size=5))
def test_no_two_workers_share_a_server_and_none_that_stands_is_moved(changes: list[RoutingTable]) -> None:
    current: dict[str, int] = {}
    live: dict[int, dict[int, Server]] = {}
    for table in changes:
        slots = assign_slots(versions_of(table), current)
        places = place(table, slots, live)
        assert set(places) == set(slots.values())
        for backend in table.backends():
            servers = places[slots[backend.version]]
            assert sorted(servers.values()) == sorted(set(backend.servers))
            for number, server in live.get(slots[backend.version], {}).items():
                if server in backend.servers:
                    assert servers[number] == server
        current, live = slots, places


@settings(deadline=None)
@given(tables())
def test_the_map_names_only_slots_of_routed_versions(table: RoutingTable) -> None:
    slots = assign_slots(versions_of(table), {})
    entries = map_entries(table, slots)
    backends = [backend for route in table.routes for backend in route.backends()]
    routed = {f"slot{slots[backend.version]}" for backend in backends}
    # Only between several workers is there one that has a prefix in its cache.
    routed |= {f"slot{slots[backend.version]}.prefix" for backend in backends if len(backend.servers) > 1}
    assert {value for value in entries.values() if value.startswith("slot")} == routed
    assert all(len(f"{key} {value}".splitlines()) == 1 for key, value in entries.items())


@settings(deadline=None)
@given(tables(), st.sampled_from(RouteState))
def test_any_table_and_any_state_is_read_back_as_it_was_written(
    table: RoutingTable, state: RouteState
) -> None:
    entries = map_entries(
        RoutingTable((*table.routes, Route("x", state=state))), assign_slots("abcdefgh", {})
    )
    check_entries("the table", entries)
    text = "".join(write_entries(entries))
    assert text.count("\n") == len(entries)
    assert read_entries(text) == entries


@settings(deadline=None)
@given(tables(), st.integers(0, 3))
def test_a_canary_that_is_ended_is_one_of_weight_0(table: RoutingTable, number: int) -> None:
    slots = assign_slots("abcdefgh", {})
    routes = tuple(
        replace(route, weight=0) if route.model == f"m{number}" else route for route in table.routes
    )
    ended = without_canary(map_entries(table, slots), f"m{number}")
    assert ended == map_entries(RoutingTable(routes, table.draining), slots)


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.text(), max_size=4))
def test_entries_are_read_back_as_they_were_written_or_refused(entries: dict[str, str]) -> None:
    try:
        text = "".join(write_entries(entries))
    except EdgeError:
        return
    assert read_entries(text) == entries
    assert len(text.splitlines()) == len(entries)

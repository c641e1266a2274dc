from __future__ import annotations

import pytest

from gateway.edge.placement import (
    Pool,
    assign_slots,
    backend_name,
    number_of,
    place,
    prefix_backend_name,
    server_name,
    slot_of,
    slots_with_activator,
)
from gateway.edge.routes import Backend, Route, RoutingTable, Server
from tests.support.routing import backend, server

MOST = 100_000


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
    ids=["first", "stays", "gaps", "gone", "placed twice", "named twice"],
)
def test_places(ports: list[int], live: dict[int, int], placed: dict[int, int]) -> None:
    table = RoutingTable((Route("iris", backend("v1", *ports)),))
    current = {5: {number: Server("", "10.0.0.1", port) for number, port in live.items()}}
    assert place(table, {"v1": 5}, current) == {5: {number: server(port) for number, port in placed.items()}}


def test_draining_versions_keep_their_place_and_freed_slots_have_none() -> None:
    table = RoutingTable((Route("iris", backend("v2", 2)),), draining=(backend("v1", 1),))
    live = {0: {4: server(1)}, 7: {0: server(3)}}
    assert place(table, {"v1": 0, "v2": 1}, live) == {0: {4: server(1)}, 1: {0: server(2)}}


def test_the_activator_is_on_in_the_slots_of_versions_that_may_sleep() -> None:
    asleep, awake = Backend("v1", (), (), may_sleep=True), Backend("v2", (), (server(1),), may_sleep=True)
    table = RoutingTable((Route("a", asleep, awake), Route("b", backend("v3", 2))), (backend("v4", 3),))
    slots = {"v1": 4, "v2": 0, "v3": 1, "v4": 2}
    assert slots_with_activator(table, slots) == {4, 0}
    assert place(table, slots, {}) == {4: {}, 0: {0: server(1)}, 1: {0: server(2)}, 2: {0: server(3)}}


@pytest.mark.parametrize(
    ("pool", "places", "grown"),
    [
        (Pool(), {}, Pool()),
        (Pool((2,) * 4), {3: {1: server(1)}, 0: {}}, Pool((2,) * 4)),
        (Pool((2,) * 4), {4: {}}, Pool((2,) * 4 + (8,) * 4)),
        (Pool((2,) * 4), {1: {7: server(1)}}, Pool((2, 8, 2, 2))),
        (Pool((2,) * 4), {40: {8: server(1)}}, Pool((2,) * 4 + (8,) * 36 + (16,) + (8,) * 23)),
        (Pool(()), {0: {0: server(1)}}, Pool()),
        (Pool((0,) * 32), {0: {0: server(1)}}, Pool((8,) + (0,) * 31)),
    ],
    ids=["nothing", "fits", "one slot more", "many servers", "both", "no pool at all", "empty slots"],
)
def test_a_pool_doubles_until_all_have_room(
    pool: Pool, places: dict[int, dict[int, Server]], grown: Pool
) -> None:
    assert pool.grown_for(places, MOST) == grown


@pytest.mark.parametrize("models", [100, 200, 500, 1000])
def test_a_pool_of_many_models_has_few_servers_for_each(models: int) -> None:
    pool = Pool()
    for model in range(models):
        pool = pool.grown_for({model: {0: server(1)}}, MOST)
    assert len(pool.servers) < 2 * models
    assert pool.size < 512 + 4 * models
    # Workers of one model alone do not make the pool of all others larger.
    assert pool.grown_for({0: {99: server(1)}}, MOST).size == pool.size - pool.servers[0] + 128


def test_where_twice_as_many_are_too_many_a_pool_has_what_is_needed() -> None:
    places = {slot: {0: server(1)} for slot in range(300)} | {7: {2: server(2)}}
    needed = (1,) * 7 + (3,) + (1,) * 292
    assert Pool().grown_for(places, 301).servers == Pool().grown_for(places, 302).servers == needed
    # Half of what is left is for those that come next.
    assert Pool().grown_for(places, 322).servers == needed + (1,) * 10
    # With room for what was there before as well, that stays.
    assert Pool().grown_for(places, 540).servers == (8,) * 32 + (1,) * (268 + 8)


def test_up_to_what_there_are_files_for_a_pool_grows_seldom() -> None:
    most, pool, reloads = 2304, Pool(), 0
    for models in range(1, most + 1):
        grown = pool.grown_for({model: {0: server(1)} for model in range(models)}, most)
        assert grown.size <= most
        reloads += grown != pool
        pool = grown
    assert reloads < 40


def test_names_of_backends_are_read_back() -> None:
    assert slot_of(backend_name(31)) == slot_of(prefix_backend_name(31)) == 31
    assert [slot_of(name) for name in ("answers", "slot", "slot1x", "xslot1", "")] == [None] * 5
    assert slot_of("slot.prefix") is slot_of("slot1.prefixes") is slot_of("slot1prefix") is None
    assert number_of(server_name(7)) == 7

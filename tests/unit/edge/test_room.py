from __future__ import annotations

import pytest

from gateway.edge.placement import Pool
from gateway.edge.room import fitting
from gateway.edge.routes import Backend, Route, RoutingTable
from tests.support.routing import backend

FULL = Pool((2, 2))
ROOM = 4


def parts(table: RoutingTable) -> list[tuple[str, ...]]:
    return [tuple(backend.version for backend in route.backends()) for route in table.routes]


def routes(*models: tuple[Backend, Backend | None]) -> RoutingTable:
    return RoutingTable(
        tuple(
            Route(f"m{n}", stable, canary, 20 if canary else 0) for n, (stable, canary) in enumerate(models)
        )
    )


@pytest.mark.parametrize(
    ("models", "slots", "routed", "left_out"),
    [
        ([("a", ""), ("b", "")], {}, [("a",), ("b",)], ()),
        ([("a", ""), ("b", ""), ("c", "")], {"a": 0, "b": 1}, [("a",), ("b",), ()], ("c",)),
        ([("c", ""), ("a", ""), ("b", "")], {"a": 0, "b": 1}, [(), ("a",), ("b",)], ("c",)),
        ([("a", "c"), ("b", "")], {"a": 0, "b": 1}, [("a",), ("b",)], ("c",)),
        ([("c", "d"), ("a", "")], {"a": 0}, [("c",), ("a",)], ("d",)),
        ([("c", "d"), ("a", "b")], {"a": 0, "b": 1}, [(), ("a", "b")], ("c", "d")),
    ],
    ids=["all", "a new model", "before others", "a canary", "a canary of a new model", "both"],
)
def test_new_versions_are_left_out_from_the_last_on(
    models: list[tuple[str, str]],
    slots: dict[str, int],
    routed: list[tuple[str, ...]],
    left_out: tuple[str, ...],
) -> None:
    table = routes(
        *((backend(stable, 1), backend(canary, 2) if canary else None) for stable, canary in models)
    )
    part, left = fitting(table, slots, {}, FULL, ROOM)
    assert (parts(part), left) == (routed, left_out)
    assert all(route.weight == (20 if route.canary else 0) for route in part.routes)
    assert [route.model for route in part.routes] == [route.model for route in table.routes]


def test_with_too_many_workers_of_versions_that_are_there_nothing_is_left_out() -> None:
    table = routes((backend("a", 1, 2, 3), None), (backend("b", 1), None))
    assert fitting(table, {"a": 0}, {}, FULL, ROOM) == (table, ())


def test_versions_that_drain_keep_their_place() -> None:
    table = RoutingTable((Route("m", backend("c", 1)),), draining=(backend("a", 1), backend("b", 1)))
    part, left = fitting(table, {"a": 0, "b": 1}, {}, FULL, ROOM)
    assert (parts(part), part.draining, left) == ([()], table.draining, ("c",))

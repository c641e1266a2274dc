"""How much of a routing table HAProxy has room for, by the health checks that it may have files for. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace

from gateway.edge.placement import Places, Pool, assign_slots, place
from gateway.edge.routes import Route, RoutingTable


def fitting(
    table: RoutingTable, slots: Mapping[str, int], live: Places, pool: Pool, most: int
) -> tuple[RoutingTable, tuple[str, ...]]:
    """Return as much of a table as there is room for, and the versions that are left out for it.

    A version that has a slot stays. Of the new ones the last of the table are left out first; a model whose
    stable version is left out has no version at all, and callers are told that it is loading. Where there is
    too little room even for those that have a slot, as they have more workers now, all is returned.

    Args:
        table: what is to be routed.
        slots: which version has which slot now.
        live: the workers that HAProxy has now.
        pool: the backends that it has now.
        most: how many servers it may have in all.
    """
    new = [backend.version for backend in table.backends() if backend.version not in slots]

    def fits_without(count: int) -> bool:
        part = _without(table, new[len(new) - count :])
        versions = [backend.version for backend in part.backends()]
        return pool.grown_for(place(part, assign_slots(versions, slots), live)).size <= most

    count = bisect_left(range(len(new) + 1), True, key=fits_without)
    if count > len(new):
        return table, ()
    left_out = tuple(new[len(new) - count :])
    return _without(table, left_out), left_out


def _without(table: RoutingTable, versions: tuple[str, ...] | list[str]) -> RoutingTable:
    if not versions:
        return table
    gone = set(versions)
    routes = []
    for route in table.routes:
        if route.stable is not None and route.stable.version in gone:
            routes.append(Route(route.model, rules=route.rules))
        elif route.canary is not None and route.canary.version in gone:
            routes.append(replace(route, canary=None, weight=0))
        else:
            routes.append(route)
    draining = tuple(backend for backend in table.draining if backend.version not in gone)
    return RoutingTable(tuple(routes), draining)

"""The map from which HAProxy picks a backend for each call: its keys and its entries. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.edge.placement import backend_name
from gateway.edge.routes import RoutingTable


def map_entries(table: RoutingTable, slots: Mapping[str, int]) -> dict[str, str]:
    """The routing table as HAProxy's map, from which it picks a backend for each call.

    Keys: `:ready` (`true` when every model can be called), `:watched` (see `watched`), `MODEL:reason` (for
    every model known), `MODEL:stable`, `MODEL:canary`, `MODEL:weight` (percent), `MODEL:key` (`KIND:NAME`),
    `MODEL:match:NAME` (`=VALUE`, or `*` for any), and `MODEL/NAME` for each name of each version.
    """
    callable_now = [route.stable is not None and route.stable.answers for route in table.routes]
    entries = {":ready": str(all(callable_now)).lower(), ":watched": watched_words(watched(table))}
    for route in table.routes:
        # one line, as everything in HAProxy's map
        entries[f"{route.model}:reason"] = " ".join(route.reason.split())
        for role, backend in (("canary", route.canary), ("stable", route.stable)):
            if backend is None:
                continue
            name = backend_name(slots[backend.version])
            entries[f"{route.model}:{role}"] = name
            entries |= {f"{route.model}/{asked}": name for asked in backend.names}
        if route.canary is not None:
            entries[f"{route.model}:weight"] = str(route.weight)
            if route.rules.key is not None:
                entries[f"{route.model}:key"] = ":".join(route.rules.key)
            for header, value in route.rules.match:
                entries[f"{route.model}:match:{header}"] = f"={value}" if value else "*"
    return entries


def watched(table: RoutingTable) -> tuple[tuple[str, str], ...]:
    """What of a call HAProxy has to look at, by kind and name: it learns that by a reload alone."""
    return tuple(sorted({name for route in table.routes for name in route.rules.watched}))


def watched_words(names: Iterable[tuple[str, str]]) -> str:
    """The same as one word."""
    return ",".join(":".join(name) for name in names) or "-"

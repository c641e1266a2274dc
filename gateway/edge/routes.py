"""Where each call goes: models, versions, weights and workers as one immutable value. Pure.

A route gives a model's unversioned calls to its stable version, but for the canary's share. Every
version that a route knows also answers under its tag, its digest and its 12-digit prefix.

HAProxy can change servers and maps while it runs, but not add a backend. So the edge has a pool of
empty backends, and a version is given one of them (its *slot*) for as long as it is served.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Server:
    """One worker's own HTTP server."""

    worker: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Backend:
    """The workers of one version. `version` is the app that runs it; `names` are what clients call it."""

    version: str
    names: tuple[str, ...]
    servers: tuple[Server, ...]
    may_sleep: bool = False
    """Whether a call is held, and wakes it, while it has no worker."""
    has_spare: bool = False
    """Whether another version takes the calls to it while it has no worker."""

    @property
    def answers(self) -> bool:
        """Whether a call to it is answered, if only after it woke."""
        return bool(self.servers) or self.may_sleep


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides about a model's unversioned calls besides chance.

    `key` is a header or cookie whose value keeps a caller where it is while the weight only grows. Calls
    with a header of `match` go to the canary: those with that value, or with any where it is "". HAProxy must
    know beforehand what it is to look at: `watched` are all such names, by kind ("header", "cookie" or
    "match"), also those that matter later.
    """

    key: tuple[str, str] | None = None
    match: tuple[tuple[str, str], ...] = ()
    watched: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """A model's way to its versions. Without a stable version, calls are answered by `reason`."""

    model: str
    stable: Backend | None = None
    canary: Backend | None = None
    weight: int = 0
    reason: str = "is loading"
    rules: Rules = Rules()

    @property
    def stable_weight(self) -> int:
        """The stable version's percent of the calls."""
        return 100 - self.weight

    def backends(self) -> tuple[Backend, ...]:
        """The versions this route gives calls to, stable first."""
        return tuple(backend for backend in (self.stable, self.canary) if backend is not None)


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """All routes at one moment. Draining versions get no new calls, but finish those they have."""

    routes: tuple[Route, ...] = ()
    draining: tuple[Backend, ...] = ()

    def backends(self) -> tuple[Backend, ...]:
        """Every version in the table, each once, the routed ones first."""
        found: dict[str, Backend] = {}
        for backend in (*(at for route in self.routes for at in route.backends()), *self.draining):
            found.setdefault(backend.version, backend)
        return tuple(found.values())


def assign_slots(versions: Iterable[str], held: Mapping[str, int]) -> dict[str, int]:
    """Give each version a slot: the one it holds, else the lowest free one."""
    wanted = list(dict.fromkeys(versions))
    slots = {version: held[version] for version in wanted if version in held}
    free = (number for number in range(len(wanted)) if number not in set(slots.values()))
    return slots | {version: next(free) for version in wanted if version not in slots}


def backend_name(slot: int) -> str:
    """HAProxy's name for a slot."""
    return f"slot{slot}"


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


def held_slots(table: RoutingTable, slots: Mapping[str, int]) -> frozenset[int]:
    """The slots whose calls are held while they have no worker."""
    held = (backend for backend in table.backends() if backend.may_sleep or backend.has_spare)
    return frozenset(slots[backend.version] for backend in held)


Placement = Mapping[int, Mapping[int, Server]]


def place(table: RoutingTable, slots: Mapping[str, int], live: Placement) -> dict[int, dict[int, Server]]:
    """Which worker stands at which server of which slot.

    A worker that already stands somewhere in `live` (compared by host and port) stays there, so
    that its connections and health are kept.
    """
    placed: dict[int, dict[int, Server]] = {}
    for backend in table.backends():
        slot = slots[backend.version]
        wanted = {(server.host, server.port): server for server in backend.servers}
        kept = {
            number: wanted.pop((server.host, server.port))
            for number, server in live.get(slot, {}).items()
            if (server.host, server.port) in wanted
        }
        free = (number for number in range(len(kept) + len(wanted)) if number not in kept)
        placed[slot] = kept | {next(free): server for server in list(wanted.values())}
    return placed

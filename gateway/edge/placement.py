"""Which version has which of HAProxy's backends, and which worker which server in it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.edge.routes import RoutingTable, Server

_LEAST_SLOTS = 32
_LEAST_SERVERS = 8

Placement = Mapping[int, Mapping[int, Server]]


@dataclass(frozen=True, slots=True)
class Pool:
    """How many backends HAProxy has ready, and how many servers each."""

    slots: int = _LEAST_SLOTS
    servers: int = _LEAST_SERVERS

    def grown_for(self, slots: int, servers: int) -> Pool:
        """The same pool, or one doubled until it holds that many."""
        pool = self
        while pool.slots < slots:
            pool = Pool(pool.slots * 2, pool.servers)
        while pool.servers < servers:
            pool = Pool(pool.slots, pool.servers * 2)
        return pool


@dataclass(frozen=True, slots=True)
class Standing:
    """Who takes calls in which slot: workers, each at its place, and the activator in those that are held."""

    workers: Placement
    held: frozenset[int] = frozenset()


def assign_slots(versions: Iterable[str], held: Mapping[str, int]) -> dict[str, int]:
    """Give each version a slot: the one it holds, else the lowest free one."""
    wanted = list(dict.fromkeys(versions))
    slots = {version: held[version] for version in wanted if version in held}
    free = (number for number in range(len(wanted)) if number not in set(slots.values()))
    return slots | {version: next(free) for version in wanted if version not in slots}


def backend_name(slot: int) -> str:
    """HAProxy's name for a slot."""
    return f"slot{slot}"


def held_slots(table: RoutingTable, slots: Mapping[str, int]) -> frozenset[int]:
    """The slots whose calls are held while they have no worker."""
    held = (backend for backend in table.backends() if backend.may_sleep or backend.has_spare)
    return frozenset(slots[backend.version] for backend in held)


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

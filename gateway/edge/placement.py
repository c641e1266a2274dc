"""Which version has which of HAProxy's backends, and which worker which server in it. Pure.

HAProxy can change servers and maps while it runs, but not add a backend. So it has a *pool* of empty
backends, each with some empty servers, and a version is given one backend (its *slot*) for as long
as it is served.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest

from gateway.edge.routes import RoutingTable, Server

ACTIVATOR = "activator"
"""The server of each backend that stands for the gateway's activator."""
_FIRST_SLOTS = 32
# How many servers new slots get while so many slots are there: with many models, few have many workers.
_FIRST_SERVERS, _MIN_SERVERS, _FIRST_OF_ALL = 8, 2, 512

Places = Mapping[int, Mapping[int, Server]]
"""Workers by slot, and in it by the server's number."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Who takes the calls of each slot: workers, and the activator in the slots where it is on."""

    workers: Places
    activator: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Pool:
    """The backends that HAProxy has: how many servers each of them has, by slot."""

    servers: tuple[int, ...] = (_FIRST_SERVERS,) * _FIRST_SLOTS

    @property
    def size(self) -> int:
        """How many servers there are, each of which has its health checked."""
        return sum(self.servers)

    def grown_for(self, places: Places, most: int) -> Pool:
        """Return the same pool, or one with twice the slots, or twice the servers in some, until all fit.

        Where that would be more than `most` servers, it grows by what is needed and by half of what is left;
        where even that is too much, it has what is needed and no more, which may be over `most`.
        """
        pool = self._doubled_for(places)
        if pool.size <= most:
            return pool
        least = _least_pool(places)
        larger = Pool(tuple(map(max, zip_longest(self.servers, least.servers, fillvalue=0))))
        pool = larger if larger.size <= most else least
        return Pool(pool.servers + (1,) * (max(0, most - pool.size) // 2))

    def _doubled_for(self, places: Places) -> Pool:
        slots = len(self.servers)
        while slots <= max(places, default=-1):
            slots = slots * 2 or _FIRST_SLOTS
        first = min(_FIRST_SERVERS, max(_MIN_SERVERS, _FIRST_OF_ALL // max(slots, 1)))
        servers = [*self.servers, *[first] * (slots - len(self.servers))]
        for slot, numbers in places.items():
            while servers[slot] <= max(numbers, default=-1):
                servers[slot] = servers[slot] * 2 or first
        return Pool(tuple(servers))


def _least_pool(places: Places) -> Pool:
    """Return the smallest pool in which all fit."""
    slots = max(places, default=-1) + 1
    return Pool(tuple(max(places.get(slot, ()), default=0) + 1 for slot in range(slots)))


def backend_name(slot: int) -> str:
    """Return HAProxy's name for a slot."""
    return f"slot{slot}"


def prefix_backend_name(slot: int) -> str:
    """Return HAProxy's name for the same workers, where they are chosen by how a call begins."""
    return f"{backend_name(slot)}.prefix"


def server_name(number: int) -> str:
    """Return HAProxy's name for a server of a slot."""
    return f"w{number}"


def slot_of(backend: str) -> int | None:
    """Return the slot of the backend with this name, of either; None for a backend of another kind."""
    match = re.fullmatch(r"slot([0-9]+)(?:\.prefix)?", backend)
    return None if match is None else int(match[1])


def number_of(server: str) -> int:
    """Return the number of the server with this name."""
    return int(server.removeprefix("w"))


def assign_slots(versions: Iterable[str], current: Mapping[str, int]) -> dict[str, int]:
    """Give each version a slot: the one it has, else the lowest free one."""
    distinct = list(dict.fromkeys(versions))
    slots = {version: current[version] for version in distinct if version in current}
    taken = set(slots.values())
    free = (number for number in range(len(distinct)) if number not in taken)
    return slots | {version: next(free) for version in distinct if version not in slots}


def slots_with_activator(table: RoutingTable, slots: Mapping[str, int]) -> frozenset[int]:
    """Return the slots whose calls go to the activator while they have no worker."""
    backends = (backend for backend in table.backends() if backend.may_sleep or backend.has_spare)
    return frozenset(slots[backend.version] for backend in backends)


def place(table: RoutingTable, slots: Mapping[str, int], live: Places) -> dict[int, dict[int, Server]]:
    """Give each worker a server in its version's slot.

    A worker that already has one in `live` (compared by host and port) keeps it, and with it its
    connections and its health.
    """
    places: dict[int, dict[int, Server]] = {}
    for backend in table.backends():
        slot = slots[backend.version]
        new = {(server.host, server.port): server for server in backend.servers}
        kept = {
            number: new.pop((server.host, server.port))
            for number, server in live.get(slot, {}).items()
            if (server.host, server.port) in new
        }
        free = (number for number in range(len(kept) + len(new)) if number not in kept)
        places[slot] = kept | {next(free): server for server in list(new.values())}
    return places

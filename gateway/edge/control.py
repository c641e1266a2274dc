"""HAProxy's files, and the changes it takes while it runs.

`EdgeControl` brings routing tables to the running HAProxy: servers and weights over its runtime
socket, and a reload only when the pool of backends has to grow. Each change is first written to the
files, so that an HAProxy that starts again is right at once.

Each backend has the gateway's activator as its last resort: the backup server that takes the calls of
a version that sleeps. It learns the backend's name by the unique id of the PROXY protocol.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from gateway.edge.error_map import error_entries
from gateway.edge.files import EdgeFiles, EdgeSettings, write
from gateway.edge.placement import (
    Placement,
    Pool,
    Standing,
    assign_slots,
    backend_name,
    held_slots,
    place,
)
from gateway.edge.render import ACTIVATOR, render
from gateway.edge.route_map import map_entries, watched
from gateway.edge.routes import RoutingTable, Server
from gateway.edge.runtime import ask, map_lines, portions
from gateway.errors import EdgeError

_STATE_FIELDS = 19
# Bits of srv_admin_state (HAProxy management guide, `show servers state`): forced, inherited, resolution.
_IN_MAINTENANCE = 0x01 | 0x02 | 0x20


class EdgeControl:
    """Brings routing tables to the HAProxy that runs from `files`.

    It keeps nothing about HAProxy in memory: each time it reads what HAProxy has, and changes the
    difference. So a gateway that starts again, or an HAProxy that does, needs no special care.
    """

    def __init__(self, settings: EdgeSettings, files: EdgeFiles) -> None:
        self._settings = settings
        self._files = files

    def apply(self, table: RoutingTable) -> None:
        """Make HAProxy route by `table`. New workers come before the routes to them, old ones go after.

        Raises:
            EdgeError: when HAProxy does not answer or refuses; the files are right even then.
        """
        slots = assign_slots([backend.version for backend in table.backends()], self._slots())
        live, capacity = self._live()
        standing = Standing(place(table, slots, live.workers), held_slots(table, slots))
        pool = capacity.grown_for(
            slots=max(standing.workers, default=-1) + 1,
            servers=max((max(servers, default=-1) + 1 for servers in standing.workers.values()), default=0),
        )
        entries, shown = map_entries(table, slots), self._shown()
        self.write(table, slots, pool, standing)
        # What HAProxy looks at of a call it learns by a reload alone.
        if pool != capacity or shown.get(":watched") != entries[":watched"]:
            self._reload()
            return
        self._command(_arrivals(live, standing))
        if shown != entries:
            self._swap_map(entries)
        self._command(_departures(live, standing))

    def write(self, table: RoutingTable, slots: Mapping[str, int], pool: Pool, standing: Standing) -> None:
        """Write the files from which an HAProxy would start with this table."""
        write(self._files.slots, json.dumps(slots))
        write(self._files.routes, "".join(map_lines(map_entries(table, slots))))
        write(self._files.errors, "".join(map_lines(error_entries())))
        write(self._files.config, render(self._settings, self._files, pool, standing, watched(table)))

    def end_canary(self, model: str) -> None:
        """Give a model's canary no more calls, and leave all else: for who does not know the whole table yet.

        Raises:
            EdgeError: when HAProxy does not answer.
        """
        weight, matches = f"{model}:weight", f"{model}:match:"
        lines = self._files.routes.read_text().splitlines()
        keys = [line.partition(" ")[0] for line in lines]
        path = self._files.routes
        rules = [f"del map {path} {key}" for key in keys if key.startswith(matches)]
        self._command([f"set map {path} {weight} 0", *rules])
        kept = [
            f"{weight} 0" if key == weight else line
            for key, line in zip(keys, lines, strict=True)
            if not key.startswith(matches)
        ]
        if kept != lines:
            write(path, "".join(f"{line}\n" for line in kept))

    def write_first(self, table: RoutingTable) -> None:
        """Write the files for a first start, where no worker runs yet."""
        self._files.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.write(table, {}, Pool(), Standing({}))

    def occupant(self, backend: str) -> str | None:
        """The version that has the backend of this name."""
        return next((app for app, slot in self._slots().items() if backend_name(slot) == backend), None)

    def old_processes(self) -> int:
        """How many processes of before the last reload still finish their calls."""
        shown = ask(self._files.master_socket, "show proc").partition("# old workers")[2]
        return sum(1 for line in shown.splitlines() if line[:1].isdigit())

    def _shown(self) -> dict[str, str]:
        """The map by which the running HAProxy routes.

        Not by `get map`: what that finds, HAProxy 2.8 looks at again at a later match, when it may be freed.
        """
        lines = self._command([f"show map {self._files.routes}"]).splitlines()
        words = (line.split(" ", 2) for line in lines)
        return {entry[1]: entry[2] for entry in words if len(entry) == 3}

    def _slots(self) -> dict[str, int]:
        try:
            held: dict[str, int] = json.loads(self._files.slots.read_text())
        except FileNotFoundError:
            return {}
        return held

    def _live(self) -> tuple[Standing, Pool]:
        """Who stands where in the running HAProxy, and how large its pool is."""
        workers: dict[int, dict[int, Server]] = {}
        held: set[int] = set()
        slots = servers = 0
        for line in self._command(["show servers state"]).splitlines():
            fields = line.split()
            if len(fields) < _STATE_FIELDS or not fields[1].startswith("slot"):
                continue
            slot, up = int(fields[1].removeprefix("slot")), not int(fields[6]) & _IN_MAINTENANCE
            slots = max(slots, slot + 1)
            if fields[3] == ACTIVATOR:
                held |= {slot} if up else set()
                continue
            number = int(fields[3].removeprefix("w"))
            servers = max(servers, number + 1)
            if up:
                workers.setdefault(slot, {})[number] = Server("", fields[4], int(fields[18]))
        return Standing(workers, frozenset(held)), Pool(slots, servers)

    def _swap_map(self, entries: Mapping[str, str]) -> None:
        """Replace the whole map in one step, so that no call sees half of it."""
        path = self._files.routes
        answer = self._command([f"prepare map {path}"])
        number = answer.rpartition(":")[2].strip()
        if not number.isdigit():
            raise EdgeError(f"HAProxy refused to change its routes: {answer.strip()}")
        for lines in portions(map_lines(entries)):
            self._command([f"add map @{number} {path} <<\n{''.join(lines)}"])
        self._command([f"commit map @{number} {path}"])

    def _command(self, commands: list[str]) -> str:
        return "".join(ask(self._files.runtime_socket, "; ".join(some)) for some in portions(commands))

    def _reload(self) -> None:
        answer = ask(self._files.master_socket, "reload")
        if "Success=1" not in answer:
            raise EdgeError(f"HAProxy refused its new configuration: {' '.join(answer.split())}")


def _arrivals(live: Standing, standing: Standing) -> list[str]:
    holds = [
        f"set server {backend_name(slot)}/{ACTIVATOR} state ready"
        for slot in sorted(standing.held - live.held)
    ]
    return holds + [
        command
        for slot, servers in standing.workers.items()
        for number, server in servers.items()
        if not _stands(live.workers, slot, number, server)
        for command in (
            f"set server {backend_name(slot)}/w{number} state maint",
            f"set server {backend_name(slot)}/w{number} addr {server.host} port {server.port}",
            f"set server {backend_name(slot)}/w{number} state ready",
        )
    ]


def _departures(live: Standing, standing: Standing) -> list[str]:
    workers = [
        f"set server {backend_name(slot)}/w{number} state maint"
        for slot, servers in live.workers.items()
        for number in servers
        if number not in standing.workers.get(slot, {})
    ]
    return workers + [
        f"set server {backend_name(slot)}/{ACTIVATOR} state maint"
        for slot in sorted(live.held - standing.held)
    ]


def _stands(live: Placement, slot: int, number: int, server: Server) -> bool:
    there = live.get(slot, {}).get(number)
    return there is not None and (there.host, there.port) == (server.host, server.port)

"""How a routing table comes to the HAProxy that runs.

A routing table knows models, versions and workers; HAProxy knows backends, servers and a map:

    routing table                 HAProxy                               brought there by
    ----------------------------  ------------------------------------  -------------------------
    a version                     a backend of the pool: its slot       slots.json
    a worker of a version         a server of its backend: w0, w1, …    the runtime socket
      a second time               a server of the slot's other backend,   the runtime socket
                                    `slotN.prefix`, which follows the
                                    state of the first
    a version that may sleep,     the server `activator` of its         the runtime socket
      or that has a spare           backend, a backup server
    names, weights, match rules   entries of the route map              the runtime socket
    what the rules look at        rules of the frontend                 a reload
    versions or workers beyond    a larger pool                         a reload
      what the pool has room for

Each change is also in the files from which HAProxy starts: `routes.map` (route_map.py), `errors.map`
(error_map.py) and `haproxy.cfg` (templates/). Two more are read by Kitserve alone: `slots.json` (which
version has which slot) and `counters.json` (what was counted for each version: counters.py).

Rules:

1. The files come first. So an HAProxy that starts again, or one that is reloaded, is right at once, and the
   files are right even when HAProxy does not answer.
2. Nothing about HAProxy is kept in memory. Each time its servers and its map are read, and what differs is
   changed. So a gateway or an HAProxy that starts again needs no special care, and what someone else
   changed is put right.
3. Without a reload, the order is: new workers come up, then the map leads to them, then old workers go
   down. The map is replaced in one step. No call is sent where nobody is, and a worker finishes the calls
   that it has.
4. A reload is only for what cannot change while HAProxy runs: a pool that is too small, what its rules look
   at of a call, where it listens and what it logs. It brings the whole change. The pool doubles and never
   shrinks, as long as HAProxy may have enough files for it; see `Pool.grown_for`.
   What a rollout's later steps look at is there from its start, so no step reloads.
5. While a version is in the table it keeps its slot, and each of its workers its server, and so their
   connections and health; where files are short, a worker may get another. A version in no table loses its
   slot.
6. Each answer of HAProxy is read, and so is what it has after a change. Where that is not what it was told,
   it is reloaded.
7. Ending a canary is a change of its own, because the whole table is not known while workers have still to
   announce themselves. It is made in HAProxy first and then in the file, so a failure is repaired by doing
   it again.

The activator is the last resort of a backend: it gets the calls of a version that has no worker. The PROXY
protocol's unique id tells it the backend's name, and `occupant` tells whose that is.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace

from gateway.edge.counters import EdgeCounters
from gateway.edge.edge import EdgeStatistics
from gateway.edge.error_map import error_entries
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.edge.haproxy import ChangeRefused, HAProxy, differs
from gateway.edge.haproxy_map import read_entries, write_entries
from gateway.edge.placement import (
    Placement,
    Pool,
    assign_slots,
    backend_name,
    place,
    slot_of,
    slots_with_activator,
)
from gateway.edge.refusals import refusal_entries
from gateway.edge.render import render
from gateway.edge.route_map import WATCHED, Key, map_entries, map_key, watched, without_canary
from gateway.edge.routes import RoutingTable
from gateway.edge.stats import Processes
from gateway.errors import EdgeError
from gateway.files import replace_private
from gateway.logs.limits import Logged
from gateway.metrics.memory import total_resident_bytes
from gateway.metrics.system import EdgeSample
from gateway.wire.server import check_free, listen_fault

log = logging.getLogger(__name__)


class EdgeControl:
    """The edge of this node: brings routing tables to the HAProxy that runs from `files`. An `edge.Edge`."""

    def __init__(self, settings: EdgeSettings, files: EdgeFiles) -> None:
        self._settings = settings
        self._files = files
        self._haproxy = HAProxy(files)
        self._counters = EdgeCounters(files.counters)
        self._counting = threading.Lock()
        """Held while HAProxy is read and added up, and while backends change their versions."""
        self._changing = threading.Lock()
        """Held while HAProxy is changed."""
        self._table: RoutingTable | None = None
        """The last table, for a change of the settings: the next `apply` brings it again in any case."""
        self._max_connections = settings.bounds.connections
        """How many the last config has it take, for the metrics."""

    def write_first(self, table: RoutingTable) -> None:
        """Write the files for a first start, where no worker runs yet."""
        self._files.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._settings.worker_tls is not None:
            replace_private(self._files.worker_authority, self._settings.worker_tls.authority)
        self._write_files(table, {}, Pool(), Placement({}))

    def apply(self, table: RoutingTable) -> None:
        """Have HAProxy route by `table`.

        Raises:
            EdgeError: when HAProxy does not answer or refuses; the files are right even then. Or when the
                table needs more files than HAProxy may have open: then all stays as it was.
        """
        with self._changing:
            self._table = table
            self._apply(table, must_reload=False)

    def configure(self, listen: str, access_log: Logged) -> None:
        """Take calls at another address, and log others, by a reload.

        Calls that came in at the address before are answered. Where the reload fails, HAProxy goes on as it
        was, and so do its files.

        Raises:
            EdgeError: when somebody has that address, or HAProxy does not answer or refuses.
        """
        with self._changing:
            before = self._settings
            if (listen, access_log) == (before.listen, before.access_log):
                return
            if self._table is None:
                raise EdgeError("the edge has no routes yet; try again in a moment")
            self._check_address(listen)
            self._settings = replace(before, listen=listen, access_log=access_log)
            try:
                self._apply(self._table, must_reload=True)
            except EdgeError:
                self._settings = before
                # The files alone: HAProxy still runs by what they were.
                with suppress(EdgeError):
                    self._apply(self._table, must_reload=False)
                raise
            log.info("edge.configured", extra={"listen": listen, "access_log": access_log})

    def _check_address(self, listen: str) -> None:
        """Raise EdgeError where another program has an address; HAProxy would share it with some."""
        host, _, port = listen.rpartition(":")
        if port == self._settings.listen.rpartition(":")[2]:
            # This edge has it, on another interface perhaps.
            return
        try:
            check_free(host.strip("[]"), int(port))
        except OSError as error:
            raise EdgeError(f"cannot listen on {listen} ({listen_fault(error)})") from error

    def _apply(self, table: RoutingTable, must_reload: bool) -> None:
        before = self._slots()
        slots = assign_slots([backend.version for backend in table.backends()], before)
        live, live_pool = self._haproxy.servers()
        workers, most = place(table, slots, live.workers), self._settings.bounds.max_checks
        pool = live_pool.grown_for(workers, most)
        if pool.size > most:
            # Workers that have gone left servers free below those that stay.
            workers = place(table, slots, {})
            pool = live_pool.grown_for(workers, most)
        placement = Placement(workers, slots_with_activator(table, slots))
        entries, live_entries = map_entries(table, slots), self._haproxy.routes()
        must_reload = must_reload or pool != live_pool or live_entries.get(WATCHED) != entries[WATCHED]
        with self._counting:
            if must_reload or slots != before:
                # While each backend still belongs to whom its calls were for.
                self._count_if_possible()
            self._write_files(table, slots, pool, placement)
        if must_reload:
            self._haproxy.reload()
            return
        if live_entries == entries and not differs(live, placement):
            return
        try:
            self._haproxy.bring_up(live, placement)
            if live_entries != entries:
                self._haproxy.replace_routes(entries)
            self._haproxy.take_down(live, placement)
            self._haproxy.confirm(placement, entries)
        except ChangeRefused as error:
            self._reload(error)

    def _write_files(
        self, table: RoutingTable, slots: Mapping[str, int], pool: Pool, placement: Placement
    ) -> None:
        """Write the files from which an HAProxy would start with this table; none, where it is too large."""
        config = render(self._settings, self._files, pool, placement, watched(table))
        replace_private(self._files.slots, json.dumps(slots))
        replace_private(self._files.routes, "".join(write_entries(map_entries(table, slots))))
        replace_private(self._files.errors, "".join(write_entries(error_entries() | refusal_entries())))
        replace_private(self._files.config, config)
        self._max_connections = self._settings.bounds.beside(pool.size).connections

    def end_canary(self, model: str) -> None:
        """Give a model's canary no more unversioned calls, and leave all else as it is.

        Raises:
            EdgeError: when HAProxy does not answer.
        """
        with self._changing:
            self._end_canary(model)

    def _end_canary(self, model: str) -> None:
        before = read_entries(self._files.routes.read_text())
        after = without_canary(before, model)
        weight = map_key(model, Key.WEIGHT)
        try:
            self._haproxy.edit_routes({weight: "0"}, removed=before.keys() - after.keys())
        except ChangeRefused as error:
            replace_private(self._files.routes, "".join(write_entries(after)))
            self._reload(error)
            return
        if after != before:
            replace_private(self._files.routes, "".join(write_entries(after)))

    def _reload(self, refused: ChangeRefused) -> None:
        """Bring the files, which are right, to an HAProxy that did not take a change."""
        log.warning("edge.reloaded", extra={"reason": str(refused)})
        self._haproxy.reload()

    def occupant(self, backend: str) -> str | None:
        """Return the version that has the backend of this name; None where there is none."""
        slot = slot_of(backend)
        return next((version for version, held in self._slots().items() if held == slot), None)

    def old_processes(self) -> int:
        """Return how many processes of before the last reload still finish their calls.

        Raises:
            EdgeError: when HAProxy does not answer.
        """
        return len(self._haproxy.processes().old_workers)

    def statistics(self) -> EdgeStatistics:
        """Return what HAProxy has counted; from before, where it does not answer."""
        with self._counting:
            try:
                memory = total_resident_bytes(self._count().all)
            except (EdgeError, OSError) as error:
                log.warning("edge.silent", extra={"reason": str(error)})
                return EdgeStatistics(self._counters.versions(), self._sample(is_up=False))
            return EdgeStatistics(self._counters.versions(), self._sample(is_up=True), memory)

    def _sample(self, *, is_up: bool) -> EdgeSample:
        return replace(self._counters.edge(is_up), max_connections=self._max_connections)

    def _count_if_possible(self) -> None:
        """Add up what HAProxy has counted; calls must find their way also where that fails."""
        try:
            self._count()
        except (EdgeError, OSError) as error:
            log.warning("edge.uncounted", extra={"reason": str(error)})

    def _count(self) -> Processes:
        """Add up what HAProxy has counted since the last time; returns its processes."""
        processes = self._haproxy.processes()
        counts = {}
        for process in processes.workers:
            # One of before a reload may end meanwhile.
            with nullcontext() if process == processes.worker else suppress(EdgeError):
                counts[process] = self._haproxy.counts(process)
        owners = {backend_name(slot): version for version, slot in self._slots().items()}
        self._counters.take(processes, counts, owners)
        return processes

    def _slots(self) -> dict[str, int]:
        try:
            slots: dict[str, int] = json.loads(self._files.slots.read_text())
        except FileNotFoundError:
            return {}
        return slots

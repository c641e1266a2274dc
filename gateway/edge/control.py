"""HAProxy's files, and the changes it takes while it runs.

`EdgeControl` brings routing tables to the running HAProxy: servers and weights over its runtime
socket, and a reload only when the pool of backends has to grow. Each change is first written to the
files, so that an HAProxy that starts again is right at once.

Each backend has the gateway's activator as its last resort: the backup server that takes the calls of
a version that sleeps. It learns the backend's name by the unique id of the PROXY protocol.
"""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

import gateway
from gateway.config.config import WAKE_SECONDS
from gateway.edge.routes import (
    Placement,
    RoutingTable,
    Server,
    assign_slots,
    backend_name,
    held_slots,
    map_entries,
    place,
    watched,
)
from gateway.errors import EdgeError
from gateway.wire.grpc_status import CODES

DRAIN_SECONDS = 60
TIMEOUT_SECONDS = 75
STREAM_SECONDS = 3600
"""How long a stream may be silent on the gateway's side."""
ERRORS = {
    400: "the request is not valid HTTP",
    408: "the request took too long to arrive",
    413: "the request body is too large",
    500: "the edge failed",
    502: "the worker answered no valid HTTP; if this lasts, see its log",
    503: "no worker of this version is up; one is being started",
    504: "the worker did not answer in time",
}
"""What the edge says where it fails, by HTTP's status."""
_GATEWAY_STARTS = "the gateway is being started; ask again"
_INFERENCE = "inference.GRPCInferenceService"
_MODEL_METHODS = ("ModelInfer", "ModelStreamInfer", "ModelReady", "ModelMetadata", "ModelConfig")
_COMPRESSED = "compressed messages are not read here; send them uncompressed (identity)"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)
"""What of Triton's extensions of the protocol is served; models come and go by Kitserve's config alone."""
_LEAST_SLOTS = 32
_LEAST_SERVERS = 8
_ANSWER_SECONDS = 10
# A command and what it carries must fit a buffer (tune.bufsize, less what HAProxy reserves).
_PORTION_BYTES = 16384
_ACTIVATOR = "activator"
_STATE_FIELDS = 19
# Bits of srv_admin_state (HAProxy management guide, `show servers state`): forced, inherited, resolution.
_IN_MAINTENANCE = 0x01 | 0x02 | 0x20


@dataclass(frozen=True, slots=True)
class EdgeFiles:
    """The files and sockets of one HAProxy, all in one directory."""

    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "haproxy.cfg"

    @property
    def routes(self) -> Path:
        return self.directory / "routes.map"

    @property
    def errors(self) -> Path:
        """What the edge says where it fails; a map, as `routes` is."""
        return self.directory / "errors.map"

    @property
    def slots(self) -> Path:
        return self.directory / "slots.json"

    @property
    def log(self) -> Path:
        return self.directory / "haproxy.log"

    @property
    def services_socket(self) -> Path:
        """Where the gateway answers what is asked over gRPC of the server as a whole."""
        return self.directory / "services.sock"

    @property
    def runtime_socket(self) -> Path:
        return self.directory / "runtime.sock"

    @property
    def master_socket(self) -> Path:
        return self.directory / "master.sock"

    @property
    def activator_socket(self) -> Path:
        """Where calls to versions that sleep go; the gateway listens there."""
        return self.directory / "wake.sock"


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """What of the edge's configuration a user chooses."""

    listen: str
    access_log: str = "errors"
    key: str = ""
    """What workers on other machines know the edge by."""
    admin: str = ""
    """Where the gateway answers what is asked of the server as a whole; "" where there is none."""


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


def render(
    settings: EdgeSettings,
    files: EdgeFiles,
    pool: Pool,
    standing: Standing,
    looked_at: Sequence[tuple[str, str]] = (),
) -> str:
    """HAProxy's whole configuration, with each worker at its place and the rest of the pool empty.

    `looked_at` is what of a call decides where it goes, see `routes.watched`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gateway.edge", "."),
        autoescape=False,  # noqa: S701  it is no HTML
        undefined=jinja2.StrictUndefined,
    )
    slots = [
        {
            "name": backend_name(slot),
            "servers": [
                _server_line(number, standing.workers.get(slot, {}).get(number))
                for number in range(pool.servers)
            ],
            "held": slot in standing.held,
        }
        for slot in range(pool.slots)
    ]
    return environment.get_template("haproxy.cfg.j2").render(
        files=files,
        listen=settings.listen,
        access_log=settings.access_log,
        key=settings.key,
        admin=settings.admin,
        extensions=json.dumps(EXTENSIONS, separators=(",", ":")),
        errors=tuple(ERRORS),
        inference=_INFERENCE,
        model_methods=_MODEL_METHODS,
        compressed=_COMPRESSED,
        slots=slots,
        version=gateway.__version__,
        drain_seconds=DRAIN_SECONDS,
        timeout_seconds=TIMEOUT_SECONDS,
        stream_seconds=STREAM_SECONDS,
        activator=_ACTIVATOR,
        watched=looked_at,
        wake_timeout_seconds=TIMEOUT_SECONDS + math.ceil(WAKE_SECONDS),
    )


def error_entries() -> dict[str, str]:
    """What HAProxy looks up to tell of an error, by HTTP's status and by who is told.

    Keys: `STATUS/body` (REST's; gRPC's is empty), `STATUS/grpc` and `STATUS/gateway` (gRPC's message, the
    latter where the gateway should have answered), `STATUS/code` (gRPC's code).
    """
    entries = {f"{status}/code": str(code.value) for status, code in CODES.items()}
    for status, text in ERRORS.items():
        entries[f"{status}/body"] = json.dumps({"error": text}, separators=(",", ":"))
        entries[f"{status}/grpc"] = text
        entries[f"{status}/gateway"] = _GATEWAY_STARTS if status == 503 else text
    return entries


def _server_line(number: int, server: Server | None) -> dict[str, Any]:
    address = "127.0.0.1:1" if server is None else f"{server.host}:{server.port}"
    return {"name": f"w{number}", "address": address, "up": server is not None}


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
        _write(self._files.slots, json.dumps(slots))
        _write(self._files.routes, "".join(_lines(map_entries(table, slots))))
        _write(self._files.errors, "".join(_lines(error_entries())))
        _write(self._files.config, render(self._settings, self._files, pool, standing, watched(table)))

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
            _write(path, "".join(f"{line}\n" for line in kept))

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
            if fields[3] == _ACTIVATOR:
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
        for lines in _portions(_lines(entries)):
            self._command([f"add map @{number} {path} <<\n{''.join(lines)}"])
        self._command([f"commit map @{number} {path}"])

    def _command(self, commands: list[str]) -> str:
        return "".join(ask(self._files.runtime_socket, "; ".join(some)) for some in _portions(commands))

    def _reload(self) -> None:
        answer = ask(self._files.master_socket, "reload")
        if "Success=1" not in answer:
            raise EdgeError(f"HAProxy refused its new configuration: {' '.join(answer.split())}")


def _arrivals(live: Standing, standing: Standing) -> list[str]:
    holds = [
        f"set server {backend_name(slot)}/{_ACTIVATOR} state ready"
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
        f"set server {backend_name(slot)}/{_ACTIVATOR} state maint"
        for slot in sorted(live.held - standing.held)
    ]


def _stands(live: Placement, slot: int, number: int, server: Server) -> bool:
    there = live.get(slot, {}).get(number)
    return there is not None and (there.host, there.port) == (server.host, server.port)


def _lines(entries: Mapping[str, str]) -> list[str]:
    """A map as HAProxy reads it."""
    return [f"{key} {value}\n" for key, value in entries.items()]


def _portions(texts: Sequence[str]) -> Iterator[list[str]]:
    """The same texts in order, so many at a time as HAProxy's buffer holds."""
    portion: list[str] = []
    size = 0
    for text in texts:
        if portion and size + len(text) > _PORTION_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(text)
        size += len(text)
    if portion:
        yield portion


def ask(path: Path, command: str) -> str:
    """Send one command line to an HAProxy socket and return its whole answer."""
    answer = bytearray()
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.connect(str(path))
            connection.sendall(command.encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
    except OSError as error:
        raise EdgeError(f"HAProxy does not answer at {path}: {error}") from error
    return answer.decode(errors="replace")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.touch(mode=0o600)
    temporary.write_text(text)
    temporary.replace(path)

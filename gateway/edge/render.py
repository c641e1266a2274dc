"""HAProxy's whole configuration as text, from `templates/`, and what it says where it fails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

import gateway
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.edge.routes import Placement, Server, backend_name
from gateway.wire import limits, texts
from gateway.wire.grpc_status import CODES

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
_MODEL_METHODS = ("ModelInfer", "ModelStreamInfer", "ModelReady", "ModelMetadata", "ModelConfig")
_LEAST_SLOTS = 32
_LEAST_SERVERS = 8
ACTIVATOR = "activator"


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
        loader=jinja2.PackageLoader("gateway.edge", "templates"),
        autoescape=False,  # noqa: S701  it is no HTML
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
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
    environment.filters["json"] = lambda value: json.dumps(value, separators=(",", ":"))
    environment.filters["seconds"] = lambda seconds: f"{seconds:g}s"
    return environment.get_template("haproxy.cfg.j2").render(
        files=files,
        listen=settings.listen,
        access_log=settings.access_log,
        key=settings.key,
        admin=settings.admin,
        slots=slots,
        errors=tuple(ERRORS),
        activator=ACTIVATOR,
        watched=looked_at,
        model_methods=_MODEL_METHODS,
        version=gateway.__version__,
        limits=limits,
        texts=texts,
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
        entries[f"{status}/gateway"] = texts.GATEWAY_STARTS if status == 503 else text
    return entries


def _server_line(number: int, server: Server | None) -> dict[str, Any]:
    address = "127.0.0.1:1" if server is None else f"{server.host}:{server.port}"
    return {"name": f"w{number}", "address": address, "up": server is not None}

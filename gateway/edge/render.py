"""HAProxy's whole configuration as text, from `templates/`."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jinja2

import gateway
from gateway.edge import bounds, error_map, keys, openai, predict, refusals, route_map, traced_lines, tracing
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.edge.placement import ACTIVATOR, Placement, Pool, backend_name, prefix_backend_name, server_name
from gateway.edge.routes import RouteState, Server
from gateway.wire import headers, limits, texts
from gateway.wire.worker_tls import WORKER_NAME

_MODEL_METHODS = ("ModelInfer", "ModelStreamInfer", "ModelReady", "ModelMetadata", "ModelConfig")
# Whoever has an IPv6 network has at least this one whole.
_SOURCE = "src,ipmask(32,64)"
_NO_ADDRESS = "127.0.0.1:1"


def render(
    settings: EdgeSettings,
    files: EdgeFiles,
    pool: Pool,
    placement: Placement,
    watched: Sequence[tuple[str, str]] = (),
) -> str:
    """Return the configuration, with each worker at its server and the rest of the pool empty.

    What the edge takes at a time is as much as the pool leaves, see `bounds`.

    `watched` is what of a call decides where it goes, see `routes.Rules`.

    Raises:
        EdgeError: when the pool leaves too little.
    """
    return _template().render(
        settings=replace(settings, bounds=settings.bounds.beside(pool.size)),
        files=files,
        slots=[_slot(number, servers, placement) for number, servers in enumerate(pool.servers)],
        activator=ACTIVATOR,
        watched=watched,
        lookup=partial(route_map.lookup, files.routes),
        prefix_lookup=route_map.prefix_lookup(files.routes),
        route_map=route_map,
        failed=RouteState.FAILED,
        error_map=error_map,
        openai=openai,
        predict=predict,
        refusals=refusals,
        keys=keys,
        tracing=tracing,
        traced_lines=traced_lines,
        sticky_key=base64.b64encode(bytes.fromhex(settings.sticky_key)).decode(),
        model_methods=_MODEL_METHODS,
        version=gateway.__version__,
        limits=limits,
        source=_SOURCE,
        headers=headers,
        bounds=bounds,
        texts=texts,
        worker_name=WORKER_NAME,
    )


@cache
def _template() -> jinja2.Template:
    """Return the template, which is compiled once: that takes longer than to render it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gateway.edge", "templates"),
        autoescape=False,  # noqa: S701  it is no HTML
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["json"] = lambda value: json.dumps(value, separators=(",", ":"))
    environment.filters["seconds"] = lambda seconds: f"{seconds:g}s"
    return environment.get_template("haproxy.cfg.j2")


def _slot(slot: int, servers: int, placement: Placement) -> dict[str, Any]:
    workers = placement.workers.get(slot, {})
    return {
        "name": backend_name(slot),
        "prefix_name": prefix_backend_name(slot),
        "servers": [_server(number, workers.get(number)) for number in range(servers)],
        "has_activator": slot in placement.activator,
    }


def _server(number: int, worker: Server | None) -> dict[str, Any]:
    address = _NO_ADDRESS if worker is None else f"{worker.host}:{worker.port}"
    return {"name": server_name(number), "address": address, "is_up": worker is not None}

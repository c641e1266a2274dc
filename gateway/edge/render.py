"""HAProxy's whole configuration as text, from `templates/`, and what it says where it fails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jinja2

import gateway
from gateway.edge.error_map import ERRORS
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.edge.placement import Pool, Standing, backend_name
from gateway.edge.routes import Server
from gateway.wire import limits, texts

_MODEL_METHODS = ("ModelInfer", "ModelStreamInfer", "ModelReady", "ModelMetadata", "ModelConfig")
ACTIVATOR = "activator"


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


def _server_line(number: int, server: Server | None) -> dict[str, Any]:
    address = "127.0.0.1:1" if server is None else f"{server.host}:{server.port}"
    return {"name": f"w{number}", "address": address, "up": server is not None}

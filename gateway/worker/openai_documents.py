"""What every model that answers the OpenAI API says of itself, and of the calls that it does not answer."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

import orjson

from gateway.wire.exchange import Exchange
from gateway.worker.protocol import JSON, OpenAIErrors, Route, document
from gateway.worker.version import ServedVersion
from runtimes.engines.task import Task


def model_documents(
    version: ServedVersion, errors: OpenAIErrors, tasks: Collection[Task], facts: Mapping[str, object]
) -> dict[str, Route]:
    """Return the routes of `/v1/models` and of the one model in it, by path; `facts` are further members."""
    identity = version.identity
    card = {
        "id": identity.model,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "kitserve",
        "version": identity.version,
        "digest": identity.digest,
        **facts,
        "tasks": sorted(tasks),
    }
    headers = {role: JSON + names for role, names in version.headers.items()}
    return {
        "/v1/models": document(errors, headers, orjson.dumps({"object": "list", "data": [card]})),
        f"/v1/models/{identity.model}": document(errors, headers, orjson.dumps(card)),
    }


def not_served(errors: OpenAIErrors, path: str, does: str) -> Route:
    """Return the route of a path that is for models of another task; `does` says what this one is for."""

    def answer(exchange: Exchange, role: str) -> None:
        text = f"{path} is not served by this model: {does}"
        errors(exchange, role, 404, text, code="unsupported_endpoint")

    return Route(errors, {"POST": answer})

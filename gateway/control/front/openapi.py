"""The data plane as an OpenAPI document: the protocol for any model, and each served version by itself. Pure.

Specification: OpenAPI 3.1.1. The paths of a served model stand beside the templates that they match, and
have its signature's schemas, an example, and a command to paste.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import gateway
from gateway.contract import Description
from gateway.control.front import examples, schemas
from gateway.control.front.schemas import Schema, ref
from gateway.control.state.status import ModelStatus, Status, VersionStatus

JSON = "application/json"
BINARY = "application/octet-stream"
ABOUT = """\
Models packed as ModelKits, called over the Open Inference Protocol (V2) with Triton's extensions for binary
tensors, classification, parameters, model repository, model configuration and statistics. The same port
answers gRPC (`inference.GRPCInferenceService`) over HTTP/2 without TLS.

Every answer carries `X-Request-Id`, the caller's own or a new one. What a model answers carries
`ModelKit-Digest`, `ModelKit-Version` and `ModelKit-Role` as well. Every error is `{"error": "…"}`."""
UNKNOWN_SHAPES = "The model's file does not record which shapes it takes: the example's stand for your own."

FAULTS: Mapping[int, str] = {
    400: "The request is not as it must be; the error names what is wrong.",
    404: "There is no such model, version or path.",
    405: "The path does not take this method; `Allow` says which it takes.",
    408: "The request took too long to arrive.",
    413: "The body is too large, as it is or once decompressed.",
    415: "The body is compressed in a way that is not known here.",
    429: "Too many calls; `Retry-After` says how long to wait.",
    500: "The model failed, or its worker did; the node's log says why, under the request's id.",
    501: "Models come and go by Kitserve's config alone.",
    502: "The worker answered no valid HTTP.",
    503: "The model is not ready, its queue full, or no worker up; `Retry-After` says how long to wait.",
    504: "No answer came within the time that the caller, or the edge, allows.",
}
"""What each status of an error means."""
_OF_EDGE = (400, 408)
_OF_GATEWAY = (400, 404, 405, 408, 413, 502, 503, 504)
_OF_WORKER = (400, 404, 405, 408, 500, 502, 503, 504)
_OF_CALL = (400, 404, 405, 408, 413, 415, 429, 500, 502, 503, 504)
_LATER = frozenset({429, 503})
_SERVER, _ANY = "server", "any model"
_SHORT = slice(7, 19)

Describe = Callable[[str], Description | None]


@dataclass(frozen=True, slots=True)
class Served:
    """One version that takes calls, and what its model takes and gives. `path` is the version's own."""

    model: str
    version: VersionStatus
    description: Description
    path: str


def served(model: ModelStatus, describe: Describe) -> list[Served]:
    """The versions of a model that take calls and were ready once, stable first."""
    found: dict[str, Served] = {}
    for version in sorted(model.versions, key=lambda version: version.role != "stable"):
        description = describe(version.app)
        if version.role and description is not None:
            path = f"{model_path(model.name)}/versions/{quote(version.tag)}"
            found.setdefault(path, Served(model.name, version, description, path))
    return list(found.values())


def model_path(model: str) -> str:
    """The path of a model, without a version."""
    return f"/v2/models/{quote(model)}"


def document(status: Status, describe: Describe, base: str) -> dict[str, Any]:
    """Write the OpenAPI document; `base` is the URL that commands to paste begin with."""
    models = [(model, served(model, describe)) for model in status.models]
    paths: dict[str, Any] = {**_server_paths(), **_any_paths()}
    for _, versions in models:
        for path, operations in _own_paths(versions, base):
            paths.setdefault(path, operations)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Kitserve",
            "version": gateway.__version__,
            "description": ABOUT,
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": _SERVER, "description": "What is asked of the server as a whole."},
            {"name": _ANY, "description": "What every model answers."},
            *(
                {"name": f"model {model.name}", "description": _about(model, versions)}
                for model, versions in models
            ),
        ],
        "paths": paths,
        "components": {
            "schemas": schemas.components(),
            "headers": schemas.headers(),
            "parameters": schemas.parameters([model.name for model, _ in models]),
            "responses": {_fault_name(status): _fault(status) for status in FAULTS},
        },
    }


def _server_paths() -> dict[str, Any]:
    ready = _answer("Every model can be called.", ref("ServerReady"))
    not_ready = _answer("Not every model can be called.", ref("NotReady"), "Retry-After")
    index = _body(
        {JSON: {"schema": ref("RepositoryIndexRequest"), "example": {"ready": True}}}, required=False
    )
    paths = {
        "/v2": ("get", "Name, version and extensions of the server", ref("ServerMetadata"), _OF_EDGE, {}),
        "/v2/health/live": ("get", "Whether the server is up", ref("ServerLive"), _OF_EDGE, {}),
        "/v2/repository/index": (
            "post",
            "All models and versions, and their states",
            ref("RepositoryIndex"),
            _OF_GATEWAY,
            index,
        ),
        "/v2/models/stats": ("get", "What all models did", ref("Statistics"), _OF_GATEWAY, {}),
        "/openapi.json": ("get", "This document", {"type": "object"}, _OF_GATEWAY, {}),
    }
    found: dict[str, Any] = {
        path: {method: _operation(_SERVER, summary, _answer(summary, schema), faults) | body}
        for path, (method, summary, schema, faults, body) in paths.items()
    }
    found["/v2/health/ready"] = {
        "get": _operation(_SERVER, "Whether every model can be called", ready, _OF_EDGE, {"503": not_ready})
    }
    page = {"description": "A page of HTML.", "headers": _named("X-Request-Id"), "content": {"text/html": {}}}
    found["/docs"] = {"get": _operation(_SERVER, "The same as a page for people", page, _OF_GATEWAY)}
    return found


def _any_paths() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for suffix, parameters in (("", ("model",)), ("/versions/{version}", ("model", "version"))):
        path = f"/v2/models/{{model}}{suffix}"
        here = [_parameter(name) for name in parameters]
        reads = {
            "": ("Metadata: what the model takes and gives", ref("ModelMetadata"), _OF_WORKER),
            "/ready": ("Whether the model can be called", ref("ModelReady"), _OF_WORKER),
            "/config": ("Triton's model configuration", ref("ModelConfiguration"), _OF_WORKER),
            "/stats": ("What the model did", ref("Statistics"), _OF_GATEWAY),
        }
        for action, (summary, schema, faults) in reads.items():
            names = ("ModelKit-Digest", "ModelKit-Version", "ModelKit-Role") if action != "/stats" else ()
            answer = _answer(summary, schema, *names)
            found[path + action] = {"parameters": here, "get": _operation(_ANY, summary, answer, faults)}
        infer = _infer(_ANY, "Call the model", ref("InferenceRequest"))
        found[f"{path}/infer"] = {"parameters": here, "post": infer}
    page = {"description": "A page of HTML.", "headers": _named("X-Request-Id"), "content": {"text/html": {}}}
    found["/v2/models/{model}/docs"] = {
        "parameters": [_parameter("model")],
        "get": _operation(_ANY, "The model's page for people", page, _OF_GATEWAY),
    }
    for action in ("load", "unload"):
        found[f"/v2/repository/models/{{model}}/{action}"] = {
            "parameters": [_parameter("model")],
            "post": {
                "tags": [_SERVER],
                "summary": f"To {action} a model: not served",
                "responses": {"501": {"$ref": f"#/components/responses/{_fault_name(501)}"}},
            },
        }
    return found


def _own_paths(versions: list[Served], base: str) -> Iterator[tuple[str, Any]]:
    """The paths of one model: without a version as its first version is, then each version's own."""
    if not versions:
        return
    first = versions[0]
    for at, path in [(first, model_path(first.model)), *((at, at.path) for at in versions)]:
        tag, named = f"model {at.model}", f"version {at.version.tag}" if path == at.path else "the model"
        metadata = _answer(
            "Metadata.", ref("ModelMetadata"), "ModelKit-Digest", "ModelKit-Version", "ModelKit-Role"
        )
        yield path, {"get": _operation(tag, f"What {named} takes and gives", metadata, _OF_WORKER)}
        signature = at.description.signature
        infer = _infer(tag, f"Call {named}", schemas.request_of(signature))
        if examples.is_small(signature.inputs):
            infer["requestBody"]["content"][JSON]["example"] = examples.request(signature)
        if signature.outputs and examples.is_small(signature.outputs):
            given = examples.answer(at.model, at.version.tag, signature)
            infer["responses"]["200"]["content"][JSON]["example"] = given
        if not examples.is_known(signature):
            infer["description"] = UNKNOWN_SHAPES
        source = examples.command(f"{base}{path}/infer", signature)
        infer["x-codeSamples"] = [{"lang": "Shell", "label": "curl", "source": source}]
        yield f"{path}/infer", {"post": infer}


def _infer(tag: str, summary: str, request: Schema) -> dict[str, Any]:
    names = ("ModelKit-Digest", "ModelKit-Version", "ModelKit-Role")
    answer = _answer("The model's outputs.", ref("InferenceResponse"), *names)
    # raw bytes behind the JSON: a schema has no say on what is no JSON
    answer["content"][BINARY] = {}
    answer["headers"] |= _named("Inference-Header-Content-Length", "Content-Encoding")
    body = _body({JSON: {"schema": request}, BINARY: {}})
    headers = ("X-Request-Timeout", "Inference-Header-Content-Length", "Content-Encoding")
    parameters = [{"$ref": f"#/components/parameters/{name}"} for name in headers]
    return {**_operation(tag, summary, answer, _OF_CALL), "parameters": parameters, **body}


def _operation(
    tag: str,
    summary: str,
    answer: Mapping[str, Any],
    faults: tuple[int, ...],
    others: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    told = {str(status): {"$ref": f"#/components/responses/{_fault_name(status)}"} for status in faults}
    return {"tags": [tag], "summary": summary, "responses": {"200": answer, **told, **(others or {})}}


def _answer(description: str, schema: Schema, *headers: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": _named("X-Request-Id", *headers),
        "content": {JSON: {"schema": schema}},
    }


def _body(content: Mapping[str, Any], required: bool = True) -> dict[str, Any]:
    return {"requestBody": {"required": required, "content": dict(content)}}


def _named(*headers: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in headers}


def _parameter(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/parameters/{name}"}


def _fault_name(status: int) -> str:
    return f"Error{status}"


def _fault(status: int) -> dict[str, Any]:
    headers = ("Allow",) if status == 405 else ("Retry-After",) if status in _LATER else ()
    return _answer(FAULTS[status], ref("Error"), *headers)


def _about(model: ModelStatus, versions: list[Served]) -> str:
    """What a model is, and what of it is served, as Markdown."""
    lines = [at.description.about for at in versions[:1] if at.description.about]
    for at in versions:
        names = f"`{at.version.tag}`, `{at.version.digest[_SHORT]}`"
        licensed = f", licence {at.description.license}" if at.description.license else ""
        lines.append(
            f"- version {names}: {at.version.role}, {at.version.weight} % of the calls, "
            f"{at.version.runtime} ({at.description.platform}){licensed}"
        )
    if not versions:
        lines.append(f"Takes no calls yet: {model.state}. {model.message}".rstrip())
    return "\n\n".join(lines)

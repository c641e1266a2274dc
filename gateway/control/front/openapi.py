"""The OpenAPI document of the data plane: the protocol for any model, and each served version. Pure.

Specification: OpenAPI 3.1.1. Beside the templates for any model are the paths of each served model, with the
schemas of its signature, an example, and a command to paste.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import gateway
from gateway.contract import AppName, Description
from gateway.control.front import examples, language, predict, schemas
from gateway.control.front.operations import (
    BINARY,
    FAULTS,
    JSON,
    OF_CALL,
    OF_EDGE,
    OF_GATEWAY,
    OF_WORKER,
    VERSION_HEADERS,
    answer_of,
    body_of,
    fault_name,
    header_refs,
    operation,
    parameter_ref,
)
from gateway.control.front.schemas import Schema, ref
from gateway.control.state.status import ModelStatus, Status, VersionStatus
from gateway.oci.reference import Digest

ABOUT = """\
Models packed as ModelKits, called over the Open Inference Protocol (V2) with Triton's extensions for binary
tensors, classification, parameters, model repository, model configuration and statistics. The same port
answers gRPC (`inference.GRPCInferenceService`) over HTTP/2 without TLS.

Every answer carries `X-Request-Id`, the caller's own or a new one. What a model answers carries
`ModelKit-Digest`, `ModelKit-Version` and `ModelKit-Role` as well. Every error is `{"error": "…"}`.

Language models are called by the OpenAI API at `/v1`, where errors have its form; `/v1/models` lists them."""
UNKNOWN_SHAPES = "The model's file does not record which shapes it takes: replace the example's by your own."

_SERVER, _ANY = "server", "any model"

Describe = Callable[[AppName], Description | None]


@dataclass(frozen=True, slots=True)
class Served:
    """A version that takes calls, with its description. `path` is the version's own."""

    model: str
    version: VersionStatus
    description: Description
    path: str


def served(model: ModelStatus, describe: Describe) -> list[Served]:
    """Return the versions of a model that take calls and have been ready, stable first."""
    versions: dict[str, Served] = {}
    for version in sorted(model.versions, key=lambda version: version.role != "stable"):
        description = describe(version.app)
        if version.role and description is not None:
            path = f"{model_path(model.name)}/versions/{quote(version.tag)}"
            versions.setdefault(path, Served(model.name, version, description, path))
    return list(versions.values())


def model_path(model: str) -> str:
    """Return the path of a model, without a version."""
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
            {"name": _SERVER, "description": "The server as a whole."},
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
            "responses": {fault_name(status): _fault(status) for status in FAULTS},
        },
    }


def _server_paths() -> dict[str, Any]:
    ready = answer_of("Every model can be called.", ref("ServerReady"))
    not_ready = answer_of("Not every model can be called.", ref("NotReady"), "Retry-After")
    any_model = {
        "name": "any",
        "in": "query",
        "description": "Empty, `true` or `1`: ask only whether at least one model can be called.",
        "schema": {"type": "string"},
        "allowEmptyValue": True,
    }
    index = body_of(
        {JSON: {"schema": ref("RepositoryIndexRequest"), "example": {"ready": True}}}, required=False
    )
    paths = {
        "/v2": ("get", "Name, version and extensions of the server", ref("ServerMetadata"), OF_EDGE, {}),
        "/v2/health/live": ("get", "Whether the server is up", ref("ServerLive"), OF_EDGE, {}),
        "/v2/repository/index": (
            "post",
            "All models and versions, and their states",
            ref("RepositoryIndex"),
            OF_GATEWAY,
            index,
        ),
        "/v2/models/stats": ("get", "What all models did", ref("Statistics"), OF_GATEWAY, {}),
        "/openapi.json": ("get", "This document", {"type": "object"}, OF_GATEWAY, {}),
    }
    documented: dict[str, Any] = {
        path: {method: operation(_SERVER, summary, answer_of(summary, schema), faults) | body}
        for path, (method, summary, schema, faults, body) in paths.items()
    }
    documented["/v2/health/ready"] = {
        "get": operation(_SERVER, "Whether every model can be called", ready, OF_EDGE, {"503": not_ready})
        | {"parameters": [any_model]}
    }
    documented["/docs"] = {"get": operation(_SERVER, "The same as a page for people", _page(), OF_GATEWAY)}
    return documented


def _any_paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for suffix, names in (("", ("model",)), ("/versions/{version}", ("model", "version"))):
        path = f"/v2/models/{{model}}{suffix}"
        parameters = [parameter_ref(name) for name in names]
        reads = {
            "": ("Metadata: what the model takes and gives", ref("ModelMetadata"), OF_WORKER),
            "/ready": ("Whether the model can be called", ref("ModelReady"), OF_WORKER),
            "/config": ("Triton's model configuration", ref("ModelConfiguration"), OF_WORKER),
            "/stats": ("What the model did", ref("Statistics"), OF_GATEWAY),
        }
        for action, (summary, schema, faults) in reads.items():
            headers = VERSION_HEADERS if action != "/stats" else ()
            answer = answer_of(summary, schema, *headers)
            paths[path + action] = {
                "parameters": parameters,
                "get": operation(_ANY, summary, answer, faults),
            }
        infer = _infer(_ANY, "Call the model", ref("InferenceRequest"))
        paths[f"{path}/infer"] = {"parameters": parameters, "post": infer}
        paths[f"{path}/predict"] = {"parameters": parameters, "post": predict.operation_of(_ANY)}
    paths["/v2/models/{model}/docs"] = {
        "parameters": [parameter_ref("model")],
        "get": operation(_ANY, "The model's page for people", _page(), OF_GATEWAY),
    }
    paths |= predict.aliases(_ANY)
    for action in ("load", "unload"):
        paths[f"/v2/repository/models/{{model}}/{action}"] = {
            "parameters": [parameter_ref("model")],
            "post": {
                "tags": [_SERVER],
                "summary": f"To {action} a model: not served",
                "responses": {"501": {"$ref": f"#/components/responses/{fault_name(501)}"}},
            },
        }
    return paths


def _own_paths(versions: list[Served], base: str) -> Iterator[tuple[str, Any]]:
    """Yield the paths of one model: one without a version, as its first version has, then each version's."""
    if not versions:
        return
    first = versions[0]
    tasks = first.description.tasks
    own = language.operation(base, first.model, tasks, f"model {first.model}")
    if own is not None:
        path, own_operation = own
        yield path, {"post": own_operation}
    for entry, path in [(first, model_path(first.model)), *((entry, entry.path) for entry in versions)]:
        version_tag = entry.version.tag
        tag, name = f"model {entry.model}", f"version {version_tag}" if path == entry.path else "the model"
        metadata = answer_of("Metadata.", ref("ModelMetadata"), *VERSION_HEADERS)
        yield path, {"get": operation(tag, f"What {name} takes and gives", metadata, OF_WORKER)}
        signature = entry.description.signature
        if entry.description.tasks and not signature.inputs:
            continue
        infer = _infer(tag, f"Call {name}", schemas.request_of(signature))
        if examples.is_small(signature.inputs):
            infer["requestBody"]["content"][JSON]["example"] = examples.request(signature)
        if signature.outputs and examples.is_small(signature.outputs):
            answer = examples.answer(entry.model, version_tag, signature)
            infer["responses"]["200"]["content"][JSON]["example"] = answer
        if not examples.is_known(signature):
            infer["description"] = UNKNOWN_SHAPES
        source = examples.command(f"{base}{path}/infer", signature)
        infer["x-codeSamples"] = [{"lang": "Shell", "label": "curl", "source": source}]
        yield f"{path}/infer", {"post": infer}
        shown = predict.operation_of(tag, entry.description, f"{base}{path}/predict")
        yield f"{path}/predict", {"post": shown | {"summary": f"Call {name} with rows, CSV or a file"}}


def _infer(tag: str, summary: str, request: Schema) -> dict[str, Any]:
    answer = answer_of("The model's outputs.", ref("InferenceResponse"), *VERSION_HEADERS)
    # Raw bytes follow the JSON here, and no schema describes them.
    answer["content"][BINARY] = {}
    answer["headers"] |= header_refs("Inference-Header-Content-Length", "Content-Encoding")
    body = body_of({JSON: {"schema": request}, BINARY: {}})
    headers = ("X-Request-Timeout", "Inference-Header-Content-Length", "Content-Encoding")
    parameters = [{"$ref": f"#/components/parameters/{name}"} for name in headers]
    return {**operation(tag, summary, answer, OF_CALL), "parameters": parameters, **body}


def _fault(status: int) -> dict[str, Any]:
    headers = ("Allow",) if status == 405 else ("Retry-After",) if status == 503 else ()
    return answer_of(FAULTS[status], ref("Error"), *headers)


def _page() -> dict[str, Any]:
    """Return the answer of an operation that is a page for people."""
    headers = header_refs("X-Request-Id")
    return {"description": "A page of HTML.", "headers": headers, "content": {"text/html": {}}}


def _about(model: ModelStatus, versions: list[Served]) -> str:
    """Describe a model and its served versions, in Markdown."""
    lines = [entry.description.about for entry in versions[:1] if entry.description.about]
    for entry in versions:
        version, description = entry.version, entry.description
        names = f"`{version.tag}`, `{Digest.parse(version.digest).short}`"
        licence = f", licence {description.license}" if description.license else ""
        lines.append(
            f"- version {names}: {version.role}, {version.weight} % of the calls, "
            f"{version.runtime} ({description.platform}){licence}"
        )
    if not versions:
        # Why is told on the admin port alone.
        lines.append(f"Takes no calls yet: {model.state}.")
    return "\n\n".join(lines)

"""What the operations of the OpenAPI document are made of: answers, bodies, errors, by reference. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.control.front.schemas import Schema

JSON = "application/json"
BINARY = "application/octet-stream"

FAULTS: Mapping[int, str] = {
    400: "The request is not as it must be; the error names what is wrong.",
    404: "There is no such model, version or path.",
    405: "The path does not take this method; `Allow` says which it takes.",
    408: "The request took too long to arrive.",
    413: "The body is too large, as it is or once decompressed.",
    415: "The body is of an unknown type, or compressed in an unknown way.",
    429: "The caller has too many calls at a time, or more than its key allows; ask again later.",
    500: "The model failed, or its worker did; the node's log says why, under the request's id.",
    501: "Models are loaded and unloaded by Kitserve's config.",
    502: "The worker's answer was not valid HTTP.",
    503: "The model is not ready, its queue full, or no worker up; `Retry-After` says how long to wait.",
    504: "No answer came within the time that the caller, or the edge, allows.",
    507: "The call needs more memory than the model's worker may take.",
}
"""What each status of an error means."""
OF_EDGE = (400, 408)
OF_GATEWAY = (400, 404, 405, 408, 413, 502, 503, 504)
OF_WORKER = (400, 404, 405, 408, 500, 502, 503, 504)
OF_CALL = (400, 404, 405, 408, 413, 415, 429, 500, 502, 503, 504, 507)
VERSION_HEADERS = ("ModelKit-Digest", "ModelKit-Version", "ModelKit-Role")


def operation(
    tag: str,
    summary: str,
    answer: Mapping[str, Any],
    faults: tuple[int, ...],
    others: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return an operation, with an answer to each status that it may have."""
    errors = {str(status): {"$ref": f"#/components/responses/{fault_name(status)}"} for status in faults}
    return {"tags": [tag], "summary": summary, "responses": {"200": answer, **errors, **(others or {})}}


def answer_of(description: str, schema: Schema, *headers: str) -> dict[str, Any]:
    """Return an answer in JSON, with these headers."""
    return {
        "description": description,
        "headers": header_refs("X-Request-Id", *headers),
        "content": {JSON: {"schema": schema}},
    }


def body_of(content: Mapping[str, Any], required: bool = True) -> dict[str, Any]:
    """Return the body of a request, by its type."""
    return {"requestBody": {"required": required, "content": dict(content)}}


def header_refs(*headers: str) -> dict[str, Any]:
    """Return references to headers."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in headers}


def parameter_ref(name: str) -> dict[str, str]:
    """Return a reference to a parameter."""
    return {"$ref": f"#/components/parameters/{name}"}


def fault_name(status: int) -> str:
    """Return the name of the answer with an error of this status."""
    return f"Error{status}"

"""What the documents of the data plane tell of calls as people write them: paths, bodies, a command. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.codec.predict.media import CONTENT_TYPES
from gateway.contract import Description
from gateway.control.front import examples
from gateway.control.front.operations import (
    JSON,
    OF_CALL,
    OF_WORKER,
    VERSION_HEADERS,
    answer_of,
    body_of,
    header_refs,
    operation,
    parameter_ref,
)
from gateway.control.front.schemas import Schema, ref

_SUMMARY = "Call the model with rows, CSV, an image or a file of NumPy"
_CSV = "text/csv"


def operation_of(tag: str, description: Description | None = None, url: str = "") -> dict[str, Any]:
    """Return the operation of a path `…/predict`, with an example where it is of one model."""
    documented = _operation(tag, _SUMMARY, ref("PredictResponse"))
    if description is None:
        return documented
    body = example(description)
    if body is not None:
        documented["requestBody"]["content"][JSON]["example"] = body
    shown = command(url, description)
    if shown:
        documented["x-codeSamples"] = [{"lang": "Shell", "label": "curl", "source": shown}]
    return documented


def aliases(tag: str) -> dict[str, Any]:
    """Return the paths that clients of other servers call."""
    calls: Mapping[str, tuple[str, tuple[str, ...]]] = {
        "/v1/models/{model}:predict": ("As KServe and TensorFlow Serving have it", ("model",)),
        "/v1/models/{model}/versions/{version}:predict": ("The same of one version", ("model", "version")),
        "/models/{model}/invocations": ("As MLflow and SageMaker have it", ("model",)),
        "/invocations": ("The same, where there is one model", ()),
    }
    paths: dict[str, Any] = {
        path: {
            "parameters": [parameter_ref(name) for name in names],
            "post": _operation(tag, f"Call the model: {summary}", ref("Predictions")),
        }
        for path, (summary, names) in calls.items()
    }
    for path, names in (("/models/{model}/ping", ("model",)), ("/ping", ())):
        ready = answer_of("The model can be called.", ref("ModelReady"), *VERSION_HEADERS)
        paths[path] = {
            "parameters": [parameter_ref(name) for name in names],
            "get": operation(tag, "Whether the model can be called, as SageMaker asks", ready, OF_WORKER),
        }
    return paths


def example(description: Description) -> dict[str, Any] | None:
    """Return the JSON of a call: the kit's own example, else made-up rows; None where there is neither."""
    own = examples.rows_of(description.example) if description.example else None
    return own or examples.predict(description.signature)


def command(url: str, description: Description) -> str:
    """Write the curl command that makes such a call, for a POSIX shell; "" where there is nothing to show."""
    body = example(description)
    if body is not None:
        text = orjson.dumps(body).decode()
        return f"curl {shlex.quote(url)} \\\n  -H 'Content-Type: {JSON}' \\\n  -d {shlex.quote(text)}"
    return ""


def image_command(url: str, description: Description) -> str:
    """Write the curl command that sends an image; "" where the model takes none."""
    if not description.takes_images:
        return ""
    return f"curl {shlex.quote(url)} \\\n  -H 'Content-Type: image/png' \\\n  --data-binary @image.png"


def _operation(tag: str, summary: str, schema: Schema) -> dict[str, Any]:
    answer = answer_of("The predictions, one for each row.", schema, *VERSION_HEADERS)
    answer["content"][_CSV] = {}
    answer["headers"] |= header_refs("Content-Encoding")
    others: dict[str, Any] = {name: {} for names in CONTENT_TYPES.values() for name in names}
    body = body_of({**others, JSON: {"schema": ref("PredictRequest")}})
    parameters = [parameter_ref(name) for name in ("X-Request-Timeout", "Content-Encoding")]
    return {**operation(tag, summary, answer, OF_CALL), "parameters": parameters, **body}

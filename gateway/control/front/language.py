"""What the documents of the data plane tell of language models: a call of the OpenAI API for each. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson

from gateway.control.front.schemas import ref
from runtimes.engines.task import Task

_QUESTION = "What is a ModelKit?"
_CALLS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    Task.CHAT: ("chat/completions", {"messages": [{"role": "user", "content": _QUESTION}]}),
    Task.COMPLETION: ("completions", {"prompt": "A ModelKit is", "max_tokens": 32}),
    Task.EMBEDDING: ("embeddings", {"input": [_QUESTION]}),
    Task.RERANK: ("rerank", {"query": _QUESTION, "documents": ["An OCI artifact.", "A toy."]}),
}
"""The path behind `/v1/`, and the body of a call, by task; the first that a model can do is shown."""


def call(model: str, tasks: tuple[str, ...]) -> tuple[str, dict[str, Any]] | None:
    """Return the path and the body of a call on a model; None where it is no language model."""
    for task, (path, body) in _CALLS.items():
        if task in tasks:
            return f"/v1/{path}", {"model": model, **body}
    return None


def command(base: str, model: str, tasks: tuple[str, ...]) -> str:
    """Write the curl command that makes that call at `base`, for a POSIX shell; "" where there is none."""
    example = call(model, tasks)
    if example is None:
        return ""
    path, body = example
    content = shlex.quote(orjson.dumps(body).decode())
    return f"curl {shlex.quote(base + path)} \\\n  -H 'Content-Type: application/json' \\\n  -d {content}"


def operation(base: str, model: str, tasks: tuple[str, ...], tag: str) -> tuple[str, dict[str, Any]] | None:
    """Return the path of one model's own calls, and its operation (OpenAPI); None where there is none."""
    example = call(model, tasks)
    if example is None:
        return None
    path, body = example
    error = {"description": "An error.", "content": {"application/json": {"schema": ref("OpenAIError")}}}
    answer = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}}
    content = {"application/json": {"schema": {"type": "object"}, "example": body}}
    return f"/models/{quote(model)}{path}", {
        "tags": [tag],
        "summary": "Call the model by the OpenAI API",
        "externalDocs": {"url": "https://platform.openai.com/docs/api-reference"},
        "requestBody": {"required": True, "content": content},
        "responses": {"200": {"description": "The answer.", "content": answer}, "default": error},
        "x-codeSamples": [{"lang": "Shell", "label": "curl", "source": command(base, model, tasks)}],
    }

"""Calls of `/v1/rerank` become tensors, and scores become their answers.

OpenAI has no such path; the form is the one of Jina and Cohere, which vLLM and llama.cpp have, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from gateway.codec.call import Call
from gateway.codec.openai.errors import RefusedCall
from gateway.codec.openai.text_members import (
    bounded,
    count_of,
    read_members,
    required,
    rows_of_text,
    text_of,
)
from runtimes.base import Array
from runtimes.text_model import QUERY, SCORE, TEXT, TOKENS

_MEMBERS = ("model", "query", "documents", "top_n", "return_documents", "user")


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """A call, and how its answer is written."""

    call: Call
    documents: Sequence[bytes]
    top: int
    """How many documents are answered, the best first."""
    has_documents: bool
    """Whether the answer has their texts."""


def read_rerank(body: Sequence[bytes | memoryview]) -> RerankRequest:
    """Read a call. Raises RefusedCall."""
    members = read_members(body, _MEMBERS)
    query = text_of(required(members, "query"), "query")
    values = required(members, "documents")
    if not isinstance(values, list):
        raise RefusedCall("documents must be a list", "documents")
    documents = [_document(value, f"documents[{i}]") for i, value in enumerate(bounded(values, "documents"))]
    has_documents = members.get("return_documents", False)
    if not isinstance(has_documents, bool):
        raise RefusedCall("return_documents must be true or false", "return_documents")
    top = count_of(members["top_n"], "top_n") if "top_n" in members else len(documents)
    inputs = {QUERY: rows_of_text([query] * len(documents)), TEXT: rows_of_text(documents)}
    return RerankRequest(Call("", inputs), documents, top, has_documents)


def write_rerank(request: RerankRequest, outputs: Mapping[str, Array], model: str) -> bytes:
    """Write an answer; `model` is the model's name."""
    scores = outputs[SCORE]
    tokens = int(outputs[TOKENS].sum())
    order = np.argsort(-scores, kind="stable")[: request.top].tolist()
    results: list[dict[str, Any]] = [
        {"index": index, "relevance_score": float(scores[index])} for index in order
    ]
    if request.has_documents:
        for result in results:
            result["document"] = {"text": request.documents[result["index"]].decode()}
    return orjson.dumps(
        {
            "object": "list",
            "model": model,
            "results": results,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def _document(value: Any, name: str) -> bytes:
    return text_of(value.get("text") if isinstance(value, dict) else value, name)

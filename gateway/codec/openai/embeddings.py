"""Calls of `/v1/embeddings` become tensors, and embeddings become their answers.

Reference: https://platform.openai.com/docs/api-reference/embeddings. `prompt_name` is of no other API but
sentence-transformers': it names what stands before each text.
"""

from __future__ import annotations

import base64
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
from gateway.wording import counted
from runtimes.base import Array
from runtimes.errors import InputError
from runtimes.text_model import EMBEDDING, PROMPT_NAME, TEXT, TOKENS, TextModel

_MEMBERS = ("model", "input", "encoding_format", "dimensions", "user", PROMPT_NAME)
_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """A call, and how its answer is written."""

    call: Call
    is_base64: bool
    dimensions: int
    """How many numbers each embedding is to have."""


def read_embeddings(body: Sequence[bytes | memoryview], model: TextModel) -> EmbeddingsRequest:
    """Read a call. Raises RefusedCall."""
    members = read_members(body, _MEMBERS)
    texts = _texts(required(members, "input"), model)
    inputs = {TEXT: rows_of_text(texts)}
    if PROMPT_NAME in members:
        if PROMPT_NAME not in {spec.name for spec in model.signature.optional}:
            raise RefusedCall("the model has no prompts, so prompt_name names none", PROMPT_NAME)
        inputs[PROMPT_NAME] = rows_of_text([text_of(members[PROMPT_NAME], PROMPT_NAME)] * len(texts))
    form = members.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise RefusedCall("encoding_format must be float or base64", "encoding_format")
    return EmbeddingsRequest(Call("", inputs), form == "base64", _dimensions(members, model))


def write_embeddings(request: EmbeddingsRequest, outputs: Mapping[str, Array], model: str) -> bytes:
    """Write an answer; `model` is the model's name."""
    rows = outputs[EMBEDDING]
    if request.dimensions < rows.shape[1]:
        rows = rows[:, : request.dimensions]
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _SMALLEST)
    rows = np.ascontiguousarray(rows, "<f4")
    tokens = int(outputs[TOKENS].sum())
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": base64.b64encode(row).decode() if request.is_base64 else row,
                }
                for index, row in enumerate(rows)
            ],
            "model": model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def _texts(value: Any, model: TextModel) -> list[bytes]:
    """Return the texts of `input`: a string, strings, tokens, or lists of tokens."""
    if isinstance(value, str):
        return [text_of(value, "input")]
    if not isinstance(value, list):
        raise RefusedCall("input must be a string, tokens, or a list of these", "input")
    if value and isinstance(value[0], int):
        return [_detokenized(value, "input", model)]
    return [
        text_of(item, f"input[{index}]")
        if not isinstance(item, list)
        else _detokenized(item, f"input[{index}]", model)
        for index, item in enumerate(bounded(value, "input"))
    ]


def _detokenized(tokens: list[Any], name: str, model: TextModel) -> bytes:
    if not tokens or not all(isinstance(token, int) and not isinstance(token, bool) for token in tokens):
        raise RefusedCall(f"{name} must be a string, or tokens, which are whole numbers", "input")
    try:
        return text_of(model.text_of(tokens), name)
    except RefusedCall:
        raise
    except InputError as error:
        raise RefusedCall(f"{name}: {error}", "input") from error


def _dimensions(members: Mapping[str, Any], model: TextModel) -> int:
    if "dimensions" not in members:
        return model.dimensions
    dimensions = count_of(members["dimensions"], "dimensions")
    if dimensions != model.dimensions and not model.may_shorten(dimensions):
        raise RefusedCall(
            f"the model's embeddings have {counted(model.dimensions, 'dimension')}, and it does not say that "
            f"{dimensions} of them would do (is_matryoshka or matryoshka_dimensions in its config.json)",
            "dimensions",
        )
    return dimensions

"""The memory that a model of Hugging Face's takes, from the headers of its files and its config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from runtimes.engines.base import EngineOptions, Memory
from runtimes.hugging_face.directory import HuggingFaceModel
from runtimes.hugging_face.options import PAGE, context, text_config
from runtimes.safetensors_file import FLOATS, loaded_bytes, tensors

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


def dtype(model: HuggingFaceModel, *, has_bf16: bool) -> str:
    """Return the name of the datatype to compute in: BF16 for weights of 16 bits, where that is fast.

    A CPU with instructions for BF16 was as fast in it as in FP32 (SmolLM2-135M: 14 tokens a second for one
    call, 50 for eight), in half of the memory; one without them has to convert each number. Raises LoadError.
    """
    counts: dict[str, int] = {}
    for path in model.weights:
        for kind, count in tensors(path).values():
            counts[kind] = counts.get(kind, 0) + count
    usual = max((kind for kind in counts if kind in FLOATS), key=counts.__getitem__, default="F32")
    return "bfloat16" if has_bf16 and FLOATS[usual] == 2 else "float32"


def weight_bytes(model: HuggingFaceModel, datatype: str) -> int:
    """Return the bytes of the weights in memory, in a floating-point `datatype`. Raises LoadError."""
    return sum(loaded_bytes(path, _BYTES[datatype]) for path in model.weights)


def memory(model: HuggingFaceModel, options: EngineOptions, datatype: str, other: int) -> Memory:
    """Return what a language model takes in `datatype`, in a process that takes `other` bytes besides.

    Raises LoadError.
    """
    size = _BYTES[datatype]
    weights = weight_bytes(model, datatype)
    tokens = options.slots * math.ceil(context(model, options) / PAGE) * PAGE
    # transformers masks the attention between the tokens of a batch and the whole cache.
    mask = options.batch * (tokens + options.batch) * size
    return Memory(weights, tokens * cache_bytes_per_token(model.config, size), other + mask)


def cache_bytes_per_token(config: Mapping[str, Any], size: int) -> int:
    """Return how many bytes of the key-value cache a token takes; `size` is that of one number."""
    text = text_config(config)

    def number(*names: str) -> int:
        return next((text[name] for name in names if isinstance(text.get(name), int)), 0)

    heads = number("num_attention_heads", "n_head")
    width = number("head_dim") or number("hidden_size", "n_embd") // max(1, heads)
    layers = number("num_hidden_layers", "n_layer")
    return 2 * layers * (number("num_key_value_heads") or heads) * width * size

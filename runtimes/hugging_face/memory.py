"""The memory that a language model of Hugging Face's takes, from the headers of its files and its config."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtimes.engines.base import EngineOptions, Memory
from runtimes.errors import LoadError
from runtimes.hugging_face.directory import HuggingFaceModel
from runtimes.hugging_face.options import context, text_config

# Bytes of an element, by the names in a header (https://github.com/huggingface/safetensors#format)
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_OTHERS = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}

_MAX_HEADER = 100_000_000


def dtype(model: HuggingFaceModel, *, has_bf16: bool) -> str:
    """Return the name of the datatype to compute in: BF16 for weights of 16 bits, where that is fast.

    A CPU with instructions for BF16 was as fast in it as in FP32 (SmolLM2-135M: 14 tokens a second for one
    call, 50 for eight), in half of the memory; one without them has to convert each number. Raises LoadError.
    """
    counts: dict[str, int] = {}
    for path in model.weights:
        for kind, count in tensors(path).values():
            counts[kind] = counts.get(kind, 0) + count
    usual = max((kind for kind in counts if kind in _FLOATS), key=counts.__getitem__, default="F32")
    return "bfloat16" if has_bf16 and _FLOATS[usual] == 2 else "float32"


def memory(model: HuggingFaceModel, options: EngineOptions, datatype: str, other: int) -> Memory:
    """Return what the model takes when it computes in `datatype`, in a process that takes `other` besides.

    Raises LoadError.
    """
    size = _BYTES[datatype]
    weights = sum(_weight_bytes(path, size) for path in model.weights)
    tokens = options.slots * math.ceil(context(model, options) / 64) * 64
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


def tensors(path: Path) -> dict[str, tuple[str, int]]:
    """Return the datatype and the number of elements of each tensor, from a header. Raises LoadError."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _MAX_HEADER)))
        return {
            name: (str(tensor["dtype"]), math.prod(tensor["shape"]))
            for name, tensor in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(
            f"{path} has no header of safetensors that can be read ({type(error).__name__}); "
            "copy it and pack the kit again"
        ) from error


def _weight_bytes(path: Path, size: int) -> int:
    """Return the bytes of a file's tensors once they are loaded; the floating-point ones are converted."""
    return sum(
        count * (size if kind in _FLOATS else _OTHERS.get(kind, 1)) for kind, count in tensors(path).values()
    )

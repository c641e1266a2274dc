"""What a language model will take of the memory, and how long its context is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtimes.engines.base import EngineOptions
from runtimes.errors import LoadError
from runtimes.hugging_face.directory import HuggingFaceModel, read_directory
from runtimes.hugging_face.memory import cache_bytes_per_token, dtype, memory
from runtimes.hugging_face.options import context

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
}
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1}


def write(
    directory: Path, *tensors: tuple[str, int], config: dict[str, Any] | None = None
) -> HuggingFaceModel:
    """Write a directory whose weights are zeros, each tensor of a datatype and a number of elements."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config or CONFIG))
    header, end = {}, 0
    for number, (kind, count) in enumerate(tensors):
        start, end = end, end + count * SIZES[kind]
        header[f"t{number}"] = {"dtype": kind, "shape": [count], "data_offsets": [start, end]}
    data = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    (directory / "model.safetensors").write_bytes(len(data).to_bytes(8, "little") + data + bytes(end))
    return read_directory(directory)


def test_weights_take_what_they_take_once_they_are_converted(tmp_path: Path) -> None:
    model = write(tmp_path, ("BF16", 1_000), ("F32", 10), ("I64", 5))
    options = EngineOptions(context=64, slots=1, batch=64)
    assert memory(model, options, "bfloat16", 0).weights == 1_010 * 2 + 5 * 8
    assert memory(model, options, "float32", 0).weights == 1_010 * 4 + 5 * 8


def test_the_cache_is_that_of_all_slots(tmp_path: Path) -> None:
    model = write(tmp_path, ("BF16", 10))
    per_token = 2 * 2 * 2 * 16 * 2  # keys and values, layers, heads, width, bytes
    cache = memory(model, EngineOptions(context=1_000, slots=3), "bfloat16", 0).cache
    assert cache == 3 * 1_024 * per_token
    assert memory(model, EngineOptions(context=1_000, slots=3), "float32", 0).cache == 2 * cache


def test_the_process_and_the_mask_of_its_attention_count(tmp_path: Path) -> None:
    model = write(tmp_path, ("BF16", 10))
    options = EngineOptions(context=1_024, slots=4, batch=512)
    assert memory(model, options, "bfloat16", 1_000_000).other == 1_000_000 + 512 * (4_096 + 512) * 2


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"num_hidden_layers": 3, "num_attention_heads": 8, "hidden_size": 256}, 2 * 3 * 8 * 32),
        (
            {"num_hidden_layers": 3, "num_key_value_heads": 2, "head_dim": 128, "num_attention_heads": 8},
            2 * 3 * 2 * 128,
        ),
        ({"n_layer": 12, "n_head": 12, "n_embd": 768}, 2 * 12 * 12 * 64),
        ({"text_config": {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8}}, 2 * 2 * 4),
    ],
)
def test_the_cache_of_a_token_by_the_config(config: dict[str, Any], size: int) -> None:
    assert cache_bytes_per_token(config, 2) == size * 2


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ((("BF16", 100), ("F32", 2)), "bfloat16"),
        ((("F16", 100),), "bfloat16"),
        ((("F32", 100), ("BF16", 2)), "float32"),
        ((("U8", 100),), "float32"),
    ],
)
def test_the_datatype_is_that_of_most_weights(
    tmp_path: Path, tensors: tuple[tuple[str, int], ...], expected: str
) -> None:
    model = write(tmp_path, *tensors)
    assert dtype(model, has_bf16=True) == expected
    assert dtype(model, has_bf16=False) == "float32"


def test_the_context_is_the_models_own_within_bounds(tmp_path: Path) -> None:
    model = write(tmp_path, ("BF16", 10))
    assert context(model, EngineOptions()) == 4_096
    assert context(model, EngineOptions(context=8_192)) == 8_192
    with pytest.raises(LoadError, match="was trained for 8192 tokens"):
        context(model, EngineOptions(context=8_193))
    small = write(tmp_path, ("BF16", 10), config={**CONFIG, "max_position_embeddings": 512})
    assert context(small, EngineOptions()) == 512
    silent = {name: value for name, value in CONFIG.items() if name != "max_position_embeddings"}
    assert context(write(tmp_path, ("BF16", 10), config=silent), EngineOptions(context=9_999)) == 9_999


def test_a_header_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    model = write(tmp_path, ("BF16", 10))
    header = b'{"t": {"dtype": "BF16", "shape": "ten"}}'
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(LoadError, match="no header of safetensors"):
        memory(model, EngineOptions(), "bfloat16", 0)

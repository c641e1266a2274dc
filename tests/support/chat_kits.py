"""Kits of real language models, as kit packs them with Kitfiles like public ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.artifacts import LayoutBuilder
from tests.support.gguf_files import monotonous_llama, tiny_llama
from tests.support.kitops import pack_kit
from tests.support.models import minilm, smollm2


def chat_layout(directory: Path) -> Path:
    """Write `chat/smollm2:v1`, `:v2` with another system prompt, and `:cut` without the file's end."""
    builder = LayoutBuilder(directory)
    file = smollm2()
    data = file.read_bytes()
    for tag, prompt in (("v1", "Answer in one short sentence."), ("v2", "You are a pirate. Answer shortly.")):
        pack_kit(
            builder, f"chat/smollm2:{tag}", ("model", file.name, {file.name: data}), model=_model(prompt)
        )
    cut = {file.name: data[: len(data) // 2]}
    pack_kit(builder, "chat/smollm2:cut", ("model", file.name, cut), model=_model(""))
    return directory


def tiny_chat_layout(directory: Path) -> Path:
    """Write `chat/tiny:v1`, `:v2` with another system prompt, `:silent`, and `:stuck` that says `6` for ever.

    The model is random, and answers at once. Each has a golden dataset, which all but the last two pass.
    """
    builder = LayoutBuilder(directory)
    good = tiny_llama(directory / "good.gguf", seed=1).read_bytes()
    silent = monotonous_llama(directory / "silent.gguf", 2).read_bytes()
    stuck = monotonous_llama(directory / "stuck.gguf", 3 + ord("6")).read_bytes()
    rows = b'{"prompt": "Say something.", "regex": "[^6\\\\s]", "max_tokens": 8}\n'
    for tag, data, prompt in (
        ("v1", good, "Be brief."),
        ("v2", good, "You are a pirate."),
        ("silent", silent, "Be brief."),
        ("stuck", stuck, "Be brief."),
    ):
        pack_kit(
            builder,
            f"chat/tiny:{tag}",
            ("model", "tiny.gguf", {"tiny.gguf": data}),
            ("dataset", "golden.jsonl", {"golden.jsonl": rows}),
            model={"name": "tiny", "parameters": {"context_length": 256, "system_prompt": prompt}},
        )
    return directory


def embedding_layout(directory: Path) -> Path:
    """Write `embed/minilm:v1` as `kit import` does: the weights are the model, all else is parts."""
    builder = LayoutBuilder(directory)
    root = minilm()
    names = sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.suffix in (".json", ".txt")
    )
    parts = [("part", name, {name: (root / name).read_bytes()}) for name in names]
    weights = "model.safetensors"
    pack_kit(builder, "embed/minilm:v1", ("model", weights, {weights: (root / weights).read_bytes()}), *parts)
    return directory


def _model(prompt: str) -> Mapping[str, Any]:
    return {
        "name": "SmolLM2-135M-Instruct",
        "framework": "llama.cpp",
        "license": "Apache-2.0",
        "parameters": {"context_length": 1024, "temperature": 0, "system_prompt": prompt},
    }

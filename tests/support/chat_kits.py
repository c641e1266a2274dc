"""Kits of real language models, as kit packs them with Kitfiles like public ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.artifacts import LayoutBuilder
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

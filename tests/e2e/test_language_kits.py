"""What only kits have, served from a registry: variants of an index, and adapters on one base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import requests

from tests.support.artifacts import MODELKIT, LayoutBuilder, sha256, tar
from tests.support.dialects import modelkit, modelkit_index
from tests.support.gguf_files import tiny_adapter, tiny_llama
from tests.support.kitserve import Running
from tests.support.registry import Registry


def child(builder: LayoutBuilder, name: str, parent: str, adapter: bytes) -> None:
    """Pack a kit that has an adapter for the model of its parent."""
    blob = tar(("adapter.gguf", adapter))
    layer = builder.blob(f"{MODELKIT}.modelpart.v1.tar", blob)
    part = {"path": "adapter.gguf", "type": "lora", "digest": layer["digest"], "diffId": sha256(blob)}
    kitfile = {"manifestVersion": "1.0.0", "package": {}, "model": {"path": parent, "parts": [part]}}
    config = builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
    builder.artifact(name, {"schemaVersion": 2, "config": config, "layers": [layer]})


def likely(kitserve: Running, model: str) -> Any:
    """Return the likeliest first tokens of an answer, with their log probabilities."""
    body = {"model": model, "prompt": "the cat", "max_tokens": 1, "temperature": 0, "logprobs": 3}
    answer = requests.post(f"{kitserve.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["logprobs"]["top_logprobs"]


def test_variants_of_an_index_and_adapters_on_one_base(
    kitserve: Running, registry: Registry, tmp_path: Path
) -> None:
    base = tiny_llama(tmp_path / "base.gguf").read_bytes()
    builder = LayoutBuilder(tmp_path / "layout")
    small = modelkit(builder, "tiny/base:v1", {"base.gguf": base})
    large = modelkit(builder, "tiny/base:large", {"large.gguf": base})
    labels = {
        "tiny/base:v1": {"quantization": "q4_0", "vram": "200MB"},
        "tiny/base:large": {"quantization": "q8_0", "vram": "90000GB"},
    }
    modelkit_index(builder, "tiny/base:all", labels)
    for name, options in (
        ("legal", {"seed": 1, "scale": 30.0}),
        ("medical", {"seed": 2, "scale": 30.0}),
        ("foreign", {"architecture": "gemma3"}),
    ):
        adapter = tiny_adapter(tmp_path / f"{name}.gguf", **options).read_bytes()
        child(builder, f"tiny/{name}:v1", f"{registry.host}/tiny/base:v1", adapter)
    registry.push_layout(builder.directory)
    kitserve.models = {
        name: {"kit": f"{registry.host}/tiny/{name}:v1"} for name in ("legal", "medical", "foreign")
    }
    kitserve.models["fitting"] = {"kit": f"{registry.host}/tiny/base:all", "variant": "auto"}
    kitserve.models["large"] = {
        "kit": f"{registry.host}/tiny/base:all",
        "variant": {"quantization": "q8_0"},
    }
    assert kitserve.apply(check=False).returncode == 1
    fitting, chosen = kitserve.model("fitting"), kitserve.model("large")
    assert (fitting["versions"][0]["digest"], chosen["versions"][0]["digest"]) == (small, large)
    assert "quantization=q4_0, vram=200MB: it is the largest that fits of 2" in fitting["message"]
    assert "the adapter adapter.gguf is one for gemma3" in kitserve.model("foreign")["message"]
    answers = [likely(kitserve, name) for name in ("fitting", "large", "legal", "medical")]
    assert answers[0] == answers[1]
    assert all(answers[0] != answer for answer in answers[2:])
    assert answers[2] != answers[3]
    weights = sha256(tar(("base.gguf", base)))
    assert registry.served(f"GET /v2/tiny/base/blobs/{weights}") == 1

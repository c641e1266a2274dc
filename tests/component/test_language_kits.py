"""Kits of language models, loaded by llama.cpp as their Kitfiles say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import UnusableModel
from gateway.kits.examination import Examined, examine
from gateway.kits.library import Library
from gateway.kits.model import load
from gateway.kits.policy import ANYTHING
from gateway.metrics.machine import is_mapped, machine_memory
from gateway.metrics.memory import family_resident_bytes
from gateway.oci.reference import parse_reference
from gateway.serving import Engine, Serving
from gateway.worker.admission import Admission
from runtimes.base import Resources
from runtimes.engines import sockets
from runtimes.engines.base import OpenAIModel
from runtimes.engines.task import Task
from tests.support.artifacts import MODELKIT, LayoutBuilder, tar
from tests.support.gguf_files import tiny_adapter, tiny_llama
from tests.support.models import smollm2

MIB = 1024**2
Files = Mapping[str, bytes]


class Packer:
    """Packs kits of a model and its parts, and examines them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.builder = LayoutBuilder(directory / "layout")
        self.library = Library(directory / "cache")

    def kit(self, name: str, path: str, parts: Files, **model: object) -> str:
        """Pack a kit; `path` is the model's, which `parts` has, or its parent's reference."""
        layers: list[dict[str, Any]] = []
        kitfile: dict[str, Any] = {"package": {}, "model": {"path": path, "parts": [], **model}}
        for part, data in parts.items():
            base = "model" if part == path else "modelpart"
            layers.append(self.builder.blob(f"{MODELKIT}.{base}.v1.tar", tar((part, data))))
            digests = {"digest": layers[-1]["digest"], "diffId": layers[-1]["digest"]}
            if part == path:
                kitfile["model"] |= digests
            else:
                kitfile["model"]["parts"].append({"path": part, **digests})
        config = self.builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
        self.builder.artifact(f"{name}:v1", {"schemaVersion": 2, "config": config, "layers": layers})
        return name

    def examined(self, name: str, engine: Engine | None = None) -> Examined:
        kit = self.library.describe(parse_reference(f"oci-layout:{self.builder.directory}:{name}:v1"))
        serving = Serving() if engine is None else Serving(engine=engine)
        return examine(self.library, kit, ANYTHING, serving=serving)


@pytest.fixture
def packer(tmp_path: Path) -> Packer:
    return Packer(tmp_path)


@contextmanager
def loaded(examined: Examined) -> Iterator[OpenAIModel]:
    model = load(examined.unpacked, examined.choice, Resources(), examined.language.options)
    try:
        assert isinstance(model, OpenAIModel)
        yield model
    finally:
        model.close()


def asked(model: OpenAIModel, path: str, **body: object) -> Any:
    connection = sockets.UnixConnection(model.socket, 60.0)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == 200, answer
        return answer
    finally:
        connection.close()


def likely(model: OpenAIModel) -> list[float]:
    """Return the likeliest tokens' log probabilities after a prompt."""
    answer = asked(model, "/v1/completions", prompt="the cat", max_tokens=1, temperature=0, logprobs=5)
    (token,) = answer["choices"][0]["logprobs"]["content"]
    return [round(other["logprob"], 4) for other in token["top_logprobs"]]


def test_a_small_model_is_loaded_as_its_kitfile_says_within_the_memory_that_was_told(packer: Packer) -> None:
    parameters = {"context_length": 1024, "n_parallel": 2, "temperature": 0, "system": "Answer in one word."}
    parts = {"SmolLM2.gguf": smollm2().read_bytes()}
    examined = packer.examined(packer.kit("chat", "SmolLM2.gguf", parts, parameters=parameters))
    need, language = examined.need, examined.language
    assert need is not None
    assert (need.slots, need.context, need.tasks) == (2, 1024, (Task.CHAT, Task.COMPLETION))
    assert need.memory.weights == pytest.approx(92 * MIB, rel=0.02)
    assert need.memory.cache == 2 * 1024 * 30 * 3 * 128 * 2
    admission = Admission(packer.directory / "memory")
    before = family_resident_bytes()
    with admission.admitted(examined.unpacked, examined.choice, language, Resources()):
        model = load(examined.unpacked, examined.choice, Resources(), language.options)
    try:
        assert isinstance(model, OpenAIModel)
        assert (model.slots, model.context) == (2, 1024)
        assert is_mapped(examined.choice.path)
        messages = [
            {"role": "system", "content": language.generation.system_prompt},
            {"role": "user", "content": "What is the capital of France?"},
        ]
        sampling = dict(language.generation.sampling)
        answer = asked(model, "/v1/chat/completions", messages=messages, max_tokens=12, **sampling)
        assert "Paris" in answer["choices"][0]["message"]["content"]
        taken = family_resident_bytes() - before
        assert 0.5 * need.memory.total < taken < 1.1 * need.memory.total
    finally:
        model.close()
    assert not is_mapped(examined.choice.path)


def test_an_adapter_is_applied_to_its_parents_model_and_changes_what_it_says(
    packer: Packer, tmp_path: Path
) -> None:
    base = tiny_llama(tmp_path / "base.gguf").read_bytes()
    adapter = tiny_adapter(tmp_path / "legal.gguf", scale=30).read_bytes()
    packer.kit("base", "base.gguf", {"base.gguf": base})
    # Its header says what it is; no type is needed.
    packer.kit("child", "registry.test/base:v1", {"legal.gguf": adapter})
    examined = packer.examined("child")
    assert [path.path.name for path in examined.language.options.adapters] == ["legal.gguf"]
    with loaded(examined) as child:
        changed = likely(child)
    with loaded(packer.examined("base")) as model:
        assert likely(model) != changed


def test_an_adapter_for_another_architecture_is_refused_before_anything_is_loaded(
    packer: Packer, tmp_path: Path
) -> None:
    base = tiny_llama(tmp_path / "base.gguf").read_bytes()
    adapter = tiny_adapter(tmp_path / "legal.gguf", architecture="gemma3").read_bytes()
    packer.kit("base", "base.gguf", {"base.gguf": base})
    packer.kit("child", "registry.test/base:v1", {"legal.gguf": adapter})
    with pytest.raises(UnusableModel) as caught:
        packer.examined("child")
    text = str(caught.value)
    assert "child:v1@sha256:" in text
    assert "the adapter legal.gguf is one for gemma3, and base.gguf is llama" in text


def test_a_model_beside_its_draft_model_and_adapter_is_found(packer: Packer, tmp_path: Path) -> None:
    parts = {
        "models/base.gguf": tiny_llama(tmp_path / "base.gguf").read_bytes(),
        "models/legal.gguf": tiny_adapter(tmp_path / "legal.gguf").read_bytes(),
    }
    examined = packer.examined(packer.kit("both", "models/base.gguf", parts), Engine(context=256, slots=1))
    assert examined.choice.path.name == "base.gguf"
    assert examined.need is not None
    assert examined.need.memory.total < machine_memory().free
    with loaded(examined) as model:
        assert (model.slots, model.context) == (1, 256)

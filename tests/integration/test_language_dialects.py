"""Language models of every tool in a real registry: pulled, loaded by llama.cpp, and asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.kits.examination import Examined, examine
from gateway.kits.library import Library
from gateway.kits.model import load
from gateway.kits.policy import ANYTHING
from gateway.oci.options import RegistryOptions, SourceOptions
from gateway.oci.reference import parse_reference
from gateway.serving import Serving
from runtimes.base import Resources
from runtimes.engines import sockets
from runtimes.engines.base import OpenAIModel
from tests.support.artifacts import LayoutBuilder
from tests.support.dialects import TITLE, docker_model, modelkit, modelpack, ollama_model
from tests.support.gguf_files import split, tiny_llama
from tests.support.registry import Registry, run_registry

TEMPLATE = b"{% for message in messages %}[{{ message.role }}] {{ message.content }}{% endfor %}"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    directory = tmp_path_factory.mktemp("dialects")
    weights = tiny_llama(directory / "m.gguf").read_bytes()
    builder = LayoutBuilder(directory / "layout")
    modelkit(builder, "llm:kit", {"m.gguf": weights, "chat_template.jinja": TEMPLATE})
    modelkit(builder, "llm:split", {path.name: path.read_bytes() for path in split(directory, "m")})
    pack = [("weight.v1.raw", "m.gguf", weights), ("weight.config.v1.raw", "chat_template.jinja", TEMPLATE)]
    modelpack(builder, "llm:modctl", pack)
    modelpack(builder, "llm:oras", [("weight.v1.gguf", "m.gguf", weights)], key=TITLE)
    docker = [("gguf.v3", None, weights), ("chat.template.jinja", None, TEMPLATE), ("license", None, b"MIT")]
    docker_model(builder, "llm:docker", docker, context_size=256)
    docker_model(builder, "llm:docker2", docker, version="v0.2")
    ollama = [("model", weights), ("system", b"Be brief."), ("params", b'{"stop": ["z"], "num_ctx": 256}')]
    ollama_model(builder, "llm:ollama", [*ollama, ("template", b"{{ .Prompt }}")])
    with run_registry(directory / "registry") as registry:
        registry.push_layout(builder.directory)
        yield registry


def answer(model: OpenAIModel, path: str, **body: object) -> Any:
    connection = sockets.UnixConnection(model.socket, 60.0)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        document = json.loads(response.read())
        assert response.status == 200, document
        return document
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("tag", "context", "has_template", "stop", "system_prompt"),
    [
        ("kit", 512, True, (), None),
        ("split", 512, False, (), None),
        ("modctl", 512, True, (), None),
        ("oras", 512, False, (), None),
        ("docker", 256, True, (), None),
        ("docker2", 512, True, (), None),
        ("ollama", 256, False, ("z",), "Be brief."),
    ],
)
def test_a_model_is_loaded_as_it_says_and_answers(
    registry: Registry,
    tmp_path: Path,
    tag: str,
    context: int,
    has_template: bool,
    stop: tuple[str, ...],
    system_prompt: str | None,
) -> None:
    library = Library(tmp_path, SourceOptions({registry.host: RegistryOptions(plain_http=True)}))
    kit = library.describe(parse_reference(f"{registry.host}/llm:{tag}"))
    examined: Examined = examine(library, kit, ANYTHING, serving=Serving())
    generation = examined.language.generation
    assert (generation.stop, generation.system_prompt) == (stop, system_prompt)
    model = load(examined.unpacked, examined.choice, Resources(), examined.language.options)
    try:
        assert isinstance(model, OpenAIModel)
        assert model.context == context
        prompt = answer(model, "/apply-template", messages=[{"role": "user", "content": "hi"}])["prompt"]
        assert (prompt == "[user] hi") is has_template
        said = answer(model, "/v1/completions", prompt="the cat", max_tokens=3, temperature=0)
        assert said["usage"]["completion_tokens"] == 3
    finally:
        model.close()
        examined.unpacked.lease.release()

"""Models of every tool in a real registry: what they are said to be, and what is pulled of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.kit_document import kit_document
from gateway.kits.library import Library
from gateway.kits.policy import ANYTHING
from gateway.oci.options import RegistryOptions, SourceOptions
from gateway.oci.reference import parse_reference
from tests.support.artifacts import LayoutBuilder
from tests.support.dialects import (
    docker_model,
    gguf,
    modelkit,
    modelkit_index,
    modelpack,
    ollama_model,
)
from tests.support.registry import Registry, run_registry

SIZE = 2_000_000
WEIGHTS = gguf("weights", SIZE)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    directory = tmp_path_factory.mktemp("dialects")
    builder = LayoutBuilder(directory / "layout")
    prompt = {"chat_template.jinja": b"{{ messages }}"}
    parameters = {"temperature": 0.2, "system_prompt": "Be brief."}
    modelkit(builder, "llm:kit", {"m.gguf": WEIGHTS, **prompt}, {"parameters": parameters})
    modelkit(builder, "llm:small", {"m.gguf": gguf("small", SIZE // 2)})
    modelkit_index(
        builder,
        "llm:all",
        {"llm:kit": {"quantization": "q8_0", "vram": "2MB"}, "llm:small": {"quantization": "q4_0"}},
    )
    pack = [("weight.v1.gguf", "m.gguf", WEIGHTS), ("weight.config.v1.raw", "t.jinja", b"{{ }}")]
    modelpack(builder, "llm:modelpack", pack)
    docker = [("gguf.v3", "m.gguf", WEIGHTS), ("chat.template.jinja", "t.jinja", b"{{ }}")]
    docker_model(builder, "llm:docker", docker, context_size=4096)
    docker_model(builder, "llm:docker2", docker, version="v0.2")
    ollama_model(builder, "llm:ollama", [("model", WEIGHTS), ("system", b"Be brief.")])
    with run_registry(directory / "registry") as registry:
        registry.push_layout(builder.directory)
        yield registry


@pytest.mark.parametrize(
    ("tag", "format_", "model", "hints"),
    [
        (
            "kit",
            "ModelKit",
            "m.gguf",
            {
                "parameters": {"temperature": 0.2, "system_prompt": "Be brief."},
                "system_prompt": "Be brief.",
                "chat_template": "chat_template.jinja",
            },
        ),
        ("modelpack", "ModelPack", "m.gguf", {"chat_template": "t.jinja"}),
        (
            "docker",
            "Docker model",
            "m.gguf",
            {"parameters": {"context_length": 4096}, "chat_template": "t.jinja"},
        ),
        ("docker2", "Docker model", "m.gguf", {"chat_template": "t.jinja"}),
        (
            "ollama",
            "Ollama model",
            "model.gguf",
            {"parameters": {"system_prompt": "Be brief."}, "system_prompt": "Be brief."},
        ),
    ],
)
def test_a_model_is_described_and_pulled(
    registry: Registry, tmp_path: Path, tag: str, format_: str, model: str, hints: dict[str, object]
) -> None:
    library = Library(tmp_path, SourceOptions({registry.host: RegistryOptions(plain_http=True)}))
    reference = parse_reference(f"{registry.host}/llm:{tag}")
    document = kit_document(library, reference, ANYTHING, False, None)
    assert (document["format"], document["model"], document["variant"]) == (format_, model, None)
    assert {name: value for name, value in document["hints"].items() if value} == hints
    unpacked = library.open(reference)
    assert (unpacked.path / model).read_bytes() == WEIGHTS
    unpacked.lease.release()


@pytest.mark.parametrize(
    ("variant", "size", "why"),
    [("[quantization=q4_0]", SIZE // 2, ""), ("[auto]", SIZE, "it is the largest")],
)
def test_a_kit_of_an_index_is_described_and_pulled(
    registry: Registry, tmp_path: Path, variant: str, size: int, why: str
) -> None:
    library = Library(tmp_path, SourceOptions({registry.host: RegistryOptions(plain_http=True)}))
    reference = parse_reference(f"{registry.host}/llm:all{variant}")
    document = kit_document(library, reference, ANYTHING, False, None)
    assert "quantization=" in document["variant"]["labels"]
    assert why in document["variant"]["reason"]
    unpacked = library.open(reference)
    assert len((unpacked.path / "m.gguf").read_bytes()) == size
    unpacked.lease.release()

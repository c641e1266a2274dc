"""Models of every tool, from a real layout to what is unpacked and what the kit hints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.errors import InvalidKitfile, KitError, NotAKit
from gateway.kits.hints import ModelHints, hints_of
from gateway.kits.kit import Kit
from gateway.kits.library import Library
from gateway.oci.reference import parse_reference
from tests.support.artifacts import LayoutBuilder, tar
from tests.support.dialects import GGUF, TITLE, docker_model, gguf, modelkit, modelpack, ollama_model

JINJA = b"{{ messages }}"


@pytest.fixture
def builder(tmp_path: Path) -> LayoutBuilder:
    return LayoutBuilder(tmp_path / "layout")


@pytest.fixture
def opened(tmp_path: Path, builder: LayoutBuilder) -> Callable[[], tuple[Kit, dict[str, bytes]]]:
    """Return the kit `m:v1` and its files, by path."""

    def open_kit() -> tuple[Kit, dict[str, bytes]]:
        library = Library(tmp_path / "cache")
        unpacked = library.open(parse_reference(f"oci-layout:{builder.directory}:m:v1"))
        paths = [path for path in unpacked.path.rglob("*") if path.is_file()]
        files = {str(path.relative_to(unpacked.path)): path.read_bytes() for path in paths}
        unpacked.lease.release()
        return unpacked.kit, files

    return open_kit


Opened = Callable[[], tuple[Kit, dict[str, bytes]]]


@pytest.mark.parametrize("version", ["v0.1", "v0.2"])
def test_a_docker_model(builder: LayoutBuilder, opened: Opened, version: str) -> None:
    layers = [
        ("gguf.v3", "model-q4.gguf", gguf("m")),
        ("mmproj", "eyes.gguf", gguf("eyes")),
        ("chat.template.jinja", "chat.jinja", JINJA),
        ("license", "LICENSE", b"MIT"),
    ]
    docker_model(builder, "m:v1", layers, version=version, context_size=4096)
    kit, files = opened()
    assert kit.manifest.format.value == "Docker model"
    assert kit.model_name == "model-q4.gguf"
    assert files == {path: data for _, path, data in layers[:3]}
    assert hints_of(kit) == ModelHints(
        parameters={"context_length": 4096}, chat_template="chat.jinja", projector="eyes.gguf"
    )
    assert kit.kitfile.model is not None
    assert kit.kitfile.model.format == "gguf"


def test_a_docker_model_whose_layers_have_no_names(builder: LayoutBuilder, opened: Opened) -> None:
    layers = [
        ("gguf.v3", None, gguf("one")),
        ("mmproj", None, gguf("eyes")),
        ("gguf.v3", None, gguf("two")),
        ("chat.template.jinja", None, JINJA),
        ("license", None, b"MIT"),
        ("license", None, b"Acceptable use"),
    ]
    docker_model(builder, "m:v1", layers)
    kit, files = opened()
    assert files == {
        "model-00001-of-00002.gguf": gguf("one"),
        "model-00002-of-00002.gguf": gguf("two"),
        "mmproj.gguf": gguf("eyes"),
        "chat_template.jinja": JINJA,
    }
    assert kit.model_name == "model-00001-of-00002.gguf"
    assert (hints_of(kit).projector, hints_of(kit).chat_template) == ("mmproj.gguf", "chat_template.jinja")


def test_a_docker_directory_of_safetensors(builder: LayoutBuilder, opened: Opened) -> None:
    layers = [
        ("safetensors", "model-00001-of-00002.safetensors", b"one"),
        ("safetensors", "model-00002-of-00002.safetensors", b"two"),
        ("model.file", "config.json", b"{}"),
        ("model.file", "1_Pooling/config.json", b"{ }"),
        ("chat.template.jinja", "chat_template.jinja", JINJA),
    ]
    docker_model(builder, "m:v1", layers, version="v0.2", format="safetensors")
    kit, files = opened()
    assert files == {path: data for _, path, data in layers}
    assert kit.model_name == ""
    assert hints_of(kit).chat_template == "chat_template.jinja"


def test_a_docker_model_for_vllm(builder: LayoutBuilder, opened: Opened) -> None:
    archive = tar(("config.json", b"{}"), ("tokenizer.json", b"[]"))
    more = tar(("onnx", None), ("onnx/readme.txt", b"."))
    layers = [
        ("safetensors", "model.safetensors", b"weights"),
        ("vllm.config.tar", "config.tar", archive),
        ("dir.tar", "onnx.tar", more),
    ]
    docker_model(builder, "m:v1", layers, format="safetensors")
    kit, files = opened()
    assert sorted(files) == ["config.json", "model.safetensors", "onnx/readme.txt", "tokenizer.json"]
    assert kit.model_name == "model.safetensors"


@pytest.mark.parametrize("weights", ["weight.v1.gguf", "weight.v1.raw"])
def test_a_modelpack_of_docker(builder: LayoutBuilder, opened: Opened, weights: str) -> None:
    layers = [
        (weights, "m.gguf", gguf("m")),
        (weights, "mmproj-f16.gguf", gguf("eyes")),
        ("weight.config.v1.raw", "template.jinja", JINJA),
        ("doc.v1.raw", "LICENSE", b"MIT"),
    ]
    modelpack(builder, "m:v1", layers)
    kit, files = opened()
    assert sorted(files) == ["m.gguf", "mmproj-f16.gguf", "template.jinja"]
    assert kit.model_name == "m.gguf"
    assert (hints_of(kit).projector, hints_of(kit).chat_template) == ("mmproj-f16.gguf", "template.jinja")


def test_a_modelpack_of_modctl(builder: LayoutBuilder, opened: Opened) -> None:
    layers = [
        ("weight.config.v1.raw", "config.json", b"{}"),
        ("weight.config.v1.raw", "tokenizer.json", b"[]"),
        ("weight.v1.raw", "model-00001-of-00002.safetensors", b"one"),
        ("weight.v1.raw", "model-00002-of-00002.safetensors", b"two"),
        ("doc.v1.raw", "README.md", b"#"),
    ]
    modelpack(builder, "m:v1", layers)
    kit, files = opened()
    assert sorted(files) == sorted(path for kind, path, _ in layers if path and kind != "doc.v1.raw")
    assert kit.model_name == ""


def test_files_that_only_have_a_title(builder: LayoutBuilder, opened: Opened) -> None:
    layers = [
        ("weight.v1.raw", "./models/m.gguf", gguf("m")),
        ("weight.config.v1.raw", "models/notes.json", b"{}"),
    ]
    modelpack(builder, "m:v1", layers, key=TITLE)
    kit, files = opened()
    assert sorted(files) == ["models/m.gguf", "models/notes.json"]
    assert kit.model_name == "models/m.gguf"


def test_a_title_that_leads_out_is_refused(builder: LayoutBuilder, opened: Opened) -> None:
    modelpack(builder, "m:v1", [("weight.v1.raw", "../m.gguf", GGUF)], key=TITLE)
    with pytest.raises(InvalidKitfile, match=r"'\.\./m\.gguf'"):
        opened()


def test_a_repository_of_hugging_face_as_kit_import_packs_it(builder: LayoutBuilder, opened: Opened) -> None:
    files = {
        "model-00001-of-00002.safetensors": b"one",
        "model-00002-of-00002.safetensors": b"two",
        "model.safetensors.index.json": b"{}",
        "config.json": b"{}",
        "tokenizer.json": b"[]",
        "1_Pooling/config.json": b"{ }",
        "chat_template.jinja": JINJA,
    }
    modelkit(builder, "m:v1", files)
    kit, unpacked = opened()
    assert unpacked == files
    assert kit.model_name == "model-00001-of-00002.safetensors"
    assert hints_of(kit) == ModelHints(chat_template="chat_template.jinja")


def test_a_split_gguf_as_parts(builder: LayoutBuilder, opened: Opened) -> None:
    files = {f"w/m-{number:05d}-of-00003.gguf": gguf(str(number)) for number in (1, 2, 3)}
    modelkit(builder, "m:v1", files)
    kit, unpacked = opened()
    assert (unpacked, kit.model_name) == (files, "w/m-00001-of-00003.gguf")


OLLAMA_LAYERS = [
    ("model", gguf("m")),
    ("projector", gguf("eyes")),
    ("adapter", gguf("lora")),
    ("template", b"{{ .Prompt }}"),
    ("system", "Sei freundlich, Müller.".encode()),
    ("params", b'{"temperature":0.6,"stop":["<|im_end|>"],"num_ctx":2048}'),
    ("license", b"MIT"),
    ("messages", b"[]"),
]


def test_an_ollama_model(builder: LayoutBuilder, opened: Opened) -> None:
    ollama_model(builder, "m:v1", OLLAMA_LAYERS)
    kit, files = opened()
    assert kit.manifest.format.value == "Ollama model"
    assert kit.model_name == "model.gguf"
    assert files == {
        "model.gguf": gguf("m"),
        "mmproj.gguf": gguf("eyes"),
        "adapter.gguf": gguf("lora"),
    }
    hints = hints_of(kit)
    assert hints.parameters == {
        "temperature": 0.6,
        "stop": ["<|im_end|>"],
        "num_ctx": 2048,
        "system_prompt": "Sei freundlich, Müller.",
    }
    assert hints.system_prompt == "Sei freundlich, Müller."
    assert (hints.projector, hints.adapters, hints.chat_template) == ("mmproj.gguf", ("adapter.gguf",), None)
    assert hints.notes == (
        "its chat template is one of Ollama (a Go template), so that in the model's file is used",
    )


def test_an_ollama_model_is_opened_again_without_its_source(
    builder: LayoutBuilder, opened: Opened, tmp_path: Path
) -> None:
    digest = ollama_model(builder, "m:v1", OLLAMA_LAYERS)
    first, _ = opened()
    library = Library(tmp_path / "cache")
    assert library.has(first)
    builder.directory.rename(tmp_path / "elsewhere")
    unpacked = library.open(parse_reference(f"oci-layout:{builder.directory}:m:v1@{digest}"))
    assert unpacked.from_cache
    assert hints_of(unpacked.kit) == hints_of(first)
    unpacked.lease.release()


def test_an_ollama_model_can_be_read_from_the_cache_as_from_any_layout(
    builder: LayoutBuilder, opened: Opened, tmp_path: Path
) -> None:
    ollama_model(builder, "m:v1", OLLAMA_LAYERS)
    first, _ = opened()
    other = Library(tmp_path / "other")
    kit = other.describe(parse_reference(f"oci-layout:{tmp_path / 'cache'}:m:v1"))
    assert (kit.digest, kit.manifest) == (first.digest, first.manifest)


@pytest.mark.parametrize("data", [b"[]", b"{", b'{"a":1,"a":2}', b"\xff"])
def test_an_ollama_model_with_broken_parameters(builder: LayoutBuilder, opened: Opened, data: bytes) -> None:
    ollama_model(builder, "m:v1", [("model", gguf("m")), ("params", data)])
    with pytest.raises(InvalidKitfile, match="its Kitfile cannot be read"):
        opened()


def test_a_container_image_is_no_ollama_model(builder: LayoutBuilder, opened: Opened) -> None:
    ollama_model(builder, "m:v1", [])
    with pytest.raises(NotAKit, match="this is a container image"):
        opened()


def test_media_types_that_are_not_known_are_named(builder: LayoutBuilder, opened: Opened) -> None:
    modelpack(builder, "m:v1", [("weight.v2.raw", "m.gguf", GGUF), ("weight.v1.zip", "n", b"n")])
    with pytest.raises(KitError) as caught:
        opened()
    assert str(caught.value).endswith(
        " has no model that can be read: its layers are of types that are not known, "
        "'application/vnd.cncf.model.weight.v1.zip', 'application/vnd.cncf.model.weight.v2.raw'; "
        "pack it with kit"
    )

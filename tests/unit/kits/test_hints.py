"""What a kit hints of its language model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import InvalidKitfile
from gateway.kits.directories import KitDirectories
from gateway.kits.hints import ModelHints, hints_of
from gateway.kits.kit import Kit
from gateway.kits.library import Library
from gateway.kits.parents import attach_parents
from gateway.oci.reference import parse_reference
from tests.support.artifacts import MODELKIT, LayoutBuilder, tar


class Packer:
    """Packs ModelKits of one file for each entry, as kit does."""

    def __init__(self, directory: Path) -> None:
        self.builder = LayoutBuilder(directory / "layout")
        self.library = Library(directory / "cache")

    def kit(
        self, name: str, model: dict[str, Any] | None, prompts: list[dict[str, str]] | None = None
    ) -> Kit:
        layers = []

        def pack(base: str, entry: dict[str, Any], subtype: str = "") -> dict[str, Any]:
            more = {"ml_kitops_modelkit_layer-subtype": subtype} if subtype else {}
            content = tar((entry["path"], f"{name} {entry['path']}".encode()))
            layers.append(self.builder.blob(f"{MODELKIT}.{base}.v1.tar", content, **more))
            return {**entry, "digest": layers[-1]["digest"], "diffId": layers[-1]["digest"]}

        kitfile: dict[str, Any] = {"package": {}}
        if model is not None:
            is_parent = ":" in model.get("path", "")
            kitfile["model"] = dict(model) if is_parent else pack("model", model)
            kitfile["model"]["parts"] = [pack("modelpart", part) for part in model.get("parts", [])]
        kitfile["prompts"] = [pack("code", prompt, "prompt") for prompt in prompts or []]
        config = self.builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
        self.builder.artifact(f"{name}:v1", {"schemaVersion": 2, "config": config, "layers": layers})
        return self.library.describe(parse_reference(f"oci-layout:{self.builder.directory}:{name}:v1"))


@pytest.fixture
def packer(tmp_path: Path) -> Packer:
    return Packer(tmp_path)


def test_a_kit_without_hints_has_none(packer: Packer) -> None:
    assert hints_of(packer.kit("plain", {"path": "m.gguf"})) == ModelHints()
    assert hints_of(packer.kit("text", {"path": "m.gguf", "parameters": "fast"})) == ModelHints()
    assert hints_of(packer.kit("nothing", None)) == ModelHints()


def test_parameters_are_as_the_kitfile_has_them(packer: Packer) -> None:
    parameters = {"temperature": 0.2, "stop": ["</s>"], "system_prompt": "Be brief.", "any": {"thing": [1]}}
    hints = hints_of(packer.kit("chat", {"path": "m.gguf", "parameters": parameters}))
    assert hints.parameters == parameters
    assert hints.system_prompt == "Be brief."
    assert hints.system_prompt_file is None


@pytest.mark.parametrize("name", ["system", "System-Prompt", "system message"])
def test_the_system_prompt_is_read_in_any_spelling_that_serving_reads(packer: Packer, name: str) -> None:
    kit = packer.kit("chat", {"path": "m.gguf", "parameters": {name: "Be brief."}})
    assert hints_of(kit).system_prompt == "Be brief."


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"path": "chat_template.jinja"}, {"chat_template": "chat_template.jinja"}),
        ({"path": "t/short.jinja", "type": "chat-template"}, {"chat_template": "t/short.jinja"}),
        ({"path": "t/short.txt", "name": "Chat Template"}, {"chat_template": "t/short.txt"}),
        ({"path": "mmproj-model-f16.gguf"}, {"projector": "mmproj-model-f16.gguf"}),
        ({"path": "gemma-mmproj.gguf"}, {"projector": "gemma-mmproj.gguf"}),
        ({"path": "eyes.gguf", "type": "projector"}, {"projector": "eyes.gguf"}),
        ({"path": "legal.gguf", "type": "lora"}, {"adapters": ("legal.gguf",)}),
        ({"path": "legal", "name": "adapter"}, {"adapters": ("legal",)}),
        ({"path": "legal/adapter_config.json"}, {"adapters": ("legal",)}),
        ({"path": "tiny.gguf", "type": "draft"}, {"draft": "tiny.gguf"}),
        ({"path": "tokenizer.json", "type": "metadata"}, {}),
        ({"path": "draft_of_the_card.json"}, {}),
    ],
)
def test_parts_say_what_they_are_for(packer: Packer, part: dict[str, Any], expected: dict[str, Any]) -> None:
    kit = packer.kit("parts", {"path": "m.gguf", "parts": [part]})
    assert hints_of(kit) == replace(ModelHints(), **expected)


def test_two_parts_for_one_use_are_refused(packer: Packer) -> None:
    parts = [{"path": "a.jinja", "type": "chat_template"}, {"path": "b.jinja", "type": "chat_template"}]
    kit = packer.kit("two", {"path": "m.gguf", "parts": parts})
    with pytest.raises(InvalidKitfile, match=r"a\.jinja and b\.jinja are both its chat_template"):
        hints_of(kit)


@pytest.mark.parametrize(
    "prompt",
    [
        {"path": "prompts/system.md"},
        {"path": "prompts/System-Prompt.txt"},
        {"path": "prompts/a.txt", "name": "system"},
    ],
)
def test_the_system_prompt_may_be_one_of_the_prompts_and_is_unpacked(
    packer: Packer, prompt: dict[str, str]
) -> None:
    kit = packer.kit("ask", {"path": "m.gguf"}, [{"path": "prompts/ask.txt"}, prompt])
    assert hints_of(kit).system_prompt_file == prompt["path"]
    unpacked = packer.library.open(kit.reference)
    assert (unpacked.path / prompt["path"]).read_text() == f"ask {prompt['path']}"
    assert not (unpacked.path / "prompts/ask.txt").exists()
    unpacked.lease.release()


def test_a_system_prompt_that_an_earlier_release_did_not_unpack_is_added(packer: Packer) -> None:
    kit = packer.kit("ask", {"path": "m.gguf"}, [{"path": "system.md"}])
    first = packer.library.open(kit.reference)
    directories = KitDirectories(first.path.parent)
    inventory = directories.read(first.path.name)
    assert inventory is not None
    inventory.layers = [layer for layer in inventory.layers if layer.files != ["system.md"]]
    inventory.files = [file for file in inventory.files if file.path != "system.md"]
    directories.write(first.path.name, inventory)
    first.path.chmod(0o755)
    (first.path / "system.md").unlink()
    first.path.chmod(0o555)
    second = packer.library.open(kit.reference)
    assert (second.path / "system.md").read_text() == "ask system.md"
    third = packer.library.open(kit.reference)
    assert third.from_cache
    for opened in (first, second, third):
        opened.lease.release()


def test_the_manifest_may_have_a_prompt_under_a_cleaned_path(packer: Packer) -> None:
    builder = packer.builder
    model = builder.blob(f"{MODELKIT}.model.v1.tar", tar(("m.gguf", b"m")))
    notes = {"org_cncf_model_filepath": "prompts/system.md", "ml_kitops_modelkit_layer-subtype": "prompt"}
    prompt = builder.blob(f"{MODELKIT}.code.v1.raw", b"Be brief.", **notes)
    kitfile = {
        "model": {"path": "m.gguf", "digest": model["digest"]},
        "prompts": [{"path": "./prompts/system.md", "digest": prompt["digest"]}],
    }
    config = builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
    builder.artifact("clean:v1", {"schemaVersion": 2, "config": config, "layers": [model, prompt]})
    kit = packer.library.describe(parse_reference(f"oci-layout:{builder.directory}:clean:v1"))
    assert hints_of(kit).system_prompt_file == "prompts/system.md"


def test_a_child_counts_before_its_parent_and_adds_its_adapters(packer: Packer) -> None:
    prompts = [{"path": "system.txt"}]
    base_parts = [{"path": "base.jinja", "type": "chat_template"}, {"path": "one.gguf", "type": "lora"}]
    base = packer.kit("base", {"path": "m.gguf", "parameters": {"top_k": 40}, "parts": base_parts}, prompts)
    parts = [{"path": "child.jinja", "type": "chat_template"}, {"path": "two.gguf", "type": "lora"}]
    child = packer.kit("child", {"path": "m.gguf", "parts": parts}, prompts)
    hints = hints_of(attach_parents(child, (base,)))
    assert hints.parameters == {"top_k": 40}
    assert hints.chat_template == "child.jinja"
    assert hints.adapters == ("one.gguf", "two.gguf")
    # Only the model comes from a parent, not its prompts.
    assert hints.system_prompt_file == "system.txt"
    alone = packer.kit("alone", {"path": "m.gguf"})
    assert hints_of(attach_parents(alone, (base,))).system_prompt_file is None

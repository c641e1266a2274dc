"""What a kit and the config say of a language model, merged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import InvalidKitfile, UnusableModel
from gateway.kits.language import LanguageModel, language_model
from gateway.kits.library import Library, UnpackedKit
from gateway.kits.model import choose_runtime, load
from gateway.oci.reference import parse_reference
from gateway.serving import NO_ENGINE, NO_GENERATION, Engine, Generation, Serving
from runtimes.base import Resources
from runtimes.engines.base import DEFAULT_OPTIONS, Adapter, EngineOptions
from runtimes.engines.task import Task
from runtimes.formats import Format
from runtimes.onnx import OnnxRuntime
from runtimes.select import Choice
from tests.support.artifacts import MODELKIT, LayoutBuilder, tar
from tests.support.gguf_files import tiny_adapter
from tests.support.language import MadeUpEngine, MadeUpEngines
from tests.support.model_files import identity_onnx

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
PEFT = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}


class Packer:
    """Packs kits of a language model as kit does, and unpacks them."""

    def __init__(self, directory: Path) -> None:
        self.builder = LayoutBuilder(directory / "layout")
        self.library = Library(directory / "cache")

    def kit(
        self,
        parameters: object = None,
        parts: Mapping[str, tuple[str, bytes | Mapping[str, bytes]]] | None = None,
        prompts: Mapping[str, Mapping[str, bytes]] | None = None,
        parent: str | None = None,
        name: str = "chat",
        model_file: str = "model.gguf",
    ) -> UnpackedKit:
        """`parts` are the type and content of each by path, of a directory its files; so are `prompts`."""
        layers = []

        def pack(base: str, path: str, files: Mapping[str, bytes], **annotations: str) -> dict[str, Any]:
            layers.append(self.builder.blob(f"{MODELKIT}.{base}.v1.tar", tar(*files.items()), **annotations))
            return {"path": path, "digest": layers[-1]["digest"], "diffId": layers[-1]["digest"]}

        model: dict[str, Any] = {"path": parent, "parameters": parameters}
        if parent is None:
            path, _, file = model_file.rpartition("/")
            data = identity_onnx() if model_file.endswith(".onnx") else b"GGUF weights"
            model |= pack("model", path or file, {model_file: data})
        model["parts"] = [
            {**pack("modelpart", path, {path: part} if isinstance(part, bytes) else part), "type": kind}
            for path, (kind, part) in (parts or {}).items()
        ]
        subtype = {"ml_kitops_modelkit_layer-subtype": "prompt"}
        kitfile = {
            "package": {},
            "model": model,
            "prompts": [pack("code", path, files, **subtype) for path, files in (prompts or {}).items()],
        }
        config = self.builder.blob(f"{MODELKIT}.config.v1+json", json.dumps(kitfile).encode())
        self.builder.artifact(f"{name}:v1", {"schemaVersion": 2, "config": config, "layers": layers})
        return self.library.open(parse_reference(f"oci-layout:{self.builder.directory}:{name}:v1"))


@pytest.fixture
def packer(tmp_path: Path) -> Packer:
    return Packer(tmp_path)


def choice(kit: UnpackedKit, form: Format = Format.GGUF) -> Choice:
    return Choice(MadeUpEngines(), kit.model_path, form)


def merged(
    kit: UnpackedKit, engine: Engine = NO_ENGINE, generation: Generation = NO_GENERATION
) -> LanguageModel:
    return language_model(kit, choice(kit), Serving(engine=engine, generation=generation))


def test_a_kit_that_says_nothing_leaves_all_to_the_engine(packer: Packer) -> None:
    assert merged(packer.kit()) == LanguageModel()
    assert merged(packer.kit("fast", name="text")) == LanguageModel()


def test_a_kitfile_as_public_ones_are(packer: Packer) -> None:
    kit = packer.kit(
        {
            "context_length": 8192,
            "temperature": 0.7,
            "top-p": 0.9,
            "max_new_tokens": 512,
            "stop": ["</s>", "User:"],
            "system_prompt": "You are brief.\n",
            "quantization": "Q4_K_M",
        },
        {"chat_template.jinja": ("", TEMPLATE.encode())},
    )
    language = merged(kit)
    assert language.options == EngineOptions(context=8192, chat_template=TEMPLATE)
    assert language.generation == Generation(
        (("temperature", 0.7), ("top_p", 0.9), ("max_tokens", 512)), ("</s>", "User:"), "You are brief."
    )
    assert language.taken["top-p"] == "top_p"
    assert language.taken["max_new_tokens"] == "max_tokens"
    assert language.ignored == {"quantization": "not known"}


def test_the_config_counts_before_the_kit_which_fills_in_the_rest(packer: Packer) -> None:
    kit = packer.kit(
        {
            "context_length": 8192,
            "n_parallel": 2,
            "temperature": 0.7,
            "top_p": 0.9,
            "system": "Kit.",
            "stop": "a",
        },
        {"chat_template.jinja": ("", TEMPLATE.encode())},
    )
    engine = Engine(context=1024, task=Task.CHAT, chat_template="{{ other }}")
    language = merged(kit, engine, Generation((("temperature", 0.0),), ("b",), "Config."))
    assert language.options == EngineOptions(
        context=1024, slots=2, task=Task.CHAT, chat_template="{{ other }}"
    )
    assert language.generation == Generation((("temperature", 0.0), ("top_p", 0.9)), ("b",), "Config.")
    assert language.ignored["temperature"] == "the config says it"
    assert "temperature" not in language.taken


def test_a_value_that_cannot_be_meant_is_refused_unless_the_config_has_it(packer: Packer) -> None:
    kit = packer.kit({"temperature": 7, "n_ctx": "many"})
    with pytest.raises(InvalidKitfile) as caught:
        merged(kit)
    assert str(caught.value) == (
        f"{kit.kit.reference}: model.parameters.n_ctx must be a whole number, not 'many'; "
        "model.parameters.temperature is 7, and must be 0 to 2; mend the Kitfile and pack the kit again, "
        "or set it in the config, in `engine` or `generation` of the model"
    )
    language = merged(kit, Engine(context=512), Generation((("temperature", 1.0),)))
    assert (language.options.context, language.generation.sampling) == (512, (("temperature", 1.0),))


def test_what_is_no_language_model_keeps_its_parameters_to_itself(packer: Packer) -> None:
    kit = packer.kit({"temperature": "hot"})
    other = Choice(OnnxRuntime(), kit.model_path, Format.ONNX)
    assert language_model(kit, other, Serving()) == LanguageModel()


# Chat templates and prompts


def test_a_parameter_may_be_a_template_or_name_its_file(packer: Packer) -> None:
    assert merged(packer.kit({"chat_template": TEMPLATE})).options.chat_template == TEMPLATE
    parts = {"short.txt": ("", TEMPLATE.encode())}
    named = packer.kit({"chat_template": "short.txt"}, parts, name="named")
    assert merged(named).options.chat_template == TEMPLATE


@pytest.mark.parametrize(
    ("parameters", "content", "message"),
    [
        ({"chat_template": "chatml"}, TEMPLATE.encode(), "'chatml' is no file of the kit"),
        ({"chat_template": "../secret"}, TEMPLATE.encode(), "'../secret'"),
        ({}, b"no template", "is no Jinja template"),
        ({}, b"\xff{{", "is no text in UTF-8"),
        ({}, b"{{" + b"x" * 1_000_000, "has 1,000,002 characters"),
    ],
)
def test_what_is_no_template_is_refused(
    packer: Packer, parameters: dict[str, str], content: bytes, message: str
) -> None:
    kit = packer.kit(parameters, {"chat_template.jinja": ("", content)})
    with pytest.raises(InvalidKitfile, match=message) as caught:
        merged(kit)
    assert str(caught.value).startswith(str(kit.kit.reference))


def test_a_prompt_that_is_named_so_is_the_system_prompt(packer: Packer) -> None:
    prompts = {"system.md": {"system.md": b"Be kind.\n"}, "other.md": {"other.md": b"Other."}}
    assert merged(packer.kit(prompts=prompts)).generation.system_prompt == "Be kind."
    with_parameter = packer.kit({"system": "Be brief."}, prompts=prompts, name="both")
    assert merged(with_parameter).generation.system_prompt == "Be brief."


def test_a_skill_is_no_system_prompt(packer: Packer) -> None:
    kit = packer.kit(prompts={"system": {"system/SKILL.md": b"A skill."}})
    language = merged(kit)
    assert language.generation.system_prompt is None
    assert language.ignored == {"system": "a skill is no system prompt"}


# Parts


def test_a_projector_and_a_draft_model_are_found(packer: Packer) -> None:
    kit = packer.kit(parts={"mmproj.gguf": ("", b"GGUF eyes"), "small.gguf": ("draft", b"GGUF small")})
    options = merged(kit).options
    assert (options.projector, options.draft) == (kit.path / "mmproj.gguf", kit.path / "small.gguf")


def test_a_file_that_a_part_names_as_a_helper_is_not_the_model(packer: Packer) -> None:
    draft = {"weights/draft.onnx": ("draft", identity_onnx())}
    kit = packer.kit(parts=draft, model_file="weights/model.onnx")
    assert choose_runtime(kit, None).path == kit.path / "weights/model.onnx"
    other = {"weights/other.onnx": ("", identity_onnx())}
    with pytest.raises(UnusableModel, match=r"several models: weights/model.onnx, weights/other.onnx"):
        choose_runtime(packer.kit(parts=other, model_file="weights/model.onnx", name="two"), None)


def test_a_childs_adapter_is_put_on_its_parents_model(packer: Packer) -> None:
    base = packer.kit({"temperature": 0.3}, name="base")
    child = packer.kit(
        parts={"legal.gguf": ("lora", b"GGUF legal")}, parent="registry.test/base:v1", name="child"
    )
    language = merged(child)
    assert child.model_path.read_bytes() == base.model_path.read_bytes()
    assert language.options.adapters == (Adapter(child.path / "legal.gguf"),)
    assert language.generation.sampling == (("temperature", 0.3),)


def test_a_child_counts_before_its_parent_setting_by_setting(packer: Packer) -> None:
    packer.kit({"n_ctx": 4096, "temperature": 0.3, "top_p": 0.9, "system": "Parent."}, name="base")
    own = {"num_ctx": 2048, "temperature": 0.1, "system": "Child."}
    child = packer.kit(own, parent="registry.test/base:v1", name="child")
    language = merged(child)
    assert language.options.context == 2048
    assert language.generation == Generation((("temperature", 0.1), ("top_p", 0.9)), (), "Child.")
    assert language.taken["num_ctx"] == "context"
    assert language.ignored == {"n_ctx": "its child v1 says it"}


def test_a_childs_files_count_before_its_parents_parameters(packer: Packer) -> None:
    packer.kit({"system": "Parent.", "chat_template": "{{ parent }}", "top_p": 0.9}, name="base")
    child = packer.kit(
        parts={"chat_template.jinja": ("", b"{{ child }}")},
        prompts={"system.md": {"system.md": b"Child."}},
        parent="registry.test/base:v1",
        name="child",
    )
    language = merged(child)
    assert language.options.chat_template == "{{ child }}"
    assert language.generation == Generation((("top_p", 0.9),), (), "Child.")
    assert language.ignored == dict.fromkeys(("system", "chat_template"), "its child v1 says it")


def test_a_fault_of_a_parent_is_told_of_the_parent(packer: Packer) -> None:
    base = packer.kit({"top_p": 7}, name="base")
    child = packer.kit(parent="registry.test/base:v1", name="child")
    with pytest.raises(InvalidKitfile, match=r"model\.parameters\.top_p is 7") as caught:
        merged(child)
    assert str(base.kit.digest) in str(caught.value)


def test_two_children_of_one_parent_share_its_blobs_and_files(packer: Packer) -> None:
    packer.kit(name="base")
    children = []
    for name in ("one", "two"):
        parts = {f"{name}.gguf": ("lora", f"GGUF {name}".encode())}
        children.append(packer.kit(parts=parts, parent="registry.test/base:v1", name=name))
    one, two = children
    layer = two.kit.layers[0].descriptor.size
    own = layer + two.kit.manifest.config.size
    assert two.pulled_bytes <= own + 2000  # and its manifest
    assert len(one.blobs & two.blobs) == 3  # the base's manifest, Kitfile and layer
    assert one.model_path.stat().st_ino == two.model_path.stat().st_ino


def test_an_adapter_of_peft_may_be_its_directory_or_its_files(packer: Packer) -> None:
    parts = {f"legal/{name}": ("lora", content) for name, content in PEFT.items()}
    kit = packer.kit(parts=parts)
    options = language_model(kit, choice(kit, Format.SAFETENSORS), Serving()).options
    assert options.adapters == (Adapter(kit.path / "legal"),)


def test_a_part_that_is_a_directory_of_peft_is_an_adapter_whatever_its_type(packer: Packer) -> None:
    files = {f"legal/{name}": content for name, content in PEFT.items()}
    packer.kit(parts={"legal": ("", files)}, name="base", model_file="weights/model.safetensors")
    own = {path.replace("legal", "brief"): content for path, content in files.items()}
    kit = packer.kit(parts={"brief": ("", own)}, parent="registry.test/base:v1", name="child")
    options = language_model(kit, choice(kit, Format.SAFETENSORS), Serving()).options
    assert options.adapters == (Adapter(kit.path / "legal"), Adapter(kit.path / "brief"))
    with pytest.raises(UnusableModel, match="'legal' is PEFT's"):
        merged(kit)


def test_an_adapter_of_peft_is_refused_on_gguf(packer: Packer) -> None:
    kit = packer.kit(parts={f"legal/{name}": ("lora", content) for name, content in PEFT.items()})
    with pytest.raises(UnusableModel) as caught:
        merged(kit)
    assert str(caught.value) == (
        f"{kit.kit.reference}: its adapter 'legal' is PEFT's (safetensors), and its base 'model.gguf' is "
        "GGUF, which takes adapters in GGUF only; convert the adapter with llama.cpp's "
        "convert_lora_to_gguf.py, or put it on the base's safetensors, and pack again"
    )


def test_an_adapter_in_gguf_is_refused_on_safetensors(packer: Packer) -> None:
    kit = packer.kit(parts={"legal.gguf": ("lora", b"GGUF legal")})
    with pytest.raises(UnusableModel, match=r"'legal.gguf' is GGUF, and its base is safetensors"):
        language_model(kit, choice(kit, Format.SAFETENSORS), Serving())


def test_an_adapter_in_gguf_is_refused_on_safetensors_by_its_header_too(
    packer: Packer, tmp_path: Path
) -> None:
    adapter = tiny_adapter(tmp_path / "legal.gguf").read_bytes()
    kit = packer.kit(parts={"legal.gguf": ("", adapter)}, model_file="model.safetensors")
    with pytest.raises(UnusableModel, match=r"'legal.gguf' is GGUF, and its base is safetensors"):
        language_model(kit, choice(kit, Format.SAFETENSORS), Serving())


@pytest.mark.parametrize("parts", [{"legal.bin": b"PK"}, {"legal/adapter_config.json": b"{}"}])
def test_what_is_no_adapter_is_refused(packer: Packer, parts: dict[str, bytes]) -> None:
    kit = packer.kit(parts={path: ("lora", content) for path, content in parts.items()})
    with pytest.raises(UnusableModel, match="is neither a GGUF file nor a directory with"):
        merged(kit)


# Loading


def test_an_engine_is_started_with_the_options(packer: Packer) -> None:
    kit = packer.kit()
    options = EngineOptions(context=64)
    model = load(kit, choice(kit), Resources(), options)
    assert isinstance(model, MadeUpEngine)
    assert (model.path, model.options) == (kit.model_path, options)
    assert DEFAULT_OPTIONS.slots == 4


def test_an_engine_that_computes_on_cpus_although_gpus_are_reserved_is_closed(packer: Packer) -> None:
    kit = packer.kit()
    chosen = choice(kit)
    with pytest.raises(UnusableModel, match="asks for 1 GPU, and the runtime made-up computes on CPUs"):
        load(kit, chosen, Resources(gpus=1))
    assert isinstance(chosen.runtime, MadeUpEngines)
    assert [engine.is_closed for engine in chosen.runtime.started] == [True]

"""The command line of vLLM."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from runtimes import cuda
from runtimes.base import Resources
from runtimes.engines import vllm
from runtimes.engines.base import Adapter, EngineOptions
from runtimes.engines.task import Task
from runtimes.engines.vllm_launcher import SOCKET
from runtimes.errors import LoadError
from runtimes.hugging_face.directory import HuggingFaceModel, read_directory

GPU = Resources(gpus=1)
TOOLS = "{{ tools }} <tool_call>"


@pytest.fixture
def model(tmp_path: Path) -> HuggingFaceModel:
    directory = tmp_path / "model"
    directory.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2_048}
    (directory / "config.json").write_text(json.dumps(config))
    header = b"{}"
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"  ")
    return read_directory(directory)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    path = tmp_path / "adapter"
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 24}))
    (path / "adapter_model.safetensors").write_bytes(b"")
    return path


def flags(model: HuggingFaceModel, options: EngineOptions, resources: Resources = GPU) -> dict[str, str]:
    """Return each flag with its value, "" where it has none."""
    words = vllm.arguments(model, resources, options)
    assert words[:2] == ["serve", str(model.directory)]
    pairs: dict[str, str] = {}
    for word, following in zip(words[2:], [*words[3:], "--"], strict=True):
        if word.startswith("--"):
            assert word not in pairs
            pairs[word] = "" if following.startswith("--") else following
    return pairs


def test_the_command_of_a_plain_model(model: HuggingFaceModel) -> None:
    assert flags(model, EngineOptions(context=1_024, slots=8, batch=256)) == {
        "--uds": SOCKET,
        "--max-model-len": "1024",
        "--max-num-seqs": "8",
        "--max-num-batched-tokens": "256",
        "--generation-config": "auto",
        "--uvicorn-log-level": "warning",
        "--enable-chunked-prefill": "",
        "--enable-prompt-tokens-details": "",
        "--disable-uvicorn-access-log": "",
        "--disable-fastapi-docs": "",
        "--no-enable-log-requests": "",
        "--no-trust-remote-code": "",
        "--served-model-name": vllm.ALIAS,
    }


def test_the_context_is_the_models_own_where_none_is_given(model: HuggingFaceModel) -> None:
    assert flags(model, EngineOptions())["--max-model-len"] == "2048"


def test_a_share_of_a_gpu_and_several(model: HuggingFaceModel) -> None:
    assert flags(model, EngineOptions(), Resources(gpus=0.5))["--gpu-memory-utilization"] == "0.450"
    assert flags(model, EngineOptions(), Resources(gpus=2))["--tensor-parallel-size"] == "2"
    assert "--tensor-parallel-size" not in flags(model, EngineOptions())


def test_a_share_in_bytes_is_a_part_of_each_gpu(
    model: HuggingFaceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "total_bytes", lambda: 24 << 30)
    several = flags(model, EngineOptions(), Resources(gpus=2, gpu_memory=6 << 30))
    assert several["--gpu-memory-utilization"] == "0.250"
    assert several["--tensor-parallel-size"] == "2"
    all_of_it = flags(model, EngineOptions(), Resources(gpus=1, gpu_memory=24 << 30))
    assert "--gpu-memory-utilization" not in all_of_it
    assert "--gpu-memory-utilization" not in flags(model, EngineOptions(), Resources(gpu_memory=6 << 30))


def test_an_adapter_takes_the_name_that_calls_use(model: HuggingFaceModel, adapter: Path) -> None:
    given = flags(model, EngineOptions(adapters=(Adapter(adapter),)))
    assert given["--served-model-name"] == "model.base"
    assert json.loads(given["--lora-modules"]) == {
        "name": vllm.ALIAS,
        "path": str(adapter),
        "base_model_name": "model.base",
    }
    assert given["--enable-lora"] == ""
    assert given["--max-lora-rank"] == "32"


def test_calls_name_the_model_as_the_options_do(model: HuggingFaceModel, adapter: Path) -> None:
    assert flags(model, EngineOptions(name="iris"))["--served-model-name"] == "iris"
    given = flags(model, EngineOptions(name="iris", adapters=(Adapter(adapter),)))
    assert json.loads(given["--lora-modules"])["name"] == "iris"


def test_a_chat_template_a_draft_and_tools(model: HuggingFaceModel, tmp_path: Path) -> None:
    given = flags(model, EngineOptions(chat_template=TOOLS, draft=tmp_path))
    assert given["--chat-template"] == TOOLS
    assert json.loads(given["--speculative-config"])["model"] == str(tmp_path)
    assert "--enable-auto-tool-choice" in given
    assert given["--tool-call-parser"] == "hermes"


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json"])
def test_tools_are_read_from_the_models_own_template(model: HuggingFaceModel, name: str) -> None:
    text = TOOLS if name.endswith("jinja") else json.dumps({"chat_template": TOOLS})
    (model.directory / name).write_text(text)
    assert flags(model, EngineOptions())["--tool-call-parser"] == "hermes"


def test_the_tokenizers_response_template_comes_before_the_guess(model: HuggingFaceModel) -> None:
    config = {"chat_template": TOOLS, "response_template": {"fields": {"tool_calls": {}}}}
    (model.directory / "tokenizer_config.json").write_text(json.dumps(config))
    assert flags(model, EngineOptions())["--tool-call-parser"] == "response_template"
    config["response_template"] = {"fields": {}}
    (model.directory / "tokenizer_config.json").write_text(json.dumps(config))
    assert "--tool-call-parser" not in flags(model, EngineOptions())


def test_what_vllm_cannot_have_is_refused(model: HuggingFaceModel, adapter: Path, tmp_path: Path) -> None:
    file = tmp_path / "file.gguf"
    file.touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    for options, reason in (
        (EngineOptions(projector=file), "projector"),
        (EngineOptions(draft=file), "no directory"),
        (EngineOptions(task=Task.EMBEDDING), "embedding"),
        (EngineOptions(context=4_096), "was trained for 2048"),
        (EngineOptions(adapters=(Adapter(adapter), Adapter(adapter))), "one adapter"),
        (EngineOptions(adapters=(Adapter(adapter, 0.5),)), "scale 0.5"),
        (EngineOptions(adapters=(Adapter(empty),)), "safetensors only"),
    ):
        with pytest.raises(LoadError, match=reason):
            vllm.arguments(model, GPU, options)


@pytest.mark.parametrize("config", [{"peft_type": "LORA", "r": 1_024}, {"peft_type": "IA3"}, {}])
def test_adapters_that_have_no_room_are_refused(
    model: HuggingFaceModel, adapter: Path, config: dict[str, object]
) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match="rank 1 to 512"):
        vllm.arguments(model, GPU, EngineOptions(adapters=(Adapter(adapter),)))


def test_which_vllm_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(vllm.VARIABLE, raising=False)
    monkeypatch.setattr(vllm, "find_spec", lambda _: None)
    assert vllm.command() is None
    beside = tmp_path / "vllm"
    beside.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert vllm.command() is None
    monkeypatch.setattr(vllm, "find_spec", lambda _: object())
    assert vllm.command() == beside
    monkeypatch.setenv(vllm.VARIABLE, "none")
    assert vllm.command() is None
    other = tmp_path / "other"
    other.touch(mode=0o644)
    monkeypatch.setenv(vllm.VARIABLE, str(other))
    with pytest.raises(LoadError, match="is no program; install it"):
        vllm.command()
    other.chmod(0o755)
    assert vllm.command() == other

"""vLLM as the engine: `vllm serve` of its own interpreter, as a child process on a Unix socket.

vLLM fixes the versions of torch and transformers that it wants, so it is best installed in a virtual
environment of its own, whose `vllm` the variable KITSERVE_VLLM names. Flags are those of vLLM 0.33
(https://docs.vllm.ai/en/latest/cli/serve/).
"""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from runtimes import cuda
from runtimes.base import Resources
from runtimes.engines.base import Adapter, EngineOptions
from runtimes.engines.openai_child import OpenAIChild
from runtimes.engines.process import EngineProcess, python_module
from runtimes.engines.vllm_launcher import SOCKET
from runtimes.errors import LoadError
from runtimes.hugging_face.directory import HuggingFaceModel
from runtimes.hugging_face.files import read_object
from runtimes.hugging_face.options import chat_template, context, require_generation, tasks

VARIABLE = "KITSERVE_VLLM"
NONE = "none"
"""The value of the variable that does without vLLM, also where it is installed."""

ADVICE = (
    "install it in a virtual environment of its own (python -m venv DIR && DIR/bin/pip install 'vllm>=0.33') "
    f"and set {VARIABLE}=DIR/bin/vllm where Kitserve is started"
)

ALIAS = "model"
"""What calls must name their model where the options say nothing: vLLM answers 404 for any other name."""

HOST_MEMORY = 4 * 1024**3
"""What its processes take of the machine's memory, measured with vLLM 0.32 on a CPU, rounded up."""

_LAUNCHER = "runtimes.engines.vllm_launcher"
_GPU_SHARE = 0.9  # of a GPU's memory, vLLM's own default
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of adapters, those that vLLM has room for
_GUESSES = 4  # tokens of a draft model

_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "TRANSFORMERS_OFFLINE": "1"}


def command() -> Path | None:
    """Return the `vllm` to run; None where there is none, or KITSERVE_VLLM=none says to do without.

    Raises LoadError where the variable names what cannot be run.
    """
    if name := os.environ.get(VARIABLE):
        if name == NONE:
            return None
        if not Path(name).is_file() or not os.access(name, os.X_OK):
            raise LoadError(f"{VARIABLE} is {name}, which is no program; {ADVICE}")
        return Path(name).absolute()
    beside = Path(sys.executable).with_name("vllm")
    return beside if find_spec("vllm") is not None and beside.is_file() else None


def arguments(model: HuggingFaceModel, resources: Resources, options: EngineOptions) -> list[str]:
    """Return the arguments of `vllm` for a model. Raises LoadError for options that it cannot have."""
    _refuse_unsupported(options)
    flags = [
        "serve",
        str(model.directory),
        *(() if model.tokenizer == model.directory else ("--tokenizer", str(model.tokenizer))),
        *("--uds", SOCKET),
        *("--max-model-len", str(context(model, options))),
        *("--max-num-seqs", str(options.slots)),
        *("--max-num-batched-tokens", str(max(options.batch, options.slots))),
        *("--generation-config", "auto"),
        *("--uvicorn-log-level", "warning"),
        "--enable-chunked-prefill",
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        "--disable-fastapi-docs",
        "--no-enable-log-requests",
        "--no-trust-remote-code",
        *_gpu(resources),
        *_name(options),
    ]
    if options.chat_template is not None:
        flags += ["--chat-template", options.chat_template]
    if options.draft is not None:
        draft = {"model": str(options.draft), "num_speculative_tokens": _GUESSES}
        flags += ["--speculative-config", json.dumps(draft)]
    if parser := _tool_parser(model, options):
        flags += ["--enable-auto-tool-choice", "--tool-call-parser", parser]
    return flags


def start(
    model: HuggingFaceModel, command: Path, resources: Resources, options: EngineOptions
) -> OpenAIChild:
    """Start vLLM, and return once it answers. Raises LoadError."""
    flags = arguments(model, resources, options)
    process = EngineProcess(
        python_module(_LAUNCHER),
        {"command": [str(command), *flags]},
        threads=resources.threads,
        environment=_ENVIRONMENT,
    )
    try:
        process.wait_ready()
    except BaseException:
        process.close()
        raise
    return OpenAIChild(
        process,
        platform="vllm_safetensors",
        device="cuda:0" if resources.gpus > 0 else "cpu",
        tasks=tasks(model, options),
        slots=options.slots,
        context=context(model, options),
        has_tools=bool(_tool_parser(model, options)),
    )


def _gpu(resources: Resources) -> list[str]:
    """Return the flags for a share of a GPU, and for several: vLLM uses those that its process sees."""
    flags = ["--tensor-parallel-size", str(int(resources.gpus))] if resources.gpus > 1 else []
    part = _GPU_SHARE * min(1.0, resources.gpus)
    if resources.gpus > 0 and resources.gpu_memory is not None and (total := cuda.total_bytes()):
        part = min(_GPU_SHARE, resources.gpu_memory / total)
    return flags if part in (0, _GPU_SHARE) else [*flags, "--gpu-memory-utilization", f"{part:.3f}"]


def _name(options: EngineOptions) -> list[str]:
    """Return the flags that name the model, or its adapter, which vLLM applies to calls that name it."""
    name = options.name or ALIAS
    if not options.adapters:
        return ["--served-model-name", name]
    [adapter] = options.adapters
    base = f"{name}.base"
    module = {"name": name, "path": str(adapter.path), "base_model_name": base}
    return [
        *("--served-model-name", base),
        "--enable-lora",
        *("--max-loras", "1"),
        *("--max-lora-rank", str(_rank(adapter))),
        *("--lora-modules", json.dumps(module)),
    ]


def _rank(adapter: Adapter) -> int:
    config = read_object(adapter.path / "adapter_config.json")
    rank, kind = config.get("r"), config.get("peft_type")
    ranks = [room for room in _RANKS if isinstance(rank, int) and 0 < rank <= room]
    if kind != "LORA" or not ranks:
        raise LoadError(
            f"adapter {adapter.path} is a {kind} of rank {rank}; vLLM takes LoRA adapters (LORA) of rank "
            f"1 to {_RANKS[-1]}"
        )
    return ranks[0]


def _tool_parser(model: HuggingFaceModel, options: EngineOptions) -> str:
    """Return the name of vLLM's parser for the model's calls of tools; "" where none is known."""
    responses = read_object(model.tokenizer / "tokenizer_config.json").get("response_template")
    if isinstance(responses, dict):
        return "response_template" if "tool_calls" in responses.get("fields", {}) else ""
    template = chat_template(model, options)
    is_tagged = "tools" in template and "<tool_call>" in template and "<function=" not in template
    return "hermes" if is_tagged else ""


def _refuse_unsupported(options: EngineOptions) -> None:
    """Raise LoadError for options that vLLM cannot have."""
    require_generation(options)
    if options.projector is not None:
        raise LoadError(
            f"{options.projector} is a projector, which only llama.cpp takes (GGUF); leave it out: vLLM "
            "finds what reads images in the model's own directory"
        )
    if options.draft is not None and not options.draft.is_dir():
        raise LoadError(f"{options.draft} is no directory of a draft model, as vLLM takes it")
    if len(options.adapters) > 1:
        raise LoadError("vLLM applies one adapter to a call: merge them into one, or serve without vLLM")
    for adapter in options.adapters:
        if not (adapter.path / "adapter_model.safetensors").is_file():
            raise LoadError(
                f"adapter {adapter.path} has no adapter_model.safetensors; adapters are served from "
                "safetensors only"
            )
        if adapter.scale != 1.0:
            raise LoadError(
                f"adapter {adapter.path} has scale {adapter.scale}, and vLLM applies adapters as they are: "
                "leave the scale out, or serve without vLLM"
            )

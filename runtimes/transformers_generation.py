"""Language models from safetensors: by vLLM on a GPU where that is installed, by transformers elsewhere.

Both run as a child process, see `runtimes.engines`. Nothing of a model's directory is run, and nothing is
fetched.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from runtimes.base import Resources, Runtime, Signature
from runtimes.engines import sockets, vllm
from runtimes.engines.base import DEFAULT_OPTIONS, EngineOptions, Memory, OpenAIModel, Outline
from runtimes.engines.openai_child import OpenAIChild
from runtimes.engines.process import EngineProcess, python_module
from runtimes.errors import LoadError
from runtimes.extras import install_command, missing_library
from runtimes.formats import Format
from runtimes.hugging_face import memory as hugging_face_memory
from runtimes.hugging_face import options as hugging_face_options
from runtimes.hugging_face.directory import HuggingFaceModel, read_directory

_SERVER = "runtimes.engines.transformers_server"
_EXTRA = "transformers"
_OLDEST = (5, 24)  # whose continuous batching the server uses
_PROCESS = 500 * 1024 * 1024  # measured: Python, torch and transformers take 460 MiB

_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # the last is of ARM
_CPUINFO = Path("/proc/cpuinfo")


class TransformersGenerationRuntime:
    """The runtime of directories with a model ForCausalLM; on a GPU it leaves them to vLLM."""

    name: ClassVar[str] = "transformers-generation"
    formats: ClassVar[tuple[Format, ...]] = (Format.HUGGING_FACE_GENERATION,)

    def __init__(self, *, may_use_vllm: bool = True) -> None:
        self._may_use_vllm = may_use_vllm

    def alone(self) -> Runtime:
        """Return the runtime that uses transformers on GPUs, too: for a config that says so."""
        return TransformersGenerationRuntime(may_use_vllm=False)

    def load(self, path: Path, resources: Resources) -> OpenAIModel:
        """Start the engine with the default options. Raises LoadError or UnsafeFormat."""
        return self.start(path, resources, DEFAULT_OPTIONS)

    def signature(self, path: Path) -> Signature | None:
        """Return None: such a model has no tensors. Raises LoadError for what cannot be one."""
        _readable(path)
        return None

    def memory(self, path: Path, options: EngineOptions) -> Memory:
        """Return what `start` takes on a CPU, from the headers. Raises LoadError or UnsafeFormat."""
        model = _readable(path)
        return hugging_face_memory.memory(model, options, _cpu_dtype(model), _PROCESS)

    def outline(self, path: Path, options: EngineOptions) -> Outline:
        """Return what `start` will make of the model. Raises LoadError or UnsafeFormat."""
        model = _readable(path)
        tasks = hugging_face_options.tasks(model, options)
        return Outline(tasks, hugging_face_options.context(model, options))

    def start(self, path: Path, resources: Resources, options: EngineOptions) -> OpenAIModel:
        """Start vLLM where it may be used and there is a GPU for it, else transformers.

        Raises LoadError or UnsafeFormat.
        """
        model = _readable(path)
        if self._may_use_vllm and resources.gpus > 0 and (command := vllm.command()) is not None:
            return vllm.start(model, command, resources, options)
        return _start(model, resources, options)


class VllmRuntime(TransformersGenerationRuntime):
    """The same, by vLLM or not at all: for a config that says so."""

    name: ClassVar[str] = "vllm"

    def alone(self) -> Runtime:
        """Return itself, which leaves nothing to transformers."""
        return self

    def start(self, path: Path, resources: Resources, options: EngineOptions) -> OpenAIModel:
        """Start vLLM. Raises LoadError, also where it is not installed, or UnsafeFormat."""
        model = _readable(path)
        command = vllm.command()
        if command is None:
            raise LoadError(f"{path} is to be served by vLLM, which is not here; {vllm.ADVICE}")
        return vllm.start(model, command, resources, options)

    def memory(self, path: Path, options: EngineOptions) -> Memory:  # noqa: ARG002 - all is on the GPU
        """Return what vLLM takes of the machine's memory: weights and cache are on the GPU."""
        _readable(path)
        return Memory(weights=0, other=vllm.HOST_MEMORY)


def _start(model: HuggingFaceModel, resources: Resources, options: EngineOptions) -> OpenAIChild:
    """Start the child that runs transformers, and return once it answers. Raises LoadError."""
    _require_transformers(model.directory)
    _refuse_unsupported(options)
    is_gpu = resources.gpus > 0
    context = hugging_face_options.context(model, options)
    process = EngineProcess(
        python_module(_SERVER),
        {
            "model": str(model.directory),
            "tokenizer": str(model.tokenizer),
            "name": options.name or model.directory.name,
            "dtype": hugging_face_memory.dtype(model, has_bf16=True) if is_gpu else _cpu_dtype(model),
            "device": "cuda" if is_gpu else "cpu",
            "threads": resources.threads,
            "context": context,
            "slots": options.slots,
            "batch": options.batch,
            "chat_template": options.chat_template,
            "adapters": [(str(adapter.path), adapter.scale) for adapter in options.adapters],
        },
        threads=resources.threads,
    )
    try:
        process.wait_ready()
        has_tools = _has_tools(process.socket)
    except BaseException:
        process.close()
        raise
    return OpenAIChild(
        process,
        platform="transformers_safetensors",
        device="cuda:0" if is_gpu else "cpu",
        tasks=hugging_face_options.tasks(model, options),
        slots=options.slots,
        context=context,
        has_tools=has_tools,
        can_score=True,
    )


def _has_tools(socket: Path) -> bool:
    """Ask the loaded model whether its template knows tools. Raises LoadError."""
    connection = sockets.UnixConnection(socket, timeout=10)
    try:
        connection.request("GET", "/health")
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return bool(answer["has_tools"])
    except (OSError, ValueError, KeyError) as error:
        raise LoadError(f"the engine answered, and then did not: {error!r}") from error
    finally:
        connection.close()


def _readable(path: Path) -> HuggingFaceModel:
    model = read_directory(path)
    if model.format is not Format.HUGGING_FACE_GENERATION:
        raise LoadError(f"{path} generates no text: it is for {model.pipeline}")
    return model


def _require_transformers(path: Path) -> None:
    """Raise LoadError unless a transformers is installed that can serve."""
    for package in ("transformers", "peft"):
        try:
            installed = version(package)
        except PackageNotFoundError as error:
            raise missing_library(path, package, _EXTRA) from error
        numbers = tuple(int(part) for part in installed.split(".")[:2] if part.isdecimal())
        if package == "transformers" and numbers < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            raise LoadError(
                f"{path} needs transformers {oldest} or later, and {installed} is here: "
                f"{install_command(_EXTRA)}"
            )


def _refuse_unsupported(options: EngineOptions) -> None:
    """Raise LoadError for options that transformers' engine does not know."""
    hugging_face_options.require_generation(options)
    for name, file in (("projector", options.projector), ("draft", options.draft)):
        if file is not None:
            raise LoadError(
                f"{file} is a {name}, which only llama.cpp takes (GGUF); leave it out, or serve a GGUF file"
            )
    for adapter in options.adapters:
        if not adapter.path.is_dir():
            raise LoadError(
                f"{adapter.path} is an adapter that is no directory of PEFT's; an adapter of GGUF is for a "
                "model of GGUF, and this one is of safetensors"
            )


def _cpu_dtype(model: HuggingFaceModel) -> str:
    """Return the datatype to compute in on this machine's CPU."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hugging_face_memory.dtype(model, has_bf16=not _BF16_FLAGS.isdisjoint(flags.split()))

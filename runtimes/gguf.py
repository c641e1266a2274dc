"""GGUF models on llama.cpp, which runs as a child process."""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from runtimes import gguf_file, gguf_kinds, gguf_memory
from runtimes.base import Resources, Signature
from runtimes.engines import sockets
from runtimes.engines.base import DEFAULT_OPTIONS, EngineOptions, Memory, Outline
from runtimes.engines.llama_server import DEVICE, EMBEDDING, GENERATION, RERANK
from runtimes.engines.process import EngineProcess, python_module
from runtimes.engines.task import Task
from runtimes.errors import LoadError
from runtimes.formats import Format
from runtimes.gguf_file import GgufFile

_SERVER = "runtimes.engines.llama_server"
_DEFAULT_CONTEXT = 4_096
# Larger ones are no faster on CPUs, and other calls, and hang-ups, wait for their end.
_CPU_BATCH = 128
_TEMPLATE = "tokenizer.chat_template"

# What llama.cpp says of every failure after its reason.
_FOLLOWING = ("failed to load model", "exiting due to model loading error")

_NO_DRAFT = "failed to initialize speculative decoding context"

# What the wheels of xllamacpp are compiled for, by the names of /proc/cpuinfo.
_INSTRUCTIONS = ("avx2", "fma", "f16c", "bmi2")
_CPUINFO = Path("/proc/cpuinfo")

_POLICY = "OMP_WAIT_POLICY"

# Where a build for GPUs must not use any.
_NO_GPUS = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "GGML_VK_VISIBLE_DEVICES": ""}


class GgufRuntime:
    """Loads GGUF files, one or split, in a process of their own."""

    name: ClassVar[str] = "gguf"
    formats: ClassVar[tuple[Format, ...]] = (Format.GGUF,)

    def load(self, path: Path, resources: Resources) -> LlamaModel:
        """Start llama.cpp with the default options. Raises LoadError."""
        return self.start(path, resources, DEFAULT_OPTIONS)

    def signature(self, path: Path) -> Signature | None:  # noqa: ARG002
        """Return None: texts go in and out."""
        return None

    def check(self, path: Path) -> GgufFile:
        """Return the header of the model's file. Raises LoadError where it cannot be served."""
        return _model(path)[0]

    def memory(self, path: Path, options: EngineOptions) -> Memory:
        """Return what `start` will take, with the projector, the draft model and the adapters."""
        files = _model(path)
        plan = _Plan(files[0], options)
        memory = plan.memory(files)
        if options.draft is not None:
            draft = plan.draft_memory(_model(options.draft))
            memory = Memory(
                memory.weights + draft.weights, memory.cache + draft.cache, memory.other + draft.other
            )
        paths = [adapter.path for adapter in options.adapters]
        if options.projector is not None:
            paths.append(options.projector)
        beside = sum(gguf_file.read(path).data_bytes for path in paths)
        return replace(memory, weights=memory.weights + beside)

    def outline(self, path: Path, options: EngineOptions) -> Outline:
        """Return what the model can be asked for, and its context, as `start` will have them."""
        file = self.check(path)
        _check_companions(file, options)
        plan = _Plan(file, options)
        return Outline(plan.tasks, plan.context)

    def start(self, path: Path, resources: Resources, options: EngineOptions) -> LlamaModel:
        """Start llama.cpp on the model, and return once it answers. Raises LoadError."""
        file = _model(path)[0]
        plan = _Plan(file, options)
        _check_companions(file, options)
        _check_cpu(path)
        process = EngineProcess(
            python_module(_SERVER),
            plan.arguments(resources),
            threads=resources.threads,
            environment=variables(resources),
        )
        try:
            process.wait_ready()
            _check_draft(process)
            return LlamaModel(process, plan, _facts(process))
        except LoadError as error:
            reason = _reason(process.log.text) or str(error)
            process.close()
            raise LoadError(f"llama.cpp refuses {path}: {reason}") from error
        except BaseException:
            process.close()
            raise


class LlamaModel:
    """A model that llama.cpp serves; see `OpenAIModel`."""

    platform = "llamacpp_gguf"

    def __init__(self, process: EngineProcess, plan: _Plan, facts: dict[str, Any]) -> None:
        self.device = device(process.log.text)
        self.tasks = plan.tasks
        self.socket = process.socket
        self.pid = process.pid
        self.slots: int = facts["total_slots"]
        self.context: int = facts["default_generation_settings"]["n_ctx"]
        self.has_tools: bool = Task.CHAT in plan.tasks and facts["chat_template_caps"]["supports_tools"]
        self._process = process

    def is_alive(self) -> bool:
        """Whether its process still runs."""
        return self._process.is_alive()

    def failure(self) -> str:
        """Return why its process ended, with the end of its log; "" while it runs."""
        return self._process.failure()

    def close(self) -> None:
        """End the process. Closing twice does no harm."""
        self._process.close()


class _Plan:
    """How a model is to be run, of what its file and the options say."""

    def __init__(self, file: GgufFile, options: EngineOptions) -> None:
        self.file = file
        self.options = options
        template = file.text(_TEMPLATE) if options.chat_template is None else options.chat_template
        self.tasks = gguf_kinds.tasks(file, options.task, bool(template))
        trained = gguf_kinds.context_of(file) or _DEFAULT_CONTEXT
        # llama.cpp cuts a larger one down to what the model was trained with.
        self.context = min(gguf_memory.padded(options.context or _DEFAULT_CONTEXT), trained)
        # A text that becomes one vector is computed at once.
        self.batch = min(options.batch, self.context) if self.is_causal else self.context

    @property
    def is_causal(self) -> bool:
        """Whether it writes text."""
        return Task.COMPLETION in self.tasks

    def memory(self, files: tuple[GgufFile, ...]) -> Memory:
        """Return the memory of the model itself."""
        return gguf_memory.estimate(files, self.context, self.options.slots, self.batch, self.is_causal)

    def draft_memory(self, files: tuple[GgufFile, ...]) -> Memory:
        """Return the memory of a draft model, which has as much context."""
        return gguf_memory.estimate(files, self.context, self.options.slots, self.batch, is_causal=True)

    def arguments(self, resources: Resources) -> dict[str, object]:
        """Return the options of `runtimes.engines.llama_server`."""
        options = self.options
        mode = GENERATION if self.is_causal else RERANK if Task.RERANK in self.tasks else EMBEDDING
        return {
            "path": _absolute(self.file.path),
            "name": options.name or self.file.text("general.name") or self.file.path.stem,
            "context": gguf_memory.padded(self.context),
            "slots": options.slots,
            "batch": self._batch(resources),
            "threads": resources.threads,
            "has_gpu": resources.gpus > 0,
            "mode": mode,
            "has_pooling": gguf_kinds.has_pooling(self.file),
            "chat_template": options.chat_template,
            "projector": options.projector and _absolute(options.projector),
            "draft": options.draft and _absolute(options.draft),
            "adapters": [(_absolute(adapter.path), adapter.scale) for adapter in options.adapters],
        }

    def _batch(self, resources: Resources) -> int:
        # An image is computed at once, too.
        is_bounded = self.is_causal and self.options.projector is None and resources.gpus <= 0
        return min(self.batch, _CPU_BATCH) if is_bounded else self.batch


def _model(path: Path) -> tuple[GgufFile, ...]:
    """Return the parts of the model at `path`. Raises LoadError where it is none."""
    file = gguf_file.read(path)
    if kind := gguf_kinds.kind(file):
        raise LoadError(f"{path} is {kind}, and no model: pack it beside the model that it belongs to")
    files = gguf_kinds.parts(file)
    if not file.architecture:
        raise LoadError(
            f"{path} does not say its architecture (general.architecture): convert the model again"
        )
    if gguf_kinds.context_of(file) is None:
        raise LoadError(
            f"{path} does not say how many tokens it takes ({file.own('context_length')}): it is damaged"
        )
    return files


def _check_companions(file: GgufFile, options: EngineOptions) -> None:
    """Raise LoadError where an adapter or the projector is something else, or another model's."""
    if options.projector is not None:
        _check_kind(options.projector, gguf_kinds.PROJECTOR)
    for adapter in options.adapters:
        if adapter.path.is_dir():
            raise LoadError(
                f"{adapter.path} is an adapter of PEFT, and a GGUF model takes adapters in GGUF only: "
                "convert it with llama.cpp's convert_lora_to_gguf.py"
            )
        other = _check_kind(adapter.path, gguf_kinds.ADAPTER)
        if other.architecture != file.architecture:
            raise LoadError(
                f"the adapter {adapter.path} is one for {other.architecture or 'no architecture'}, and "
                f"{file.path} is {file.architecture}: name the base that it was trained on"
            )
    if options.draft is not None:
        draft = _model(options.draft)[0]
        if gguf_kinds.vocabulary(draft)[0] != gguf_kinds.vocabulary(file)[0]:
            raise LoadError(f"{options.draft} is no draft model for {file.path}: their vocabularies differ")


def _check_kind(path: Path, expected: str) -> GgufFile:
    file = gguf_file.read(path)
    kind = gguf_kinds.kind(file)
    if kind != expected:
        raise LoadError(f"{path} is {kind or 'a model'}, and not {expected}")
    return file


def _check_cpu(path: Path) -> None:
    """Raise LoadError where this CPU would stop the engine at an instruction that it does not have."""
    if platform.machine() != "x86_64":
        return
    try:
        text = _CPUINFO.read_text()
    except OSError:
        return
    flags = {*text.partition("flags")[2].partition("\n")[0].split()}
    missing = [name.upper() for name in _INSTRUCTIONS if flags and name not in flags]
    if missing:
        raise LoadError(
            f"{path} needs {', '.join(missing)}, which this CPU does not have: use a newer one, or have "
            "xllamacpp compiled here (pip install --no-binary xllamacpp xllamacpp)"
        )


def variables(resources: Resources) -> dict[str, str]:
    """Return the variables of the engine beside those of every engine."""
    # llama.cpp runs a debugger on itself when it aborts, where there is one.
    own = {"GGML_NO_BACKTRACE": "1"}
    if resources.gpus <= 0:
        own |= _NO_GPUS
    if policy := os.environ.get(_POLICY):
        own[_POLICY] = policy
    elif resources.threads >= len(os.sched_getaffinity(0)):
        # Threads that wait for one another by spinning stand still where other processes want the cores, too.
        own[_POLICY] = "passive"
    return own


def _facts(process: EngineProcess) -> dict[str, Any]:
    """Return what the engine says of itself. Raises LoadError."""
    connection = sockets.UnixConnection(process.socket, 30.0)
    try:
        connection.request("GET", "/props")
        facts: dict[str, Any] = json.loads(connection.getresponse().read())
    except (OSError, ValueError) as error:
        raise LoadError(process.failure() or f"it does not tell its properties: {error}") from error
    finally:
        connection.close()
    return facts


def _check_draft(process: EngineProcess) -> None:
    """Raise LoadError where the engine goes on without the draft model that it was given."""
    if _NO_DRAFT in process.log.text:
        raise LoadError("the draft model does not fit")


def device(log: str) -> str:
    """Return what computes, such as `cuda:0`, by the line of it in an engine's log; without one, `cpu`."""
    match = re.search(rf"^{DEVICE}([A-Za-z]+)(\d*)$", log, re.M)
    return "cpu" if match is None else f"{match[1].lower()}:{match[2] or 0}"


def _reason(log: str) -> str:
    """Return the first errors of a log of llama.cpp, without their times; "" where there are none."""
    errors: list[str] = []
    for line in log.splitlines():
        _, is_error, text = line.partition(" E ")
        # The name of a function comes first.
        text = text.partition(": ")[2] or text
        if is_error and text not in errors:
            errors.append(text)
    reasons = [text for text in errors if text not in _FOLLOWING] or errors
    return "; ".join(reasons[:2])


def _absolute(path: Path) -> str:
    return str(path.absolute())

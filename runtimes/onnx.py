"""ONNX models on ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from runtimes import (
    cuda,
    onnx_activations,
    onnx_advice,
    onnx_bf16,
    onnx_binding,
    onnx_external,
    onnx_file,
    onnx_providers,
)
from runtimes.base import Array, Datatype, Resources, Signature
from runtimes.device_errors import device_failure
from runtimes.errors import (
    DeviceOutOfMemory,
    ExecutionError,
    InputError,
    Interrupted,
    LoadError,
    ModelError,
)
from runtimes.formats import Format
from runtimes.input_check import InputCheck, unknown_output
from runtimes.onnx_outputs import source_of
from runtimes.signature import CPU_ADVICE

_LOG_ERRORS = 3  # onnxruntime's severity "error"
_RUNS_AT_ONCE = 2
_INVALID = "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT"

# The operator sets of ONNX Runtime; custom operators are a native library, which is never loaded.
_DOMAINS = ("", "ai.onnx", "com.microsoft", "com.ms")


class OnnxRuntime:
    """Loads ONNX files: onto a GPU where one is asked for, else the CPU."""

    name: ClassVar[str] = "onnx"
    formats: ClassVar[tuple[Format, ...]] = (Format.ONNX,)

    def load(self, path: Path, resources: Resources) -> OnnxModel:
        """Load the file and the external data beside it. Raises LoadError."""
        file = self.check(path)
        return OnnxModel(_session(path, resources), file)

    def check(self, path: Path) -> onnx_file.OnnxFile:
        """Return what the file declares. Raises LoadError where it cannot be served, whatever the engine."""
        onnx_advice.check(path)
        file = onnx_file.read(path)
        onnx_external.check_external(path, file.external)
        custom = sorted(domain for domain in file.foreign_domains if not _is_built_in(domain))
        if custom:
            raise LoadError(f"{path} uses custom operators of {', '.join(custom)}; export it without them")
        inputs = {spec.datatype for spec in file.signature.all_inputs}
        if Datatype.BYTES in inputs and _has_bf16(file.signature):
            raise LoadError(
                f"{path} has both strings and BF16, which ONNX Runtime's Python interface does not take; "
                "export it with FP32"
            )
        if file.composed and _has_bf16(file.signature):
            raise LoadError(
                f"{path} has BF16, and outputs that are sequences or maps, which ONNX Runtime's Python "
                "interface does not give together; export it with FP32"
            )
        return file

    def signature(self, path: Path) -> Signature:
        """Return what the file declares. Raises LoadError."""
        return onnx_file.read(path).signature

    def activations(self, path: Path, rows: int, length: int) -> int | None:
        """Return the bytes of a call beside weights; see `EstimatingRuntime`."""
        return onnx_activations.activations(path, rows, length)


class OnnxModel:
    """A session of ONNX Runtime. `infer` may be called by several threads at once."""

    platform = "onnxruntime_onnx"

    def __init__(self, session: Any, file: onnx_file.OnnxFile) -> None:
        signature = self.signature = file.signature
        self.provider: str = session.get_providers()[0]
        self.device = "cuda:0" if onnx_providers.CUDA in session.get_providers() else "cpu"
        # On CPUs, one call has all the threads.
        self.runs_at_once = 1 if self.device == "cpu" else _RUNS_AT_ONCE
        self._run: onnx_bf16.Run = session.run
        if _has_bf16(signature):
            self._run = onnx_bf16.runner(session)
        elif self.device != "cpu":
            self._bind(session)
        self._check = InputCheck(signature)
        self._run_options = _run_options()
        # Those of runs that follow one without memory.
        self._shrinking: Any = None
        self._outputs = list(file.output_names)
        self._composed = {output.name: output for output in file.composed}
        self._strings = _strings(signature) - self._composed.keys()

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Run the model; see `TensorModel.infer`."""
        self._check(inputs)
        names = self._outputs
        if outputs:
            names = list(outputs) if not self._composed else self._sources(outputs)
            for name in names:
                if name not in self._outputs:
                    raise unknown_output(name, self._outputs)
        feed = dict(inputs) if not self._strings else self._with_text(inputs)
        options = self._run_options
        try:
            results = dict(zip(names, self._run(names, feed, options), strict=True))
        except Exception as error:
            if options.terminate:
                raise Interrupted("the call was ended while the model computed it") from error
            if self.device != "cpu" and isinstance(device_failure(error), DeviceOutOfMemory):
                self._shrinking = self._run_options = onnx_providers.shrink_after(_run_options())
            raise _run_error(error) from error
        if options is self._shrinking:
            self._run_options = _run_options()
        for name in self._strings.intersection(names):
            results[name] = _to_bytes(results[name])
        if self._composed or [None for value in results.values() if value is None]:
            return self._flat(results, outputs)
        return results

    def interrupt(self) -> None:
        """End the calls that run now; see `InterruptibleModel.interrupt`."""
        # Later calls have other options, which do not say so.
        ended, self._run_options = self._run_options, _run_options()
        ended.terminate = True

    def close(self) -> None:
        """Free the session."""
        self._run = _closed

    def _bind(self, session: Any) -> None:
        """Run with page-locked buffers from now on, where there is CUDA's runtime library."""
        with contextlib.suppress(OSError):
            self._run = onnx_binding.bound(session, cuda.PinnedMemory().allocate)

    def _sources(self, outputs: Sequence[str]) -> list[str]:
        """Return the file's outputs that the tensors called `outputs` are made of."""
        return list(dict.fromkeys(source_of(name, self._composed) or name for name in outputs))

    def _flat(self, results: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Array]:
        """Return all tensors, or those that are named, of results that are maps, sequences or missing."""
        tensors: dict[str, Array] = {}
        for name, value in results.items():
            if name in self._composed:
                tensors |= self._composed[name].tensors(value)
            elif value is not None:
                tensors[name] = value
        tensors = {name: _to_bytes(a) if a.dtype.kind == "O" else a for name, a in tensors.items()}
        for name in outputs:
            if name not in tensors:
                raise unknown_output(name, tuple(tensors))
        return {name: tensors[name] for name in outputs or tensors}

    def _with_text(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {name: _to_text(name, a) if name in self._strings else a for name, a in inputs.items()}


def _session(path: Path, resources: Resources) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise LoadError(f"{path} needs ONNX Runtime: pip install onnxruntime ({error})") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = resources.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS
    # An arena gives nothing back: one large call would leave too little of a bounded memory for all others.
    options.enable_cpu_mem_arena = resources.memory is None
    # idle threads that spin would take the cores of the other replicas
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if resources.gpus <= 0:
        return _open(ort, path, options, [(onnx_providers.CPU, {})])
    if onnx_providers.CUDA not in ort.get_available_providers():
        trouble = f"ONNX Runtime {ort.__version__} is built without CUDA"
        raise _without_gpu(path, trouble, "onnxruntime-gpu")
    messages = io.StringIO()
    with contextlib.redirect_stdout(messages):
        # Those of NVIDIA's wheels, which PyTorch brings; what it cannot load it prints.
        ort.preload_dlls()
    providers = onnx_providers.providers(ort.get_available_providers(), resources)
    session = _open(ort, path, options, providers)
    if onnx_providers.missing(providers, session.get_providers()):
        # It falls back to others by itself, and writes the reason to standard error.
        trouble = onnx_providers.trouble(ort, messages.getvalue())
        raise _without_gpu(path, trouble, "the driver, CUDA and cuDNN that it needs")
    return session


def _open(ort: Any, path: Path, options: Any, providers: list[onnx_providers.Provider]) -> Any:
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        text = str(error).strip()
        if (advice := onnx_advice.advice(text)) is not None:
            raise LoadError(f"{path} {advice} (ONNX Runtime {ort.__version__}: {text})") from error
        raise LoadError(f"ONNX Runtime {ort.__version__} refuses {path}: {text}") from error


def _run_options() -> Any:
    """Return the options of runs that go on to their end."""
    import onnxruntime as ort

    return ort.RunOptions()


def _without_gpu(path: Path, trouble: str, needed: str) -> LoadError:
    return LoadError(f"{path} is to run on a GPU, and {trouble}; install {needed}, or {CPU_ADVICE}")


def _is_built_in(domain: str) -> bool:
    return domain in _DOMAINS or domain.startswith(tuple(f"{parent}." for parent in _DOMAINS if parent))


def _has_bf16(signature: Signature) -> bool:
    return any(spec.datatype == Datatype.BF16 for spec in signature.all_inputs + signature.outputs)


def _strings(signature: Signature) -> frozenset[str]:
    specs = signature.all_inputs + signature.outputs
    return frozenset(spec.name for spec in specs if spec.datatype == Datatype.BYTES)


def _run_error(error: Exception) -> Exception:
    """Return InputError for a tensor that the session refused, ExecutionError for a node that failed."""
    if isinstance(error, ModelError):
        return error
    text = str(error)
    # With bound tensors, all errors are of one type.
    is_invalid = type(error).__name__ == "InvalidArgument" or _INVALID in text
    is_refusal = is_invalid and "while running" not in text
    return InputError(text) if is_refusal else ExecutionError(f"the model failed: {error}")


def _to_text(name: str, array: Array) -> Array:
    """Decode bytes to `str`, as the engine takes strings; ONNX strings are UTF-8."""
    flat = array.reshape(-1).tolist()
    try:
        decoded = [item.decode() if isinstance(item, bytes) else item for item in flat]
    except UnicodeDecodeError as error:
        raise InputError(f"input {name!r} holds bytes that are not UTF-8: {error}") from error
    return np.array(decoded, dtype=object).reshape(array.shape)


def _to_bytes(array: Array) -> Array:
    encoded = [item.encode() if isinstance(item, str) else item for item in array.reshape(-1).tolist()]
    return np.array(encoded, dtype=object).reshape(array.shape)


def _closed(_names: list[str], _feed: dict[str, Array], _options: object) -> list[Array]:
    raise ExecutionError("the model is closed")

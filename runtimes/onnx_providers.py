"""Execution providers of ONNX Runtime on a GPU: their options, and why one was not loaded.

Options are those of https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html and of
https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runtimes import cuda
from runtimes.base import Resources
from runtimes.gpu_libraries import wanted_and_found

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

Provider = tuple[str, dict[str, str]]
"""A provider's name and its options."""

_MIB = 1024 * 1024
_WORKSPACE_BYTES = 1024 * _MIB
_WORKSPACE_PART = 4
# The packages on PyPI that carry TensorRT's libraries, and the library where the system has it.
_TENSORRT_PACKAGES = ("tensorrt_libs", "tensorrt_cu13_libs", "tensorrt_cu12_libs")
_TENSORRT_LIBRARY = "libnvinfer.so.10"
# ONNX Runtime does not tell it; by the table of requirements of its CUDA provider, since 1.18.1.
_CUDNN = "9"
_SHRINK = "memory.enable_memory_arena_shrinkage"


def providers(installed: Collection[str], resources: Resources) -> list[Provider]:
    """Return the providers for a worker's GPU, the preferred one first.

    `installed` are those of this ONNX Runtime. TensorRT is used where its libraries are here and the worker
    has a directory for engines, as one takes minutes to build.
    """
    share = cuda.share_bytes(resources, cuda.total_bytes)
    chosen = [(CUDA, cuda_options(share)), (CPU, {})]
    if TENSORRT in installed and resources.engine_cache is not None and has_tensorrt():
        chosen.insert(0, (TENSORRT, tensorrt_options(resources.engine_cache, share)))
    return chosen


def cuda_options(share: int | None) -> dict[str, str]:
    """Return the options of the CUDA provider for a worker that may use `share` bytes of its GPU.

    With None it may use all of it. The GPU is the first that the process sees.
    """
    options = {
        "device_id": "0",
        # The search that tries all algorithms does so for each new shape, and batches have many.
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
    }
    if share is None:
        return options
    return {
        **options,
        "gpu_mem_limit": str(cuda.engine_bytes(share)),
        # The other strategy doubles what it takes, and so gets nothing long before the bound.
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_use_max_workspace": "0",
    }


def tensorrt_options(engines: Path, share: int | None) -> dict[str, str]:
    """Return the options of the TensorRT provider, which keeps what it builds in the directory `engines`."""
    workspace = _WORKSPACE_BYTES if share is None else min(_WORKSPACE_BYTES, share // _WORKSPACE_PART)
    return {
        "device_id": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(engines),
        "trt_max_workspace_size": str(workspace),
    }


def has_tensorrt() -> bool:
    """Tell whether TensorRT's libraries are on this machine; ONNX Runtime lists its provider without them."""
    return any(map(find_spec, _TENSORRT_PACKAGES)) or cuda.load_failure(_TENSORRT_LIBRARY) == ""


def missing(requested: Iterable[Provider], loaded: Collection[str]) -> list[str]:
    """Return which of the requested providers a session does not have."""
    return [name for name, _ in requested if name not in loaded]


def trouble(ort: Any, messages: str = "") -> str:
    """Return why the CUDA provider was not loaded, and which versions it wants and which were found.

    `messages` is what ONNX Runtime printed when it loaded CUDA's libraries.
    """
    versions = wanted_and_found({"CUDA": getattr(ort, "cuda_version", "") or "", "cuDNN": _CUDNN})
    return f"{_reason(ort, messages)}; it {versions}"


def shrink_after(options: Any) -> Any:
    """Have a run give back what it leaves unused of the arena, which otherwise keeps all."""
    options.add_run_config_entry(_SHRINK, "gpu:0")
    return options


def _reason(ort: Any, messages: str) -> str:
    built_for = getattr(ort, "cuda_version", "")
    name = f"ONNX Runtime {ort.__version__}" + (f", built for CUDA {built_for}," if built_for else "")
    if reason := cuda.driver_trouble():
        return f"{name} finds no usable GPU ({reason})"
    directory = Path(ort.__file__).parent / "capi"
    cuda.load_failure(directory / "libonnxruntime_providers_shared.so", mode=ctypes.RTLD_GLOBAL)
    if reason := cuda.load_failure(directory / "libonnxruntime_providers_cuda.so"):
        return f"{name} could not load its CUDA provider ({reason})"
    reason = " ".join(messages.split())
    return f"{name} could not load its CUDA provider ({reason or 'its message is in the log of the worker'})"

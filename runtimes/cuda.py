"""CUDA's own libraries, as far as they are called without an engine: the driver, and page-locked memory."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.base import Array, Resources

_DRIVER = "libcuda.so.1"
_RUNTIMES = ("libcudart.so.13", "libcudart.so.12")
_MIB = 1024 * 1024
CONTEXT_BYTES = 512 * _MIB
"""What CUDA's context, cuBLAS and cuDNN take of a GPU in each process, about."""
_SMALLEST_BYTES = 64 * _MIB

Load = Callable[[str], Any]
"""Loads a library by its name, as `ctypes.CDLL` does. Raises OSError."""


def load_failure(name: str | Path, mode: int = ctypes.DEFAULT_MODE) -> str:
    """Return why a library cannot be loaded, "" where it can, and is from now on."""
    try:
        ctypes.CDLL(str(name), mode=mode)
    except OSError as error:
        return str(error)
    return ""


def engine_bytes(share: int) -> int:
    """Return how many bytes an engine may allocate, where its process may use `share` bytes of the GPU."""
    return max(share - CONTEXT_BYTES, share // 2, _SMALLEST_BYTES)


def share_bytes(resources: Resources, total: Callable[[], int | None]) -> int | None:
    """Return how many bytes of its GPU a worker may use; None: all of them.

    Args:
        resources: what it may use; a part of a GPU is a part of its memory, where that is not given in bytes.
        total: returns the bytes of the GPU, None where nobody knows.
    """
    if resources.gpu_memory is not None or resources.gpus >= 1:
        return resources.gpu_memory
    size = total()
    return None if size is None else int(size * resources.gpus)


def total_bytes(load: Load = ctypes.CDLL) -> int | None:
    """Return the memory of the first GPU that this process sees; None where the driver does not tell."""
    if driver_trouble(load):
        return None
    driver, device, size = load(_DRIVER), ctypes.c_int(), ctypes.c_size_t()
    if driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceTotalMem_v2(ctypes.byref(size), device):
        return None
    return size.value


def driver_trouble(load: Load = ctypes.CDLL) -> str:
    """Return why NVIDIA's driver offers no GPU to this process, "" where it offers one."""
    try:
        driver = load(_DRIVER)
    except OSError as error:
        return f"no driver: {error}"
    status = driver.cuInit(0)
    if status:
        return f"cuInit: {_text(driver, status)}"
    count = ctypes.c_int()
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status:
        return f"cuDeviceGetCount: {_text(driver, status)}"
    return "" if count.value else "no CUDA-capable device is visible"


def driver_version(load: Load = ctypes.CDLL) -> str:
    """Return the newest CUDA that the driver supports, such as "13.0"; "" where there is no driver."""
    try:
        driver = load(_DRIVER)
    except OSError:
        return ""
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)):
        return ""
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


class PinnedMemory:
    """Page-locked memory of this machine, which a GPU copies from and to without a detour.

    Raises OSError where CUDA's runtime library cannot be loaded.
    """

    def __init__(self, load: Load = ctypes.CDLL) -> None:
        self._runtime = _first(load)

    def allocate(self, size: int) -> Array | None:
        """Return so many bytes, which are freed with the last array of them; None where there are none."""
        pointer = ctypes.c_void_p()
        if self._runtime.cudaHostAlloc(ctypes.byref(pointer), ctypes.c_size_t(size), 0):
            self._runtime.cudaGetLastError()  # so that no engine takes it for its own
            return None
        pages: Any = (ctypes.c_ubyte * size).from_address(pointer.value or 0)
        weakref.finalize(pages, self._runtime.cudaFreeHost, pointer).atexit = False
        array: Array = np.frombuffer(pages, np.uint8)
        return array


def _first(load: Load) -> Any:
    failure = OSError("no name")
    for name in _RUNTIMES:
        try:
            return load(name)
        except OSError as error:
            failure = error
    raise failure


def _text(driver: Any, status: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorString(status, ctypes.byref(text))
    return f"{text.value.decode() if text.value else 'an error'} ({status})"

"""CUDA's libraries as far as `runtimes.cuda` calls them, on the memory of this machine."""

from __future__ import annotations

import ctypes
from typing import Any


class FakeRuntime:
    """CUDA's runtime library; it has `memory` bytes of page-locked memory."""

    def __init__(self, memory: int = 1 << 30) -> None:
        self.memory = memory
        self.held: dict[int, Any] = {}

    def cudaHostAlloc(self, pointer: Any, size: ctypes.c_size_t, _flags: int) -> int:  # noqa: N802
        if size.value > self.memory:
            return 2
        block = ctypes.create_string_buffer(size.value)
        self.memory -= size.value
        address = ctypes.addressof(block)
        self.held[address] = block
        pointer._obj.value = address
        return 0

    def cudaFreeHost(self, pointer: ctypes.c_void_p) -> int:  # noqa: N802
        self.memory += len(self.held.pop(pointer.value or 0))
        return 0

    def cudaGetLastError(self) -> int:  # noqa: N802
        return 0


class FakeDriver:
    """The driver; `status` is what it answers to all, `devices` how many GPUs it has, of `memory` bytes."""

    def __init__(self, devices: int = 1, status: int = 0, memory: int = 1 << 33) -> None:
        self.memory = memory
        self.devices = devices
        self.status = status

    def cuInit(self, _flags: int) -> int:  # noqa: N802
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.devices
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:  # noqa: N802
        device._obj.value = number
        return self.status

    def cuDeviceTotalMem_v2(self, size: Any, _device: Any) -> int:  # noqa: N802
        size._obj.value = self.memory
        return self.status

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = 13020
        return self.status

    def cuGetErrorString(self, _status: int, text: Any) -> int:  # noqa: N802
        text._obj.value = b"no CUDA-capable device is detected"
        return 0


def nowhere(name: str) -> Any:
    """Load no library."""
    raise OSError(f"{name}: cannot open shared object file")

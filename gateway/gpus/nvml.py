"""The GPUs of this machine, as NVIDIA's management library (NVML) tells of them, through nvidia-ml-py.

NVML tells of all GPUs, whatever CUDA_VISIBLE_DEVICES says. In a container, it may tell of no processes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

from gateway.gpus.devices import THROTTLE_REASONS, Gpu, Gpus, MigSlice

_T = TypeVar("_T")
_PERCENT = 100.0
_MILLI = 1000.0  # NVML counts milliwatts
_NO_DRIVER = "no driver of NVIDIA's is installed"
# The bit of the first reason; 1 is an idle GPU, which nothing slows down.
_FIRST_REASON = 0x002


class Nvml:
    """NVML, which is opened once and stays open; `library` has the calls of nvidia-ml-py.

    Absent, that is imported. Any thread may read.
    """

    def __init__(self, library: ModuleType | None = None) -> None:
        self._library: Any = library
        self._lock = threading.Lock()
        self._is_open = False

    def read(self) -> Gpus:
        """Return all GPUs as they are now; none, and why, where there is no driver."""
        with self._lock:
            try:
                self._open()
            except ImportError:
                return Gpus(trouble="nvidia-ml-py is not installed")
            except OSError as error:
                return Gpus(trouble=f"NVML cannot be loaded: {error}")
            except self._library.NVMLError as error:
                is_missing = error.value == self._library.NVML_ERROR_LIBRARY_NOT_FOUND
                return Gpus(trouble=_NO_DRIVER if is_missing else f"NVML says: {error}")
            return self._read()

    def _open(self) -> None:
        if self._is_open:
            return
        if self._library is None:
            import pynvml

            self._library = pynvml
        self._library.nvmlInit()
        self._is_open = True

    def _read(self) -> Gpus:
        library = self._library
        driver, cuda = self._tell(library.nvmlSystemGetDriverVersion), self._cuda()
        try:
            handles = self._handles(library.nvmlDeviceGetCount(), library.nvmlDeviceGetHandleByIndex)
            gpus = tuple(self._gpu(index, handle) for index, handle in handles)
        except library.NVMLError as error:
            # A driver that was replaced answers no more: the next read opens it again.
            self._is_open = False
            return Gpus((), _text(driver), cuda, f"NVML says: {error}")
        return Gpus(gpus, _text(driver), cuda)

    def _cuda(self) -> str:
        number = self._tell(self._library.nvmlSystemGetCudaDriverVersion)
        return "" if number is None else f"{number // 1000}.{number % 1000 // 10}"

    def _handles(self, count: int, handle: Callable[[int], Any]) -> Iterator[tuple[int, Any]]:
        """Yield devices by index; one that is lost or not permitted is left out."""
        for index in range(count):
            device = self._tell(partial(handle, index))
            if device is not None:
                yield index, device

    def _gpu(self, index: int, handle: Any) -> Gpu:
        library, tell = self._library, self._tell
        total, free = self._memory(handle)
        rates = tell(partial(library.nvmlDeviceGetUtilizationRates, handle))
        power = tell(partial(library.nvmlDeviceGetPowerUsage, handle))
        limit = tell(partial(library.nvmlDeviceGetEnforcedPowerLimit, handle))
        mode = tell(partial(library.nvmlDeviceGetMigMode, handle))
        is_mig = bool(mode and mode[0])
        capability = tell(partial(library.nvmlDeviceGetCudaComputeCapability, handle))
        return Gpu(
            index=index,
            uuid=_text(library.nvmlDeviceGetUUID(handle)),
            name=_text(tell(partial(library.nvmlDeviceGetName, handle))),
            total=total,
            free=free,
            utilization=None if rates is None else rates.gpu / _PERCENT,
            power=None if power is None else power / _MILLI,
            power_limit=None if limit is None else limit / _MILLI,
            throttle_reasons=self._throttle_reasons(handle),
            compute_capability=None if capability is None else (capability[0], capability[1]),
            is_mig=is_mig,
            slices=tuple(self._slices(handle)) if is_mig else (),
            processes=self._processes(handle),
        )

    def _slices(self, handle: Any) -> Iterator[MigSlice]:
        library = self._library
        count = self._tell(partial(library.nvmlDeviceGetMaxMigDeviceCount, handle)) or 0
        parts = self._handles(count, partial(library.nvmlDeviceGetMigDeviceHandleByIndex, handle))
        for _, part in parts:
            name = _text(self._tell(partial(library.nvmlDeviceGetName, part)))
            uuid = _text(library.nvmlDeviceGetUUID(part))
            yield MigSlice(uuid, name, *self._memory(part), self._processes(part))

    def _memory(self, handle: Any) -> tuple[int | None, int | None]:
        memory = self._tell(partial(self._library.nvmlDeviceGetMemoryInfo, handle))
        return (None, None) if memory is None else (memory.total, memory.free)

    def _throttle_reasons(self, handle: Any) -> tuple[str, ...]:
        reasons = self._tell(partial(self._library.nvmlDeviceGetCurrentClocksEventReasons, handle))
        if reasons is None:  # drivers before 535 have it under its earlier name alone
            reasons = self._tell(partial(self._library.nvmlDeviceGetCurrentClocksThrottleReasons, handle))
        return tuple(
            name for place, name in enumerate(THROTTLE_REASONS) if (reasons or 0) & (_FIRST_REASON << place)
        )

    def _processes(self, handle: Any) -> Mapping[int, int]:
        running = self._tell(partial(self._library.nvmlDeviceGetComputeRunningProcesses, handle)) or []
        return {process.pid: process.usedGpuMemory for process in running if process.usedGpuMemory}

    def _tell(self, question: Callable[[], _T]) -> _T | None:
        """Return an answer; None where the device or the driver has none."""
        try:
            return question()
        except self._library.NVMLError:
            return None


def read_gpus() -> Gpus:
    """Return all GPUs of this machine as they are now."""
    return _NVML.read()


def _text(value: object) -> str:
    """Return a text; older releases of nvidia-ml-py give bytes."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else ""


_NVML = Nvml()

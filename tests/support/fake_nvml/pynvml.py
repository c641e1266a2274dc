"""The calls of nvidia-ml-py that Kitserve makes, answered from a file."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

NVML_ERROR_UNINITIALIZED = 1
NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_NOT_FOUND = 6
NVML_ERROR_LIBRARY_NOT_FOUND = 12
_WORDS = {1: "Uninitialized", 3: "Not Supported", 6: "Not Found", 12: "NVML Shared Library Not Found"}
FILE = globals().get("FILE") or Path(os.environ.get("KITSERVE_FAKE_NVML", "/nonexistent"))
_open = []


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(value)
        self.value = value

    def __str__(self):
        return _WORDS[self.value]


def _told():
    if not _open:
        raise NVMLError(NVML_ERROR_UNINITIALIZED)
    return json.loads(FILE.read_text())


def _field(device, name):
    gpus = _told()["gpus"]
    value = gpus[device[0]] if len(device) == 1 else gpus[device[0]]["mig"][device[1]]
    if value.get(name) is None:
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    return value[name]


def nvmlInit():
    if not FILE.exists():
        raise NVMLError(NVML_ERROR_LIBRARY_NOT_FOUND)
    _open.append(True)


def nvmlShutdown():
    _told()
    _open.pop()


def nvmlSystemGetDriverVersion():
    return _told()["driver"]


def nvmlSystemGetCudaDriverVersion():
    return _told()["cuda"]


def nvmlDeviceGetCount():
    return len(_told()["gpus"])


def nvmlDeviceGetHandleByIndex(index):
    if index >= nvmlDeviceGetCount():
        raise NVMLError(NVML_ERROR_NOT_FOUND)
    return (index,)


def nvmlDeviceGetUUID(device):
    return _field(device, "uuid")


def nvmlDeviceGetName(device):
    return _field(device, "name")


def nvmlDeviceGetMemoryInfo(device):
    total, free = _field(device, "total"), _field(device, "free")
    return SimpleNamespace(total=total, free=free, used=total - free)


def nvmlDeviceGetUtilizationRates(device):
    return SimpleNamespace(gpu=_field(device, "utilization"), memory=0)


def nvmlDeviceGetPowerUsage(device):
    return _field(device, "power")


def nvmlDeviceGetEnforcedPowerLimit(device):
    return _field(device, "limit")


def nvmlDeviceGetCurrentClocksEventReasons(device):
    return _field(device, "reasons")


def nvmlDeviceGetCurrentClocksThrottleReasons(device):
    return _field(device, "throttle_reasons")


def nvmlDeviceGetCudaComputeCapability(device):
    return tuple(_field(device, "capability"))


def nvmlDeviceGetMigMode(device):
    is_on = int(_field(device, "mig") is not None)
    return [is_on, is_on]


def nvmlDeviceGetMaxMigDeviceCount(device):
    return 7 if _field(device, "mig") is not None else 0


def nvmlDeviceGetMigDeviceHandleByIndex(device, index):
    if index >= len(_field(device, "mig")):
        raise NVMLError(NVML_ERROR_NOT_FOUND)
    return (*device, index)


def nvmlDeviceGetComputeRunningProcesses(device):
    processes = _field(device, "processes")
    return [SimpleNamespace(pid=int(pid), usedGpuMemory=size) for pid, size in processes.items()]

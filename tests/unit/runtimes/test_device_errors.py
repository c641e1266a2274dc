"""The messages of engines on GPUs, as they were seen, and what they are taken for."""

from __future__ import annotations

import pytest

from runtimes.device_errors import device_failure
from runtimes.errors import DeviceLost, DeviceOutOfMemory, ExecutionError
from runtimes.memory_errors import is_out_of_memory
from runtimes.torch_tensors import failure
from tests.support.gpu_errors import ILLEGAL_ADDRESS, LOST, OUT_OF_MEMORY

OTHERS = (
    "index out of range in self",
    "CUDA error: invalid device ordinal",
    "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=0 ; hostname=h",
    "CUDA failure 7000: nothing",
    "std::bad_alloc",
    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: x",
)


@pytest.mark.parametrize("text", LOST)
def test_a_gpu_is_lost(text: str) -> None:
    error = device_failure(ExecutionError(f"the model failed: {text}"))
    assert isinstance(error, DeviceLost)
    assert "the GPU is lost to this worker (CUDA" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("text", OUT_OF_MEMORY)
def test_a_gpu_has_no_memory(text: str) -> None:
    error = device_failure(RuntimeError(text))
    assert isinstance(error, DeviceOutOfMemory)
    assert not is_out_of_memory(ExecutionError(str(error))), "it is no lack of the machine's memory"


@pytest.mark.parametrize("text", OTHERS)
def test_other_errors_are_none_of_the_gpu(text: str) -> None:
    assert device_failure(ExecutionError(text)) is None


def test_what_pytorch_raised_is_found_as_the_cause() -> None:
    import torch

    error = failure(torch.OutOfMemoryError(""))
    error.__cause__ = torch.OutOfMemoryError("")
    assert isinstance(device_failure(error), DeviceOutOfMemory)
    traced = (
        "The following operation failed in the TorchScript interpreter.\nRuntimeError: " + ILLEGAL_ADDRESS
    )
    assert isinstance(device_failure(failure(RuntimeError(traced))), DeviceLost)

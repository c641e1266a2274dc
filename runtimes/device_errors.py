"""What engines say when a GPU fails: whether it has no memory left, or is lost to this process.

The texts are those of ONNX Runtime ("CUDA failure 700: …"), of PyTorch ("CUDA error: …"), and of the CUDA
libraries below them. After the errors of `_LOST` every further call of CUDA in the process fails likewise:
NVIDIA's documentation of cudaError_t says of each that the process must be ended and started anew
(https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html); memory with an error that ECC could
not correct, and a link with such, are added, as what they hold is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from runtimes.errors import DeviceLost, DeviceOutOfMemory

# The number, the name in CUDA's headers, and the text.
_LOST = (
    (214, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"),
    (220, "cudaErrorNvlinkUncorrectable", "uncorrectable NVLink error detected during the execution"),
    (226, "cudaErrorContained", "Invalid access of peer GPU memory over nvlink or a hardware error"),
    (700, "cudaErrorIllegalAddress", "an illegal memory access was encountered"),
    (702, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"),
    (710, "cudaErrorAssert", "device-side assert triggered"),
    (714, "cudaErrorHardwareStackError", "hardware stack error"),
    (715, "cudaErrorIllegalInstruction", "an illegal instruction was encountered"),
    (716, "cudaErrorMisalignedAddress", "misaligned address"),
    (717, "cudaErrorInvalidAddressSpace", "operation not supported on global/shared address space"),
    (718, "cudaErrorInvalidPc", "invalid program counter"),
    (719, "cudaErrorLaunchFailure", "unspecified launch failure"),
    (721, "cudaErrorTensorMemoryLeak", "tensor memory not completely freed"),
    (911, "cudaErrorExternalDevice", "external device error"),
)
_NUMBERS = "|".join(str(number) for number, _, _ in _LOST)
_NAMES = "|".join(name for _, name, _ in _LOST)
_TEXTS = "|".join(re.escape(text) for _, _, text in _LOST)
_IS_LOST = re.compile(
    rf"CUDA failure (?:{_NUMBERS})\b|\b(?:{_NAMES})\b|CUDA (?:error|failure)[^\n]{{0,40}}: (?:{_TEXTS})",
    re.IGNORECASE,
)

_IS_OUT_OF_MEMORY = re.compile(
    r"CUDA out of memory|CUDA (?:error|failure 2): out of memory|cudaErrorMemoryAllocation"
    # The arena of ONNX Runtime, where it has reached its bound.
    r"|Available memory of \d+ is smaller than requested bytes of \d+"
    r"|Failed to allocate memory for requested buffer of size \d+"
    r"|(?:CUBLAS|CUDNN|CUSPARSE|CUSOLVER)_STATUS_ALLOC_FAILED"
    r"|(?:cuda|gpu)[^\n]{0,80}out of memory",
    re.IGNORECASE,
)
_TYPES = ("OutOfMemoryError", "ResourceExhaustedError")  # of PyTorch, and of TensorFlow
_MAX_REASON = 300


def device_failure(error: BaseException) -> DeviceLost | DeviceOutOfMemory | None:
    """Return what an error of a model on a GPU says of the GPU; None where it says nothing of it."""
    for cause in _causes(error):
        if isinstance(cause, DeviceLost | DeviceOutOfMemory):
            return cause
        text = str(cause)
        if match := _IS_LOST.search(text):
            return DeviceLost(f"the GPU is lost to this worker ({_line(text, match)}); it is replaced")
        if type(cause).__name__ in _TYPES or _IS_OUT_OF_MEMORY.search(text):
            return DeviceOutOfMemory(
                "the GPU has too little memory free for the call; ask again later, or send less in one call"
            )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _line(text: str, match: re.Match[str]) -> str:
    """Return the line of a text that a match begins in, from there on."""
    return text[match.start() :].partition("\n")[0][:_MAX_REASON].strip()

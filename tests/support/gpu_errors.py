"""What engines say when a GPU fails, and a model that says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from runtimes.base import Array, Signature, TensorSpec
from runtimes.errors import ExecutionError

_NOTE = "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below"
_NODE = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running MatMul node. Name:'m' "
    "Status Message: "
)
_PLACE = " ; GPU=0 ; hostname=node1 ; file=cuda_call.cc ; line=121 ; expr=cudaStreamSynchronize(s); "
ILLEGAL_ADDRESS = f"CUDA error: an illegal memory access was encountered\n{_NOTE}"
LOST = (
    ILLEGAL_ADDRESS,
    f"CUDA error: device-side assert triggered\n{_NOTE}",
    f"CUDA error: uncorrectable ECC error encountered\n{_NOTE}",
    f"CUDA error: misaligned address\n{_NOTE}",
    f"CUDA error: unspecified launch failure\n{_NOTE}",
    "CUDA error (702): the launch timed out and was terminated",
    f"{_NODE}CUDA failure 700: an illegal memory access was encountered{_PLACE}",
    f"{_NODE}CUDA failure 214: uncorrectable ECC error encountered{_PLACE}",
    f"{_NODE}CUDA failure 719: unspecified launch failure{_PLACE}",
)
TORCH_MEMORY = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 23.69 GiB of which "
    "1.31 GiB is free. Including non-PyTorch memory, this process has 22.00 GiB memory in use."
)
ARENA_MEMORY = (
    f"{_NODE}/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Available memory of 34699008 is smaller than "
    "requested bytes of 945041920"
)
OUT_OF_MEMORY = (
    TORCH_MEMORY,
    ARENA_MEMORY,
    f"CUDA error: out of memory\n{_NOTE}",
    f"{_NODE}CUDA failure 2: out of memory{_PLACE}",
    f"{_NODE}Failed to allocate memory for requested buffer of size 945041920",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
)


class FailingGpu:
    """A model on a GPU that doubles `x`, as long as it has no more than `rows` rows.

    With more, it says what `message` is; a value above 100 takes the GPU from it.
    """

    signature = Signature((TensorSpec("x", "INT64", (-1,)),), (TensorSpec("y", "INT64", (-1,)),))
    platform = "test_gpu"
    device = "cuda:0"

    def __init__(self, rows: int = 1_000_000, message: str = TORCH_MEMORY) -> None:
        self.rows = rows
        self.message = message
        self.is_lost = False
        self.runs: list[int] = []

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        x = inputs["x"]
        self.runs.append(len(x))
        self.is_lost = self.is_lost or bool((x > 100).any())
        if self.is_lost:
            raise ExecutionError(f"the model failed: {ILLEGAL_ADDRESS}")
        if len(x) > self.rows:
            raise ExecutionError(f"the model failed: {self.message}")
        return {"y": (x * 2).astype(np.int64)}

    def close(self) -> None:
        pass

"""The conversion of tensors between numpy and PyTorch, for the runtimes of PyTorch's formats."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtimes import cuda
from runtimes.base import Array, Datatype, Resources
from runtimes.errors import ExecutionError, InputError, LoadError, Unsupported
from runtimes.gpu_libraries import cudnn_version, wanted_and_found
from runtimes.input_check import unknown_output
from runtimes.signature import CPU_ADVICE

if TYPE_CHECKING:
    import torch

_BF16 = Datatype.BF16.numpy
_NUMBERS: Mapping[type, np.dtype[Any]] = {
    bool: Datatype.BOOL.numpy,
    int: Datatype.INT64.numpy,
    float: Datatype.FP64.numpy,
}
# What PyTorch says where an operator has no kernel for the device, whatever the datatypes and values; where
# the program names another device than its weights are on; and where the GPU is of another generation.
_EVERY_CALL = (
    "' with arguments from the '",
    "Expected all tensors to be on the same device",
    "no kernel image is available for execution",
)
# How TorchScript begins what it says of an error, and what stands before the error's own sentence in it.
_TRACEBACK = "The following operation failed in the TorchScript interpreter"
_SENTENCE = re.compile(r"^[\w.]*(?:Error|Exception): ", re.MULTILINE)


def prepare(resources: Resources) -> str:
    """Set the number of PyTorch's threads; return the device: `cuda:0` where a GPU is asked for, else `cpu`.

    The number of threads is one for the process, so the model that is loaded last decides it; likewise the
    bound of a GPU's memory. Raises LoadError where a GPU is asked for and cannot be used.
    """
    import torch

    torch.set_num_threads(resources.threads)
    if resources.gpus <= 0:
        return "cpu"
    if not torch.cuda.is_available():
        raise LoadError(
            f"the model is to run on a GPU, and PyTorch {torch.__version__} can use none "
            f"({_cuda_trouble()}); mend that, or {CPU_ADVICE}"
        )
    _bound_memory(resources)
    return "cuda:0"


def _bound_memory(resources: Resources) -> None:
    """Have PyTorch refuse what is beyond the worker's share of the GPU; of a whole one, nothing."""
    import torch

    total: int = torch.cuda.get_device_properties(0).total_memory
    share = cuda.share_bytes(resources, lambda: total)
    if share is not None:
        torch.cuda.set_per_process_memory_fraction(min(1.0, cuda.engine_bytes(share) / total), 0)


def _cuda_trouble() -> str:
    """Return why PyTorch can use no GPU, and which versions it wants and which were found."""
    import torch

    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return "it is built without CUDA"
    reason = "it finds no device"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
    wanted = {"CUDA": torch.version.cuda or "", "cuDNN": cudnn_version()}
    return f"{reason}; it {wanted_and_found(wanted)}"


def to_torch(array: Array, device: str) -> torch.Tensor:
    """Return `array` as a tensor; it is copied where PyTorch cannot share it, or might write to it."""
    import torch

    flags = array.flags
    if not (flags.writeable and flags.c_contiguous):
        array = array.copy(order="C")
    if array.dtype == _BF16:
        # numpy and PyTorch have no BF16 in common; its bits are passed as INT16.
        tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(array)
    return tensor if device == "cpu" else tensor.to(device)


def to_numpy(name: str, value: object) -> Array:
    """Return an output as an array: a tensor, a number, or an array as it is.

    Raises:
        Unsupported: for anything else, and for a tensor without a numpy dtype or a datatype.
    """
    import torch

    if not isinstance(value, torch.Tensor):
        if isinstance(value, np.ndarray):
            return value
        dtype = _NUMBERS.get(type(value))
        if dtype is None:
            kind = type(value).__name__
            raise Unsupported(f"output {name!r} is a {kind}; forward must return tensors or numbers")
        return np.array(value, dtype)
    try:
        on_cpu = value.detach().cpu()
        if on_cpu.dtype is torch.bfloat16:
            return on_cpu.contiguous().view(torch.int16).numpy().view(_BF16)
        array: Array = on_cpu.numpy()
    except (TypeError, RuntimeError) as error:
        raise Unsupported(f"output {name!r} has no numpy form ({error}); cast it in forward") from error
    if array.dtype.kind == "c":
        raise Unsupported(
            f"output {name!r} is {array.dtype}, which has no datatype in the Open Inference Protocol; "
            "return torch.view_as_real of it"
        )
    return array


def choose_outputs(result: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Array]:
    """Return the named `outputs`, or all, as arrays; those that are None are left out.

    Raises:
        InputError: for an unknown output, and for one that is named and None.
    """
    for name in outputs:
        if name not in result:
            raise unknown_output(name, tuple(result))
        if result[name] is None:
            raise InputError(f"output {name!r} is None for these inputs; do not ask for it")
    return {name: to_numpy(name, result[name]) for name in outputs or result if result[name] is not None}


def failure(error: Exception, has_datatypes: bool = False) -> ExecutionError:
    """Return the error for what PyTorch raised: Unsupported where no inputs would have helped.

    `has_datatypes` says that the file states the datatypes: what an operator does not do for one of them, it
    does for no call.
    """
    text = str(error)
    if (has_datatypes and isinstance(error, NotImplementedError)) or any(s in text for s in _EVERY_CALL):
        # The sentence stands between the program's lines and a list of all backends.
        sentence = text.partition(". This could be")[0].rpartition("Error: ")[2]
        return Unsupported(f"the model cannot be run here: {sentence}")
    if text.startswith(_TRACEBACK):
        # The program's lines are for the log, which has this error as the cause.
        *_, text = _SENTENCE.split(text)
    return ExecutionError(f"the model failed: {text.strip()}")

"""The conversion of tensors between numpy and PyTorch, for the runtimes of PyTorch's formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtimes.base import Array, Datatype, Resources, unknown_output
from runtimes.errors import ExecutionError, LoadError

if TYPE_CHECKING:
    import torch

_BF16 = Datatype.BF16.numpy


def prepare(resources: Resources) -> str:
    """Set the number of PyTorch's threads; return the device: `cuda:0` where a GPU is asked for, else `cpu`.

    The number of threads is one for the process, so the model that is loaded last decides it. Raises
    LoadError where a GPU is asked for and cannot be used.
    """
    import torch

    torch.set_num_threads(resources.threads)
    if resources.gpus <= 0:
        return "cpu"
    if not torch.cuda.is_available():
        raise LoadError(
            f"the model is to run on a GPU, and PyTorch {torch.__version__} can use none "
            f"({_cuda_trouble()}); mend that, or set `gpus: 0`"
        )
    return "cuda:0"


def _cuda_trouble() -> str:
    """Return why PyTorch can use no GPU."""
    import torch

    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return "it is built without CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())
    return "it finds no device"


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


def to_numpy(name: str, tensor: object) -> Array:
    """Return an output as an array. Raises ExecutionError for what is no tensor, or has no numpy dtype."""
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise ExecutionError(f"output {name!r} is a {type(tensor).__name__}; forward must return tensors")
    try:
        on_cpu = tensor.detach().cpu()
        if on_cpu.dtype is torch.bfloat16:
            return on_cpu.contiguous().view(torch.int16).numpy().view(_BF16)
        array: Array = on_cpu.numpy()
    except (TypeError, RuntimeError) as error:
        raise ExecutionError(f"output {name!r} has no numpy form ({error}); cast it in forward") from error
    return array


def name_outputs(result: Any) -> dict[str, Any]:
    """Name what `forward` returned: a dict keeps its keys; others get `output_0`, `output_1` and so on."""
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items()}
    values = result if isinstance(result, (tuple, list)) else (result,)
    return {f"output_{index}": value for index, value in enumerate(values)}


def choose_outputs(result: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Array]:
    """Return the named `outputs`, or all, as arrays. Raises InputError for an unknown one."""
    for name in outputs:
        if name not in result:
            raise unknown_output(name, tuple(result))
    return {name: to_numpy(name, result[name]) for name in outputs or result}

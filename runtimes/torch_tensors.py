"""The way of tensors between numpy and PyTorch, shared by the runtimes of PyTorch's formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtimes.base import Array, Datatype, Resources, unknown_output
from runtimes.errors import ExecutionError

if TYPE_CHECKING:
    import torch

_BF16 = Datatype.BF16.numpy


def prepare(resources: Resources) -> str:
    """Give this process's PyTorch its threads and return the device: `cuda:0` where there is one to use.

    The number of threads belongs to the process, so the model loaded last decides it.
    """
    import torch

    torch.set_num_threads(resources.threads)
    return "cuda:0" if resources.gpus > 0 and torch.cuda.is_available() else "cpu"


def to_torch(array: Array, device: str) -> torch.Tensor:
    """Return `array` as a tensor; it is copied where PyTorch could not share it, or might write to it."""
    import torch

    flags = array.flags
    if not (flags.writeable and flags.c_contiguous):
        array = array.copy(order="C")
    if array.dtype == _BF16:
        # numpy and PyTorch share no BF16, but its bits
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
        found = tensor.detach().cpu()
        if found.dtype is torch.bfloat16:
            return found.contiguous().view(torch.int16).numpy().view(_BF16)
        array: Array = found.numpy()
    except (TypeError, RuntimeError) as error:
        raise ExecutionError(f"output {name!r} has no numpy form ({error}); cast it in forward") from error
    return array


def named(result: Any) -> dict[str, Any]:
    """Name what `forward` returned: a dict keeps its keys; others are `output_0`, `output_1` and so on."""
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items()}
    values = result if isinstance(result, (tuple, list)) else (result,)
    return {f"output_{index}": value for index, value in enumerate(values)}


def choose_outputs(result: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Array]:
    """Return the asked outputs, or all, as arrays. Raises InputError for an unknown one."""
    for name in outputs:
        if name not in result:
            raise unknown_output(name, tuple(result))
    return {name: to_numpy(name, result[name]) for name in outputs or result}

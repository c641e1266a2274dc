"""The device on which a program of PyTorch computes, and how tensors get there and back.

A GPU computes in a stream of the model's own. Tensors travel through page-locked memory, so that the copies
are made while this thread does other work; it waits once, for the outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from runtimes.base import Array
from runtimes.torch_graphs import Capturing, Forward, GraphRuns
from runtimes.torch_tensors import to_torch

if TYPE_CHECKING:
    import torch


class TorchDevice(Protocol):
    """Where a program computes."""

    name: str

    def running(self) -> AbstractContextManager[None]:
        """Run a call within the block."""
        ...

    def upload(self, array: Array) -> torch.Tensor:
        """Return an array as a tensor of the device."""
        ...

    def download(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values with their tensors in this machine's memory, once they are computed."""
        ...

    def repeated(self, forward: Forward) -> Forward:
        """Return a program that is quicker where it is called with the same shapes again."""
        ...


class Cpu:
    """The CPU."""

    name = "cpu"

    def running(self) -> AbstractContextManager[None]:
        """Run a call within the block."""
        import torch

        return torch.inference_mode()

    def upload(self, array: Array) -> torch.Tensor:
        """Return an array as a tensor, without a copy where that can be."""
        return to_torch(array, "cpu")

    def download(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values."""
        return dict(values)

    def repeated(self, forward: Forward) -> Forward:
        """Return the program."""
        return forward


class Cuda(Capturing, Protocol):
    """What is called of CUDA through PyTorch."""

    def pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy of a tensor in page-locked memory."""
        ...

    def empty_pinned(self, like: torch.Tensor) -> torch.Tensor:
        """Return page-locked memory for a copy of a tensor."""
        ...

    def synchronize(self) -> None:
        """Wait until the model's stream has done all."""
        ...


class Gpu:
    """A GPU; `cuda` is what is called of it."""

    def __init__(self, name: str, cuda: Cuda) -> None:
        self.name = name
        self._cuda = cuda

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run a call within the block, in the model's stream."""
        import torch

        with torch.inference_mode(), self._cuda.stream():
            yield

    def upload(self, array: Array) -> torch.Tensor:
        """Return an array as a tensor of the GPU, which may still be on its way there."""
        return self._cuda.pinned(to_torch(array, "cpu")).to(self._cuda.device, non_blocking=True)

    def download(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values with their tensors in page-locked memory; waits for all of them at once."""
        import torch

        copies = dict(values)
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and self._is_far(value):
                tensor = value.detach()
                copies[name] = self._cuda.empty_pinned(tensor).copy_(tensor, non_blocking=True)
        self._cuda.synchronize()
        return copies

    def repeated(self, forward: Forward) -> Forward:
        """Return a program that is captured as a CUDA graph for the shapes that come often."""
        return GraphRuns(forward, self._cuda)

    def _is_far(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type == self._cuda.device.partition(":")[0]


class TorchCuda:
    """CUDA through PyTorch, with a stream and a pool of memory for graphs of its own."""

    def __init__(self, device: str) -> None:
        import torch

        self.device = device
        self._stream = torch.cuda.Stream(torch.device(device))  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def stream(self) -> AbstractContextManager[Any]:
        """Compute in the model's stream within the block."""
        import torch

        return torch.cuda.stream(self._stream)

    def synchronize(self) -> None:
        """Wait until the model's stream has done all."""
        self._stream.synchronize()

    def pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy of a tensor in page-locked memory, which PyTorch keeps for others."""
        return tensor.pin_memory()

    def empty_pinned(self, like: torch.Tensor) -> torch.Tensor:
        """Return page-locked memory for a copy of a tensor, which PyTorch keeps for others."""
        import torch

        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def new_graph(self) -> Any:
        """Return an empty graph."""
        import torch

        return torch.cuda.CUDAGraph()

    def capture(self, graph: Any) -> AbstractContextManager[Any]:
        """Record what is launched within the block into a graph; it is not computed."""
        import torch

        # Other threads may go on to use the GPU meanwhile.
        return torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        )


def torch_device(name: str) -> TorchDevice:
    """Return the device of a name: `cpu`, or `cuda:0`."""
    return Cpu() if name == "cpu" else Gpu(name, TorchCuda(name))

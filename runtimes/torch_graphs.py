"""CUDA graphs of a program: what it launches on the GPU is recorded once for a shape, and then replayed.

Small models spend most of their time on launching kernels from Python, which a replay does not. A graph
reads its inputs from tensors of its own, and writes its outputs to others. What does not go into one, such as
a program that looks at a value in between, is run as before.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from runtimes.device_errors import device_failure
from runtimes.errors import DeviceOutOfMemory

MAX_GRAPHS = 8
"""For so many shapes there may be a graph; each keeps memory of the GPU."""
CAPTURED_AFTER = 16
"""So often a shape must have come before it is captured; PyTorch optimises programs in their first runs."""
_MAX_COUNTED = 256
# What a replay may differ from a run by: kernels may be chosen anew.
_TOLERANCE = 1e-2

log = logging.getLogger(__name__)

Key = tuple[object, ...]
Forward = Callable[[Sequence[Any]], Mapping[str, Any]]
"""A program: it takes tensors and other values in their order, and gives outputs by name."""


class Capturing(Protocol):
    """What is called of CUDA to capture and replay."""

    device: str

    def stream(self) -> AbstractContextManager[Any]:
        """Compute in the model's stream within the block."""
        ...

    def synchronize(self) -> None:
        """Wait until the model's stream has done all."""
        ...

    def new_graph(self) -> Any:
        """Return an empty graph, an object with `replay` and `reset`."""
        ...

    def capture(self, graph: Any) -> AbstractContextManager[Any]:
        """Record what is launched within the block into a graph."""
        ...


@dataclass(frozen=True, slots=True)
class _Captured:
    """A graph with the tensors that it reads and the values that it gives."""

    graph: Any
    inputs: Sequence[Any]
    outputs: Mapping[str, Any]


class GraphRuns:
    """Runs a program, one thread at a time; its outputs hold until the next run."""

    def __init__(self, forward: Forward, cuda: Capturing) -> None:
        self._forward = forward
        self._cuda = cuda
        self._counts: Counter[Key] = Counter()
        self._graphs: dict[Key, _Captured] = {}
        self._is_off = False

    def __call__(self, inputs: Sequence[Any]) -> Mapping[str, Any]:
        """Run the program on tensors of the GPU and other values."""
        if self._is_off and not self._graphs:
            return self._forward(inputs)
        key = _key(inputs)
        captured = self._graphs.get(key)
        if captured is not None:
            return _replayed(captured, inputs)
        try:
            return self._captured(key, inputs) if self._is_due(key) else self._forward(inputs)
        except Exception as error:
            if isinstance(device_failure(error), DeviceOutOfMemory):
                # What the graphs keep is worth more to calls that find no memory.
                self._graphs.clear()
                self._is_off = True
            raise

    def _is_due(self, key: Key) -> bool:
        if self._is_off or len(self._graphs) >= MAX_GRAPHS:
            return False
        if key not in self._counts and len(self._counts) >= _MAX_COUNTED:
            return False
        self._counts[key] += 1
        return self._counts[key] > CAPTURED_AFTER

    def _captured(self, key: Key, inputs: Sequence[Any]) -> Mapping[str, Any]:
        """Run the program, and capture it; once that fails, it is not tried again."""
        expected = self._forward(inputs)
        self._cuda.synchronize()
        try:
            own = [value.clone() if _is_tensor(value) else value for value in inputs]
            graph = self._cuda.new_graph()
            with self._cuda.capture(graph):
                outputs = self._forward(own)
            captured = _Captured(graph, own, outputs)
            reason = _difference(expected, _replayed(captured, inputs))
            self._cuda.synchronize()
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
        if reason:
            self._is_off = True
            log.info("graph.off", extra={"reason": reason})
        else:
            self._graphs[key] = captured
        return expected


def _replayed(captured: _Captured, inputs: Sequence[Any]) -> Mapping[str, Any]:
    for own, value in zip(captured.inputs, inputs, strict=True):
        if _is_tensor(own):
            own.copy_(value, non_blocking=True)
    captured.graph.replay()
    return captured.outputs


def _key(inputs: Sequence[Any]) -> Key:
    """Return what two calls must have in common to be answered by one graph."""
    return tuple(
        (value.shape, value.dtype) if _is_tensor(value) else (type(value), value) for value in inputs
    )


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _difference(expected: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    """Return how the outputs of a graph differ from those of a run, "" where they do not."""
    import torch

    if expected.keys() != outputs.keys():
        return "a replay gives outputs of other names"
    for name, value in expected.items():
        output = outputs[name]
        if not _is_tensor(value):
            if value != output:
                return "an output that is no tensor differs"
        elif not torch.allclose(
            value.double(), output.double(), rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True
        ):
            return "a replay gives other outputs"
    return ""

"""Runs of ONNX Runtime with bound inputs and outputs: buffers that stay, page-locked where a GPU computes.

A GPU copies from page-locked memory at once, from other memory by a detour. So inputs are copied into buffers
that are kept, and outputs whose shapes are known from an earlier call are written into such buffers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtimes.base import Array
from runtimes.onnx_bf16 import Run

Allocate = Callable[[int], Array | None]
"""Returns so many bytes as UINT8, None where they cannot be had."""

_MAX_SHAPES = 256
_MAX_BUFFER_BYTES = 64 * 1024 * 1024
_SMALLEST_BUFFER_BYTES = 4096
# What ONNX Runtime says where an output has another shape than its buffer.
_OTHER_SHAPE = ("shape verification failed", "but the computed output shape for this run is")

_Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class BoundRuns:
    """Runs one session. Several threads may run it at once: each run takes buffers that no other has.

    Args:
        session: the `InferenceSession`.
        allocate: where the buffers come from.
    """

    def __init__(self, session: Any, allocate: Allocate) -> None:
        self._session = session
        self._allocate = allocate
        self._idle: deque[_Slot] = deque()
        self._outputs: dict[tuple[_Shapes, tuple[str, ...]], list[tuple[np.dtype[Any], tuple[int, ...]]]] = {}
        self._may_bind_outputs = True

    def __call__(self, names: list[str], feed: dict[str, Array], options: Any) -> list[Array]:
        """Run the model, as `session.run` does; the results are copies."""
        try:
            slot = self._idle.pop()
        except IndexError:
            slot = _Slot(self._session.io_binding(), self._allocate)
        try:
            return self._run(slot, names, feed, options)
        finally:
            slot.release()
            self._idle.append(slot)

    def _run(self, slot: _Slot, names: list[str], feed: Mapping[str, Array], options: Any) -> list[Array]:
        key = (tuple((name, array.shape) for name, array in feed.items()), tuple(names))
        shapes = self._outputs.get(key) if self._may_bind_outputs else None
        for name, array in feed.items():
            slot.bind_input(name, array)
        bound = slot.bind_outputs(names, shapes)
        try:
            self._session.run_with_iobinding(slot.binding, options)
        except Exception as error:
            if not bound or not any(text in str(error) for text in _OTHER_SHAPE):
                raise
            # The shapes depend on the values: no output of this model is bound to a buffer again.
            self._may_bind_outputs = False
            slot.release()
            return self._run(slot, names, feed, options)
        if bound:
            return [array.copy() for array in bound]
        results: list[Array] = slot.binding.copy_outputs_to_cpu()
        if self._may_bind_outputs and len(self._outputs) < _MAX_SHAPES:
            self._outputs[key] = [(array.dtype, array.shape) for array in results]
        return results


@dataclass(slots=True)
class _Slot:
    """What one run uses: an `IOBinding`, and a buffer for each tensor."""

    binding: Any
    allocate: Allocate
    buffers: dict[str, Array] = field(default_factory=dict)

    def bind_input(self, name: str, array: Array) -> None:
        buffer = self._buffer(f"input {name}", array.shape, array.dtype)
        if buffer is None:
            self.binding.bind_cpu_input(name, np.ascontiguousarray(array))
            return
        np.copyto(buffer, array)
        self.binding.bind_cpu_input(name, buffer)

    def bind_outputs(
        self, names: list[str], shapes: list[tuple[np.dtype[Any], tuple[int, ...]]] | None
    ) -> list[Array]:
        """Bind outputs to buffers, which are returned; to none where one has no known shape or no buffer."""
        buffers: list[Array] = []
        for name, (dtype, shape) in zip(names, shapes or (), strict=False):
            if (buffer := self._buffer(f"output {name}", shape, dtype)) is None:
                buffers.clear()
                break
            buffers.append(buffer)
        for index, name in enumerate(names):
            if buffers:
                array = buffers[index]
                self.binding.bind_output(name, "cpu", 0, array.dtype, list(array.shape), array.ctypes.data)
            else:
                self.binding.bind_output(name, "cpu")
        return buffers

    def release(self) -> None:
        """Let go of the caller's tensors and of the outputs."""
        self.binding.clear_binding_inputs()
        self.binding.clear_binding_outputs()

    def _buffer(self, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
        """Return a buffer for a tensor; None where it is too large, empty, or there is no memory for it."""
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if not 0 < size <= _MAX_BUFFER_BYTES:
            return None
        whole = self.buffers.get(key)
        if whole is None or whole.nbytes < size:
            whole = self.allocate(max(_SMALLEST_BUFFER_BYTES, 1 << (size - 1).bit_length()))
            if whole is None:
                return None
            self.buffers[key] = whole
        return whole[:size].view(dtype).reshape(shape)


def is_bindable(session: Any) -> bool:
    """Tell whether all inputs and outputs of a session are tensors of numbers that numpy has."""
    kinds = [tensor.type for tensor in (*session.get_inputs(), *session.get_outputs())]
    return all(kind.startswith("tensor(") and kind[7:-1] not in ("string", "bfloat16") for kind in kinds)


def bound(session: Any, allocate: Allocate) -> Run:
    """Return a function like `session.run` with bound tensors, where the model's are such."""
    run: Run = BoundRuns(session, allocate) if is_bindable(session) else session.run
    return run

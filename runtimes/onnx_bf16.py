"""ONNX Runtime with BF16 tensors, which its calls on numpy arrays do not take."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from runtimes.base import Array, Datatype
from runtimes.errors import ExecutionError

_BF16 = Datatype.BF16.numpy
# TensorProto.DataType
_ELEMENT = 16

Run = Callable[[list[str], dict[str, Array]], list[Array]]


def runner(session: Any) -> Run:
    """Return what does as `session.run`, with BF16 among the inputs and outputs."""
    import onnxruntime as ort

    def value(array: Array) -> Any:
        whole = np.ascontiguousarray(array)
        if whole.dtype != _BF16:
            return ort.OrtValue.ortvalue_from_numpy(whole)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(whole.view(np.uint16), _ELEMENT)

    def run(names: list[str], feed: Mapping[str, Array]) -> list[Array]:
        values = {name: value(array) for name, array in feed.items()}
        return [_array(result) for result in session.run_with_ort_values(names, values)]

    return run


def _array(value: Any) -> Array:
    if value.element_type() != _ELEMENT:
        array: Array = value.numpy()
        return array
    if value.device_name().lower() != "cpu":
        raise ExecutionError(f"a BF16 output is left on {value.device_name()}; cast it to FP32 in the model")
    shape, size = tuple(value.shape()), value.tensor_size_in_bytes()
    if not size:
        return np.empty(shape, _BF16)
    # no numpy form is offered, but the address of the elements is
    elements = (ctypes.c_ubyte * size).from_address(value.data_ptr())
    return np.frombuffer(elements, np.uint8).copy().view(_BF16).reshape(shape)

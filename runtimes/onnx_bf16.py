"""BF16 tensors for ONNX Runtime, whose `run` does not take them as numpy arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from runtimes.base import Array, Datatype
from runtimes.errors import ExecutionError

_BF16 = Datatype.BF16.numpy
_ELEMENT_TYPE = 16  # TensorProto.DataType.BFLOAT16

Run = Callable[[list[str], dict[str, Array], Any], list[Array]]
"""Takes the names of outputs, the inputs, and the `RunOptions`."""


def runner(session: Any) -> Run:
    """Return a function like `session.run` that takes and returns BF16 as well."""
    import onnxruntime as ort

    def value(array: Array) -> Any:
        contiguous = np.ascontiguousarray(array)
        if contiguous.dtype != _BF16:
            return ort.OrtValue.ortvalue_from_numpy(contiguous)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(contiguous.view(np.uint16), _ELEMENT_TYPE)

    def run(names: list[str], feed: Mapping[str, Array], options: Any) -> list[Array]:
        values = {name: value(array) for name, array in feed.items()}
        return [_array(result) for result in session.run_with_ort_values(names, values, options)]

    return run


def _array(value: Any) -> Array:
    if value.element_type() != _ELEMENT_TYPE:
        array: Array = value.numpy()
        return array
    if value.device_name().lower() != "cpu":
        raise ExecutionError(f"a BF16 output is on {value.device_name()}; cast it to FP32 in the model")
    shape, size = tuple(value.shape()), value.tensor_size_in_bytes()
    if not size:
        return np.empty(shape, _BF16)
    # OrtValue offers BF16 not as numpy, but by its address.
    elements = (ctypes.c_ubyte * size).from_address(value.data_ptr())
    return np.frombuffer(elements, np.uint8).copy().view(_BF16).reshape(shape)

"""Inputs that an engine finds unfit only while it runs: an index out of range, a shape that fits nothing.

Engines raise one kind of error for this and for what is the model's own fault. An input is to blame

- for an index out of range, where one of integers holds that index, or the engine does not say which it is;
- for a shape, where the signature leaves to the caller more than how many rows there are;
- for a datatype, where the signature leaves that to the caller.

All else stays the model's fault: a model that takes any number of rows by its signature must take them. The
sentences are those of ONNX Runtime (1.23), PyTorch (2.10) and TensorFlow (2.21); where a release words one
otherwise, it is the model's fault again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from runtimes.base import Array, Datatype, Signature
from runtimes.errors import ExecutionError, UnfitInput

_DATATYPES = frozenset(Datatype)
_MAX_LENGTH = 400

_INDEX = re.compile(
    r"idx=(?P<onnx>-?\d+) must be within"
    r"|invalid ind(?:ex|ice) found, ind(?:ex|ice) = (?P<nd>-?\d+)"
    r"|index (?P<torch>-?\d+) is out of bounds for dimension"
    r"|takes value (?P<bag>-?\d+) which is not in the valid range"
    r"|indices(?:\[[\d,]*\])? = (?P<tensorflow>-?\d+) is not in \[0, "
    r"|Out of range value in index tensor"
    r"|index out of range in self"
    r"|Class values must be (?:smaller than num_classes|non-negative)"
)
_SHAPE = re.compile(
    # ONNX Runtime
    r"cannot be reshaped to the requested shape"
    r"|[Dd]imension mismatch"
    r"|Attempting to broadcast an axis by a dimension other than 1"
    r"|Non concat axis dimensions must match"
    r"|Input channels C is not equal to kernel channels"
    r"|invalid expand shape"
    r"|operands could not be broadcast together"
    r"|must match X\.shape"
    r"|Invalid input (?:shape|scale)"
    r"|Dimension of input \d+ must be 1 instead of"
    # PyTorch
    r"|shapes cannot be multiplied"
    r"|size mismatch, got"
    r"|is invalid for input of size"
    r"|must match the (?:size of tensor b|existing size)"
    r"|Sizes of tensors must match except in dimension"
    r"|equal size, but got"
    r"|to have \d+ channels, but got \d+ channels instead"
    r"|Kernel size can't be greater than actual input size"
    r"|input to conv\d?d, but got input of size"
    r"|must be equal to input_size\. Expected"
    r"|should contain \d+ elements not \d+"
    r"|expected input with shape .*, but got input of size"
    r"|Expected size for first two dimensions of batch2 tensor"
    r"|Dimension out of range \(expected to be in range"
    r"|out of range for tensor of size"
    r"|don't multiply up to the size of dim"
)
_DATATYPE = re.compile(
    r"must have the same dtype"
    r"|expected (?:scalar type|m1 and m2 to have the same dtype)"
    r"|to have one of the following scalar types"
    r"|not implemented for '"
    r"|only applicable to index tensor of type"
    r"|Input dtype must be"
    r"|Expected dtype int"
    r"|Expected a (?:floating point or complex|long) tensor"
    r"|only supports? (?:floating point|boolean masks)"
    r"|expected condition to be a boolean tensor"
    r"|on a bool tensor is not supported"
    r"|two bool tensors is not supported"
    r"|does not match weight dtype"
    r"|(?:Input type|tensors used as indices) .*(?:should be the same|must be)"
)
# An engine's own sentence is behind its name for the error, its source file, and the condition that failed.
_PREFIX = re.compile(r".*(?:Status Message: |Error: |the model failed: )", re.DOTALL)
_CONDITION = re.compile(r"^/?\S+\.(?:cc|h|cpp):\d+ .*?(?: was false\. |\] )", re.DOTALL)


def unfit_input(
    error: ExecutionError, inputs: Mapping[str, Array], signature: Signature
) -> UnfitInput | None:
    """Return the error for the caller where the inputs of a failed run are to blame, else None."""
    if type(error) is not ExecutionError:
        # Its runtime has told the kind of failure already.
        return None
    sentence = _CONDITION.sub("", _PREFIX.sub("", str(error))).strip()
    match = _INDEX.search(sentence)
    cause = ""
    if match is not None:
        index = next((group for group in match.groups() if group is not None), None)
        cause = _holders(inputs) if index is None else _holder(inputs, int(index))
    elif (_SHAPE.search(sentence) and _leaves_shapes(signature, inputs)) or (
        _DATATYPE.search(sentence) and _leaves_datatypes(signature)
    ):
        cause = ", ".join(
            f"input {name!r} as {Datatype.of(array.dtype)} of shape {list(array.shape)}"
            for name, array in inputs.items()
        )
    if not cause:
        return None
    return UnfitInput(f"the model cannot take {cause}: {sentence[:_MAX_LENGTH]}")


def _holder(inputs: Mapping[str, Array], index: int) -> str:
    """Return which input holds an index, and where; "" where none does."""
    for name, array in _integers(inputs):
        places = np.argwhere(array == index)
        if len(places):
            return f"{index} in input {name!r} at {places[0].tolist()}"
    return ""


def _holders(inputs: Mapping[str, Array]) -> str:
    """Return which inputs may hold an index, and in which range."""
    return " or ".join(
        f"one of {array.min()} to {array.max()} in input {name!r}" for name, array in _integers(inputs)
    )


def _integers(inputs: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    return ((name, array) for name, array in inputs.items() if array.dtype.kind in "iu" and array.size)


def _leaves_shapes(signature: Signature, inputs: Mapping[str, Array]) -> bool:
    """Tell whether the caller decides how long a later axis is, or sent inputs of unequal numbers of rows."""
    shapes = [spec.shape for spec in signature.all_inputs]
    if any(shape is None or any(size < 0 for size in shape[1:]) for shape in shapes):
        return True
    batched = [spec.name for spec in signature.all_inputs if spec.shape and spec.shape[0] < 0]
    return len({inputs[name].shape[0] for name in batched if name in inputs}) > 1


def _leaves_datatypes(signature: Signature) -> bool:
    return any(spec.datatype not in _DATATYPES for spec in signature.all_inputs)

"""How large the body of a call on a model can be: bounded where all of its inputs have fixed shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from runtimes.base import Datatype, Signature, TensorSpec

# A number in JSON has up to 25 characters; on a line of its own, behind the spaces of its depth, about 90.
_BYTES_PER_ELEMENT = 128
# What stands around the numbers: names, parameters, the outputs that are asked for.
_BESIDE_BYTES = 1024 * 1024


def body_limit(signature: Signature, maximum: int) -> int:
    """Return how many bytes a body may have, at most `maximum`.

    An input with a dimension of any length may have any number of rows, and strings may be of any length.
    """
    elements = [_elements(spec) for spec in signature.all_inputs]
    if not elements or math.inf in elements:
        return maximum
    return int(min(maximum, _BESIDE_BYTES + sum(elements) * _BYTES_PER_ELEMENT))


def _elements(spec: TensorSpec) -> float:
    """Return how many numbers an input has, infinity where that is not fixed."""
    shape: Sequence[int] | None = spec.shape
    if shape is None or spec.datatype == Datatype.BYTES or any(size < 0 for size in shape):
        return math.inf
    return math.prod(shape)

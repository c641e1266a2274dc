"""Raw requests of the binary extension: a body without JSON is the data of the only required input."""

from __future__ import annotations

import math

import numpy as np

from gateway.codec.tensors import from_bytes
from gateway.wire.body import BodyReader
from gateway.wording import counted
from runtimes.base import ANY, Array, Datatype, Signature
from runtimes.errors import InputError

_ADVICE = "send JSON with the tensors, and its length as Inference-Header-Content-Length"


class RawInput:
    """Reads a whole body as the only input of a model; the shape follows from the body's length.

    One dimension may be of any length. Where there are more, the first of them is a batch of 1 if it is the
    input's first. An input of BYTES must be a single element, and the body is that, with no length before it.
    """

    def __init__(self, signature: Signature) -> None:
        self._fault = ""
        if len(signature.inputs) != 1:
            self._fault = f"the model takes {counted(len(signature.inputs), 'input')}"
            return
        (spec,) = signature.inputs
        if spec.datatype == ANY:
            self._fault = f"the model does not say the datatype of input {spec.name!r}"
            return
        shape = list(spec.shape) if spec.shape is not None else [-1]
        if shape.count(-1) > 1 and shape[0] == -1:
            shape[0] = 1
        self._name = spec.name
        self._datatype = Datatype(spec.datatype)
        self._shape = shape
        self._fixed = math.prod(size for size in shape if size >= 0)
        if spec.shape is None or shape.count(-1) > 1 or not self._fixed:
            self._fault = f"the shape of input {spec.name!r} does not follow from a number of bytes"
        elif self._datatype is Datatype.BYTES and self._fixed != 1:
            self._fault = f"input {spec.name!r} holds more than one element of BYTES"

    def __call__(self, body: BodyReader) -> dict[str, Array]:
        """Return the input that the body is. Raises InputError when the body is not enough, or wrong."""
        if self._fault:
            raise InputError(f"a body without JSON is not enough: {self._fault}; {_ADVICE}")
        data = body.take(body.left)
        if self._datatype is Datatype.BYTES:
            one = np.empty(1, dtype=object)
            one[0] = bytes(data)
            return {self._name: one.reshape([1] * len(self._shape))}
        if not data:
            raise InputError(f"input {self._name!r}: the body is empty")
        step = self._fixed * self._datatype.numpy.itemsize
        shape = [size if size >= 0 else len(data) // step for size in self._shape]
        return {self._name: from_bytes(self._name, self._datatype, shape, data).reshape(shape)}

"""Inference over gRPC: a ModelInferRequest becomes a call on a model, its outputs a ModelInferResponse.

Specification: open-inference-protocol, `specification/protocol/inference_grpc.md`. As in Triton, answers have
raw contents always. Large raw inputs are taken out of a message before protobuf, which would copy them, sees
it; answers are written without it, as little in them changes from call to call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from gateway.codec.call import IN_BINARY, Call, RequestedOutput
from gateway.codec.classification import largest
from gateway.codec.grpc_structure import check_structure
from gateway.codec.tensors import from_bytes, to_bytes
from gateway.wire.body import BodyReader
from gateway.wire.grpc_messages import message
from gateway.wire.protobuf import Parts, field, plain_field, take_apart
from gateway.wording import counted
from runtimes.base import Array, Datatype
from runtimes.errors import ExecutionError, InputError
from runtimes.protobuf import varint

_MAX_RANK = 16
# A smaller message is parsed faster whole than in parts.
_LARGE = 65536
_RAW_INPUTS = 7
_RAW_OUTPUTS = 6
_MAX_REMEMBERED = 256

# Where typed contents of each datatype are; FP16 and BF16 come as raw contents only.
_CONTENTS: Mapping[Datatype, str] = {
    Datatype.BOOL: "bool_contents",
    Datatype.INT8: "int_contents",
    Datatype.INT16: "int_contents",
    Datatype.INT32: "int_contents",
    Datatype.INT64: "int64_contents",
    Datatype.UINT8: "uint_contents",
    Datatype.UINT16: "uint_contents",
    Datatype.UINT32: "uint_contents",
    Datatype.UINT64: "uint64_contents",
    Datatype.FP32: "fp32_contents",
    Datatype.FP64: "fp64_contents",
    Datatype.BYTES: "bytes_contents",
}
_REQUEST = message("inference.ModelInferRequest")


def read(pieces: Sequence[bytes | memoryview]) -> tuple[Any, list[memoryview]]:
    """Parse a ModelInferRequest; returns it, without its raw inputs where they are large, and these.

    Raises:
        InputError: when it is none.
    """
    try:
        if sum(map(len, pieces)) >= _LARGE:
            taken = take_apart(BodyReader(pieces), _RAW_INPUTS)
            if taken is not None:
                remainder, raw = taken
                check_structure(remainder)
                return _REQUEST.FromString(remainder), raw
            whole = b"".join(pieces)
            check_structure(whole)
            request = _REQUEST.FromString(whole)
        else:
            request = _REQUEST.FromString(bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces))
    except DecodeError as error:
        raise InputError(f"the message is no ModelInferRequest: {error}") from None
    return request, [memoryview(data) for data in request.raw_input_contents]


def decode(request: Any, raw: Sequence[memoryview], model: str) -> Call:
    """Make a call of what `read` gave; it must name `model`.

    Raises:
        InputError: naming the field that is wrong.
    """
    if request.model_name != model:
        raise InputError(f"model_name is {request.model_name!r}, but the call came to {model!r}")
    tensors = request.inputs
    if not tensors:
        raise InputError("`inputs` must have one tensor or more")
    if raw and len(raw) != len(tensors):
        raise InputError(
            "raw_input_contents must have an entry for each input: "
            f"it has {len(raw)}, for {counted(len(tensors), 'input')}"
        )
    inputs: dict[str, Array] = {}
    for position, tensor in enumerate(tensors):
        name = tensor.name
        if name in inputs:
            raise InputError(f"input {name!r} is there twice")
        inputs[name] = _tensor(tensor, name, raw[position] if raw else None)
    timeout_us = _whole(request.parameters, "timeout", "the request") if request.parameters else 0
    return Call(request.id, inputs, _outputs(request.outputs), IN_BINARY, timeout_us)


def _tensor(tensor: Any, name: str, raw: memoryview | None) -> Array:
    try:
        datatype = Datatype(tensor.datatype)
    except ValueError:
        datatypes = ", ".join(Datatype)
        raise InputError(f"input {name!r}: datatype {tensor.datatype!r} is none of {datatypes}") from None
    shape = list(tensor.shape)
    if len(shape) > _MAX_RANK or (shape and min(shape) < 0):
        raise InputError(
            f"input {name!r}: shape must be a list of at most {_MAX_RANK} whole numbers from 0 up"
        )
    if tensor.parameters:
        _check(tensor.parameters, f"input {name!r}")
    if raw is None:
        array = _typed(tensor, name, datatype, shape)
    elif tensor.HasField("contents"):
        raise InputError(f"input {name!r}: send contents or raw_input_contents, not both")
    else:
        array = from_bytes(name, datatype, shape, raw)
    try:
        return array.reshape(shape)
    except ValueError:
        # numpy multiplies the other sizes even where one of them is 0
        raise InputError(f"input {name!r}: shape {shape} is too large") from None


def _typed(tensor: Any, name: str, datatype: Datatype, shape: list[int]) -> Array:
    field_name = _CONTENTS.get(datatype)
    if field_name is None:
        raise InputError(f"input {name!r}: {datatype} comes in raw_input_contents alone")
    contents = tensor.contents
    others = ", ".join(field.name for field, _ in contents.ListFields() if field.name != field_name)
    if others:
        raise InputError(
            f"input {name!r}: data of {datatype} belongs in contents.{field_name}, not in {others}"
        )
    values = getattr(contents, field_name)
    if len(values) != (count := math.prod(shape)):
        raise InputError(
            f"input {name!r}: shape {shape} needs {counted(count, 'element')}, contents has {len(values):,}"
        )
    if datatype is Datatype.BYTES:
        elements = np.empty(len(values), dtype=object)
        elements[:] = list(values)
        return elements
    try:
        return np.fromiter(values, datatype.numpy, len(values))
    except OverflowError:
        limits = np.iinfo(datatype.numpy)
        raise InputError(
            f"input {name!r}: a value is outside {datatype} ({limits.min} to {limits.max})"
        ) from None


def _outputs(requested: Any) -> dict[str, RequestedOutput]:
    outputs: dict[str, RequestedOutput] = {}
    for output in requested:
        name = output.name
        if name in outputs:
            raise InputError(f"output {name!r} is asked for twice")
        if output.parameters:
            classes = _whole(output.parameters, "classification", f"output {name!r}")
            outputs[name] = RequestedOutput(True, classes)
        else:
            outputs[name] = IN_BINARY
    return outputs


def _whole(parameters: Any, key: str, where: str) -> int:
    """Return a parameter that is a whole number from 0 up; 0 where it is missing."""
    _check(parameters, where)
    if key not in parameters:
        return 0
    choice = parameters[key].WhichOneof("parameter_choice")
    value = getattr(parameters[key], choice) if choice in ("int64_param", "uint64_param") else -1
    if value < 0:
        raise InputError(f"{where}: {key} must be a whole number from 0 up")
    return int(value)


def _check(parameters: Any, where: str) -> None:
    """Check parameters; unknown ones are ignored."""
    for key, parameter in parameters.items():
        if parameter.WhichOneof("parameter_choice") is None:
            raise InputError(f"{where}: parameter {key!r} has no value")
    if "shared_memory_region" in parameters:
        raise InputError(f"{where}: shared memory is not supported; send data with the request")


class GrpcEncoder:
    """Writes the answers of one version; `labels` are those of `json_answer.Encoder`."""

    def __init__(self, model: str, version: str, labels: Mapping[str, Sequence[str]]) -> None:
        self._head = plain_field(1, model.encode()) + plain_field(2, version.encode())
        self._labels = labels
        self._all_labels = labels.get("", ())
        self._tensors: dict[tuple[str, np.dtype[Any], tuple[int, ...]], bytes] = {}

    def __call__(self, call: Call, outputs: Mapping[str, Array]) -> Parts:
        """Write an answer, in parts that are one message.

        Raises:
            ExecutionError: when the protocol has no datatype for an output.
            InputError: when classes are requested of an output that has none.
        """
        parts: Parts = [self._head]
        raw: Parts = []
        if call.id:
            parts.append(plain_field(3, call.id.encode()))
        for name, output in outputs.items():
            requested = call.outputs.get(name, call.others)
            array = output
            if requested.classes:
                array = largest(name, output, requested.classes, self._labels.get(name, self._all_labels))
            key = name, array.dtype, array.shape
            parts.append(self._tensors.get(key) or self._describe(name, array))
            data = to_bytes(array)
            raw += field(_RAW_OUTPUTS, [data])
        return parts + raw

    def _describe(self, name: str, array: Array) -> bytes:
        """Return an InferOutputTensor without contents, and remember it."""
        try:
            datatype = Datatype.of(array.dtype).value
        except InputError as error:
            raise ExecutionError(f"output {name!r}: {error}") from error
        shape = b"".join(map(varint, array.shape))
        tensor = plain_field(1, name.encode()) + plain_field(2, datatype.encode()) + plain_field(3, shape)
        if len(self._tensors) >= _MAX_REMEMBERED:
            self._tensors.clear()
        described = self._tensors[name, array.dtype, array.shape] = plain_field(5, tensor)
        return described

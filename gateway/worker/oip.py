"""The Open Inference Protocol in JSON: a request body becomes arrays, arrays become an answer.

Specification: open-inference-protocol, `specification/protocol/inference_rest.md`. Beyond it, numbers
are checked strictly: 1.5 is no INT64, true is no FP32, and a shape must fit its data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson

from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.errors import ExecutionError, InputError

_MAX_RANK = 16
# Which types of JSON values each kind (of numpy) of datatype takes.
_ACCEPTS: Mapping[str, frozenset[type]] = {
    "f": frozenset({float, int}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "b": frozenset({bool}),
    "O": frozenset({str}),
}
_TYPE_NAMES: Mapping[type, str] = {
    float: "fractions",
    int: "integers",
    bool: "booleans",
    str: "strings",
    dict: "objects",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class Call:
    """One decoded request. `outputs` is empty when all are wanted."""

    id: str
    inputs: dict[str, Array]
    outputs: tuple[str, ...]


def decode(body: bytes) -> Call:
    """Read an inference request.

    Raises:
        InputError: naming the field that is wrong.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InputError(f"the body is not JSON: {error}") from None
    if type(document) is not dict:
        raise InputError("the body must be a JSON object with `inputs`")
    tensors = document.get("inputs")
    if type(tensors) is not list or not tensors:
        raise InputError("`inputs` must be a list of one tensor or more")
    inputs: dict[str, Array] = {}
    for position, tensor in enumerate(tensors):
        name, array = _decode_tensor(tensor, position)
        if name in inputs:
            raise InputError(f"input {name!r} is there twice")
        inputs[name] = array
    request_id = document.get("id", "")
    if type(request_id) is not str:
        raise InputError("`id` must be a string")
    wanted = document.get("outputs")
    return Call(request_id, inputs, () if wanted is None else _output_names(wanted))


def _decode_tensor(tensor: Any, position: int) -> tuple[str, Array]:
    if type(tensor) is not dict:
        raise InputError(f"inputs[{position}] must be an object")
    name = tensor.get("name")
    if type(name) is not str:
        raise InputError(f"inputs[{position}].name must be a string")
    try:
        datatype = Datatype(str(tensor.get("datatype")))
    except ValueError:
        known = ", ".join(Datatype)
        raise InputError(f"input {name!r}: datatype {tensor.get('datatype')!r} is none of {known}") from None
    shape = tensor.get("shape")
    if type(shape) is not list or len(shape) > _MAX_RANK or not all(type(n) is int and n >= 0 for n in shape):
        raise InputError(
            f"input {name!r}: shape must be a list of at most {_MAX_RANK} whole numbers from 0 up"
        )
    data = tensor.get("data")
    if type(data) is not list:
        raise InputError(f"input {name!r}: data must be a list (binary tensors are not taken: send JSON)")
    array = _array(name, data, datatype)
    if array.size != math.prod(shape):
        raise InputError(
            f"input {name!r}: shape {shape} needs {math.prod(shape)} elements, data has {array.size}"
        )
    try:
        return name, array.reshape(shape)
    except ValueError:
        # numpy multiplies the other sizes even where one of them is 0
        raise InputError(f"input {name!r}: shape {shape} is too large") from None


def _array(name: str, data: list[Any], datatype: Datatype) -> Array:
    flat, types = _flat(name, data)
    wanted = datatype.numpy
    wrong = types - _ACCEPTS[wanted.kind]
    if wrong:
        found = " or ".join(sorted(_TYPE_NAMES[kind] for kind in wrong))
        raise InputError(f"input {name!r}: {datatype} cannot be made of {found}")
    if datatype is Datatype.BYTES:
        array = np.empty(len(flat), dtype=object)
        array[:] = [item.encode() for item in flat]
        return array
    if wanted.kind in "iu" and flat:
        return _integers(name, flat, datatype)
    return np.array(flat, dtype=wanted)


def _flat(name: str, data: list[Any]) -> tuple[list[Any], set[type]]:
    """The elements of lists in lists, and their types; lists side by side must have one length."""
    while list in (types := set(map(type, data))):
        if len(types) > 1 or len(set(map(len, data))) > 1:
            raise InputError(f"input {name!r}: data is ragged")
        data = list(chain.from_iterable(data))
    return data, types


def _integers(name: str, flat: list[int], datatype: Datatype) -> Array:
    limits = np.iinfo(datatype.numpy)
    found = np.array(flat)
    if found.dtype.kind == "f":
        # numpy's choice for small and very large integers side by side
        found = np.array(flat, dtype=object)
    if found.min() < limits.min or found.max() > limits.max:
        raise InputError(f"input {name!r}: a value is outside {datatype} ({limits.min} to {limits.max})")
    return found.astype(datatype.numpy)


def _output_names(wanted: Any) -> tuple[str, ...]:
    if type(wanted) is not list:
        raise InputError("`outputs` must be a list")
    names = [output.get("name") if type(output) is dict else None for output in wanted]
    known = tuple(name for name in names if type(name) is str)
    if len(known) != len(names):
        raise InputError("each of `outputs` must be an object with a `name`")
    return known


class Encoder:
    """Writes the answers of one version; what never changes is written once."""

    def __init__(self, model: str, version: str) -> None:
        self._head = orjson.dumps({"model_name": model, "model_version": version})[:-1]
        self._datatypes: dict[np.dtype[Any], str] = {}

    def __call__(self, request_id: str, outputs: Mapping[str, Array]) -> bytes:
        """Write an answer. NaN and the infinities, which JSON has not, become null.

        Raises:
            ExecutionError: when the protocol has no datatype for an output.
        """
        tensors = [
            {
                "name": name,
                "datatype": self._datatypes.get(array.dtype) or self._datatype(name, array),
                "shape": array.shape,
                "data": _plain(array),
            }
            for name, array in outputs.items()
        ]
        tail = orjson.dumps({"id": request_id, "outputs": tensors}, option=orjson.OPT_SERIALIZE_NUMPY)
        return self._head + b"," + tail[1:]

    def _datatype(self, name: str, array: Array) -> str:
        try:
            known = self._datatypes[array.dtype] = Datatype.of(array.dtype).value
        except InputError as error:
            raise ExecutionError(f"output {name!r}: {error}") from error
        return known


def _plain(array: Array) -> Any:
    flat = array.reshape(-1)
    if array.dtype.kind in "OSU":
        return [_text(item) for item in flat.tolist()]
    return flat if flat.flags.c_contiguous else flat.copy()


def _text(item: Any) -> str:
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)


def metadata(model: str, version: str, platform: str, signature: Signature) -> bytes:
    """Write a model's metadata; an unknown rank is written as [-1]."""
    return orjson.dumps(
        {
            "name": model,
            "versions": [version],
            "platform": platform,
            "inputs": [_spec(spec) for spec in signature.inputs],
            "outputs": [_spec(spec) for spec in signature.outputs],
        }
    )


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": [-1] if spec.shape is None else spec.shape}


def error(message: str) -> bytes:
    """Write an error as every client of the protocol reads it."""
    return orjson.dumps({"error": message})

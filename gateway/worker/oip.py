"""The Open Inference Protocol in JSON: a request body becomes arrays, arrays become an answer.

Specification: open-inference-protocol, `specification/protocol/inference_rest.md`. Beyond it, numbers
are checked strictly: 1.5 is no INT64, true is no FP32, and a shape must fit its data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from runtimes.base import Array, Datatype, Signature, TensorSpec
from runtimes.errors import InputError

_MAX_RANK = 16
# Which kinds of JSON values (numpy kinds of the parsed list) each kind of datatype takes.
_ACCEPTS: Mapping[str, str] = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}
_KIND_NAMES: Mapping[str, str] = {
    "f": "fractions",
    "i": "integers",
    "u": "integers",
    "b": "booleans",
    "U": "strings",
    "O": "values of several types",
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
    return Call(request_id, inputs, _output_names(wanted) if wanted else ())


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
    array = _strings(name, data) if datatype is Datatype.BYTES else _numbers(name, data, datatype)
    if array.size != math.prod(shape):
        raise InputError(
            f"input {name!r}: shape {shape} needs {math.prod(shape)} elements, data has {array.size}"
        )
    return name, array.reshape(shape)


def _numbers(name: str, data: list[Any], datatype: Datatype) -> Array:
    wanted = datatype.numpy
    try:
        found = np.array(data)
    except (ValueError, OverflowError):
        raise InputError(f"input {name!r}: data is ragged or holds values of several types") from None
    if found.size == 0:
        return found.astype(wanted)
    if found.dtype.kind not in _ACCEPTS[wanted.kind]:
        kind = _KIND_NAMES.get(found.dtype.kind, "other values")
        raise InputError(f"input {name!r}: {datatype} cannot be made of {kind}")
    if wanted.kind in "iu":
        limits = np.iinfo(wanted)
        if int(found.min()) < limits.min or int(found.max()) > limits.max:
            raise InputError(f"input {name!r}: a value is outside {datatype} ({limits.min} to {limits.max})")
    with np.errstate(over="ignore"):
        return found.astype(wanted)


def _strings(name: str, data: list[Any]) -> Array:
    flat = _flatten(data)
    if not all(type(item) is str for item in flat):
        raise InputError(f"input {name!r}: BYTES takes strings alone")
    array = np.empty(len(flat), dtype=object)
    array[:] = [item.encode() for item in flat]
    return array


def _flatten(data: list[Any]) -> list[Any]:
    while any(type(item) is list for item in data):
        data = [inner for item in data for inner in (item if type(item) is list else [item])]
    return data


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

    def __call__(self, request_id: str, outputs: Mapping[str, Array]) -> bytes:
        """Write an answer. NaN and the infinities, which JSON has not, become null."""
        tensors = [
            {
                "name": name,
                "datatype": Datatype.of(array.dtype).value,
                "shape": array.shape,
                "data": _plain(array),
            }
            for name, array in outputs.items()
        ]
        tail = orjson.dumps({"id": request_id, "outputs": tensors}, option=orjson.OPT_SERIALIZE_NUMPY)
        return self._head + b"," + tail[1:]


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
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape or (-1,))}


def error(message: str) -> bytes:
    """Write an error as every client of the protocol reads it."""
    return orjson.dumps({"error": message})

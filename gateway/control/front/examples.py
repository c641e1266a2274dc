"""Examples of calls, derived from a model's signature: bodies, and commands to paste into a shell. Pure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from itertools import cycle, islice
from typing import Any

import numpy as np
import orjson

from runtimes.base import ANY, Datatype, Signature, TensorSpec

MAX_ELEMENTS = 256
"""How many elements are shown as JSON; larger tensors are shown as raw bytes."""
_FLOATS = tuple(step / 10 for step in range(1, 10))
# 1 is the safest integer: a valid index into nearly every table, and a valid size.
_VALUES: Mapping[str, tuple[Any, ...]] = {"f": _FLOATS, "V": _FLOATS, "b": (True, False), "O": ("text",)}
_INTEGERS = (1,)
# A string is its length in four bytes, then its own bytes.
_EMPTY_TEXT_BYTES = 4


def shape_of(spec: TensorSpec) -> list[int]:
    """Return a shape that a tensor may have: 1 for an axis of any length, and one axis for any rank."""
    shape = spec.likely_shape if spec.shape is None else spec.shape
    return [1] if shape is None else [1 if size < 0 else size for size in shape]


def is_small(specs: tuple[TensorSpec, ...]) -> bool:
    """Whether tensors are small enough to be shown as JSON."""
    return sum(math.prod(shape_of(spec)) for spec in specs) <= MAX_ELEMENTS


def is_known(signature: Signature) -> bool:
    """Whether a signature has the datatypes and shapes of all inputs: some formats do not record them."""
    return all(spec.shape is not None and spec.datatype != ANY for spec in signature.inputs)


def tensor(spec: TensorSpec) -> dict[str, Any]:
    """Return a tensor as the protocol's JSON, with plausible values for its datatype."""
    shape = shape_of(spec)
    values = _VALUES.get(spec.usual.numpy.kind, _INTEGERS)
    data = list(islice(cycle(values), math.prod(shape)))
    return {"name": spec.name, "shape": shape, "datatype": spec.usual, "data": data}


def request(signature: Signature) -> dict[str, Any]:
    """Return the body of a call, all in JSON."""
    return {"inputs": [tensor(spec) for spec in signature.inputs]}


def raw_request(signature: Signature) -> tuple[dict[str, Any], int]:
    """Return the JSON of a call whose tensors follow as raw bytes, and how many bytes follow; all are 0."""
    inputs = [
        {
            "name": spec.name,
            "shape": shape_of(spec),
            "datatype": spec.usual,
            "parameters": {"binary_data_size": _raw_size(spec)},
        }
        for spec in signature.inputs
    ]
    return {"inputs": inputs}, sum(map(_raw_size, signature.inputs))


def answer(model: str, version: str, signature: Signature) -> dict[str, Any]:
    """Return an answer in JSON, as far as the signature describes it."""
    outputs = [tensor(spec) for spec in signature.outputs]
    return {"model_name": model, "model_version": version, "id": "", "outputs": outputs}


def command(url: str, signature: Signature) -> str:
    """Write the curl command that makes a call on `url`, for a POSIX shell.

    It sends JSON where a person can read it, else raw tensors of zeros.
    """
    if is_small(signature.inputs):
        body = orjson.dumps(request(signature)).decode()
        return (
            f"curl {shlex.quote(url)} \\\n  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(body)}"
        )
    document, zeros = raw_request(signature)
    head = orjson.dumps(document)
    return (
        f"{{ printf %s {shlex.quote(head.decode())}; head -c {zeros} /dev/zero; }} |\n"
        f"  curl {shlex.quote(url)} \\\n"
        f"    -H 'Inference-Header-Content-Length: {len(head)}' \\\n"
        "    -H 'Content-Type: application/octet-stream' \\\n"
        "    --data-binary @-"
    )


def _raw_size(spec: TensorSpec) -> int:
    datatype = spec.usual
    each = _EMPTY_TEXT_BYTES if datatype is Datatype.BYTES else datatype.numpy.itemsize
    return math.prod(shape_of(spec)) * each


def predict(signature: Signature) -> dict[str, Any] | None:
    """Return the body of a call with rows; None where there are no rows, or too many values to read."""
    inputs = {spec.name: tensor(spec) for spec in signature.inputs}
    lengths = {tensor["shape"][0] if tensor["shape"] else -1 for tensor in inputs.values()}
    if len(lengths) != 1 or min(lengths) < 1 or not is_small(signature.inputs):
        return None
    return {"rows": _rows(inputs.values())}


def rows_of(text: str) -> dict[str, Any] | None:
    """Return a request of the Open Inference Protocol as rows; None where it cannot be."""
    try:
        rows = _rows(orjson.loads(text)["inputs"])
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    return {"rows": rows} if rows else None


def _rows(tensors: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Return the rows of tensors in JSON: objects by name, or the values of the only matrix."""
    columns: dict[str, list[Any]] = {}
    is_matrix = False
    for tensor in tensors:
        shape = tensor["shape"]
        is_matrix = math.prod(shape[1:]) > 1
        flat = len(shape) == 2 and shape[1] == 1
        data = np.array(tensor["data"], object).reshape(shape[:1] if flat else shape)
        columns[tensor["name"]] = data.tolist()
    if len(columns) == 1 and is_matrix:
        return next(iter(columns.values()))
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

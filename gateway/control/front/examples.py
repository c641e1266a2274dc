"""Examples of calls, derived from a model's signature: bodies, and commands to paste into a shell. Pure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from itertools import cycle, islice
from typing import Any

import orjson

from runtimes.base import Datatype, Signature, TensorSpec

MOST_ELEMENTS = 256
"""What a call may hold to be shown as JSON; larger tensors are shown as raw bytes."""
_FLOATS = tuple(step / 10 for step in range(1, 10))
# Of integers, 1 is the most harmless: it is an index of nearly every table, and a size of every thing.
_VALUES: Mapping[str, tuple[Any, ...]] = {"f": _FLOATS, "V": _FLOATS, "b": (True, False), "O": ("text",)}
_INTEGERS = (1,)
# An empty string is its length, 0, in four bytes.
_BYTES_OF_EMPTY_TEXT = 4


def shape_of(spec: TensorSpec) -> list[int]:
    """A shape that a tensor may have: 1 wherever any length will do, one axis where any rank will."""
    return [1] if spec.shape is None else [1 if size < 0 else size for size in spec.shape]


def is_small(specs: tuple[TensorSpec, ...]) -> bool:
    """Whether tensors can be shown number by number."""
    return sum(math.prod(shape_of(spec)) for spec in specs) <= MOST_ELEMENTS


def is_known(signature: Signature) -> bool:
    """Whether a call can be written from the signature alone: a format need not record its shapes."""
    return all(spec.shape is not None for spec in signature.inputs)


def tensor(spec: TensorSpec) -> dict[str, Any]:
    """A tensor as the protocol's JSON has it, with values that are plausible for its datatype."""
    shape = shape_of(spec)
    values = _VALUES.get(Datatype(spec.datatype).numpy.kind, _INTEGERS)
    data = list(islice(cycle(values), math.prod(shape)))
    return {"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": data}


def request(signature: Signature) -> dict[str, Any]:
    """The body of a call, all in JSON."""
    return {"inputs": [tensor(spec) for spec in signature.inputs]}


def raw_request(signature: Signature) -> tuple[dict[str, Any], int]:
    """The JSON of a call whose tensors follow it as raw bytes, and how many bytes those are; all are 0."""
    inputs = [
        {
            "name": spec.name,
            "shape": shape_of(spec),
            "datatype": spec.datatype,
            "parameters": {"binary_data_size": _raw_size(spec)},
        }
        for spec in signature.inputs
    ]
    return {"inputs": inputs}, sum(map(_raw_size, signature.inputs))


def answer(model: str, version: str, signature: Signature) -> dict[str, Any]:
    """An answer in JSON, as far as the signature tells what it holds."""
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
    datatype = Datatype(spec.datatype)
    each = _BYTES_OF_EMPTY_TEXT if datatype is Datatype.BYTES else datatype.numpy.itemsize
    return math.prod(shape_of(spec)) * each

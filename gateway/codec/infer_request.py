"""A call on a model becomes a request of the Open Inference Protocol: numbers raw, strings in JSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import orjson

from gateway.codec.tensors import to_bytes
from runtimes.base import Array, Datatype


def write_request(
    inputs: Mapping[str, Array], outputs: Collection[str] = ()
) -> tuple[list[bytes | memoryview], int]:
    """Return the pieces of a body, and how many bytes of it are JSON; the answer is to be raw tensors."""
    tensors = []
    raw: list[bytes | memoryview] = []
    for name, array in inputs.items():
        datatype = Datatype.of(array.dtype)
        tensor: dict[str, object] = {"name": name, "datatype": datatype.value, "shape": array.shape}
        if datatype is Datatype.BYTES:
            tensor["data"] = [_text(item) for item in array.reshape(-1).tolist()]
        else:
            data = to_bytes(array)
            raw.append(data)
            tensor["parameters"] = {"binary_data_size": len(data)}
        tensors.append(tensor)
    document: dict[str, object] = {"inputs": tensors, "parameters": {"binary_data_output": True}}
    if outputs:
        document["outputs"] = [{"name": name} for name in outputs]
    head = orjson.dumps(document)
    return [head, *raw], len(head)


def _text(item: object) -> object:
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else item

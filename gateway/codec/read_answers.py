"""The Open Inference Protocol's answers as a client reads them: JSON, with raw tensors after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from gateway.codec.non_finite import to_floats
from gateway.codec.tensors import from_bytes
from runtimes.base import Array, Datatype
from runtimes.errors import InputError


def read_answer(body: memoryview, json_size: int | None) -> dict[str, Array]:
    """Read an answer of the Open Inference Protocol, of which `json_size` bytes are JSON; None: all of it.

    Raises:
        InputError: when it is no such answer.
    """
    try:
        document = orjson.loads(body if json_size is None else body[:json_size])
        outputs: dict[str, Array] = {}
        raw = memoryview(b"") if json_size is None else body[json_size:]
        for tensor in document["outputs"]:
            name, datatype, shape = tensor["name"], Datatype(tensor["datatype"]), tensor["shape"]
            if "data" in tensor:
                flat = _from_json(tensor["data"], datatype)
            else:
                size = tensor["parameters"]["binary_data_size"]
                flat, raw = from_bytes(name, datatype, shape, raw[:size]), raw[size:]
            outputs[name] = flat.reshape(shape)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"this is no answer of the Open Inference Protocol: {error}") from error
    return outputs


def _from_json(data: list[Any], datatype: Datatype) -> Array:
    dtype = datatype.numpy
    array = to_floats(data, dtype) if dtype.kind in "fV" else np.array(data, dtype)
    return array.reshape(-1)

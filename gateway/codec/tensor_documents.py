"""Tensors as JSON that says all of them, for records of calls: what is written is read back the same.

They have the form of the Open Inference Protocol's JSON, with numbers as numbers. BYTES are text, or where
an element is no UTF-8, all in base64, with the parameter `content_type` that MLServer has for it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gateway.codec.non_finite import is_float, to_floats, to_json
from runtimes.base import Array, Datatype
from runtimes.errors import InputError

_BASE64 = {"content_type": "base64"}


def tensor_documents(tensors: Mapping[str, Array]) -> list[dict[str, Any]]:
    """Return tensors as JSON, in order.

    Raises:
        InputError: when the protocol has no datatype for one.
    """
    return [_document(name, array) for name, array in tensors.items()]


def read_tensor_documents(documents: Iterable[Mapping[str, Any]]) -> dict[str, Array]:
    """Read what `tensor_documents` wrote.

    Raises:
        InputError: when it is something else.
    """
    try:
        return {str(document["name"]): _array(document) for document in documents}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"these are no tensors of a record: {error}") from error


def _document(name: str, array: Array) -> dict[str, Any]:
    datatype = Datatype.of(array.dtype)
    document: dict[str, Any] = {"name": name, "datatype": datatype.value, "shape": list(array.shape)}
    flat = array.reshape(-1)
    if datatype is not Datatype.BYTES:
        # Through JSON: its numbers have as many digits as their datatype needs.
        document["data"] = to_json(flat) if is_float(flat) else flat.tolist()
        return document
    elements = [item if isinstance(item, bytes) else str(item).encode() for item in flat.tolist()]
    try:
        document["data"] = [element.decode() for element in elements]
    except UnicodeDecodeError:
        document["parameters"] = _BASE64
        document["data"] = [base64.b64encode(element).decode() for element in elements]
    return document


def _array(document: Mapping[str, Any]) -> Array:
    datatype, shape, data = Datatype(document["datatype"]), document["shape"], document["data"]
    if datatype is Datatype.BYTES:
        is_base64 = document.get("parameters") == _BASE64
        flat = np.empty(len(data), dtype=object)
        flat[:] = [base64.b64decode(item, validate=True) if is_base64 else item.encode() for item in data]
        return flat.reshape(shape)
    dtype = datatype.numpy
    flat = to_floats(data, dtype) if dtype.kind in "fV" else np.array(data, dtype)
    return flat.reshape(shape)

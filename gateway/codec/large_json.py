"""Large JSON bodies: their lists of numbers become arrays without a Python object for each number.

simdjson parses them, in a third of the time that orjson and numpy take; `loadtests.codec` measures it. Its
result is used only where it is sure to be what orjson reads; anything else is left to orjson.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, Literal

import numpy as np
from simdjson import Array as JsonArray
from simdjson import Object as JsonObject
from simdjson import Parser

from runtimes.base import Array, Datatype

# A parser keeps the memory that its largest body took, some 10 bytes for each byte.
_KEPT_BYTES = 4 * 1024 * 1024
# simdjson counts no further than 0xFFFFFF elements of a list, and pysimdjson writes beyond its memory then. A
# body below this has no list that is so long.
_MAX_BYTES = 2 * 0xFFFFFF
# Of bodies with more lists than one in so many bytes, most is lists and not numbers.
_BYTES_OF_A_LIST = 8
# In fewer bytes than this numpy is slower to count.
_SHORT_BYTES = 8192
_MAX_DEPTH = 16
_BYTE_ORDER_MARK = 0xEF
_OPENING = ord("[")
_DOCUMENT = frozenset({"id", "inputs", "outputs", "parameters"})
_MISSING = object()
_TENSOR = frozenset({"name", "datatype", "shape", "data", "parameters"})

Kind = Literal["d", "i", "u"]
_KINDS: Mapping[str, Kind] = {
    datatype.value: "i" if datatype.numpy.kind == "i" else "u" if datatype.numpy.kind == "u" else "d"
    for datatype in Datatype
    if datatype not in (Datatype.BOOL, Datatype.BYTES)
}
_DTYPES: Mapping[Kind, np.dtype[Any]] = {"d": np.dtype("f8"), "i": np.dtype("i8"), "u": np.dtype("u8")}


class LargeBodies:
    """Reads large bodies. It may be called from any thread."""

    def __init__(self) -> None:
        # A parser serves one body at a time; those that are free wait here.
        self._parsers: list[Parser] = []

    def __call__(self, text: bytes | memoryview) -> dict[str, Any] | None:
        """Return a request as `orjson.loads` would, but with an array (FP64, INT64 or UINT64) as `data`.

        Only data whose numbers all are of the tensor's kind are an array; the array is flat. Members that a
        request does not have are left out. None: have orjson read the body, which may not be JSON at all.
        """
        if len(text) >= _MAX_BYTES or text[0] == _BYTE_ORDER_MARK:
            return None  # the mark is skipped by simdjson
        if type(text) is bytes and len(text) < _SHORT_BYTES:
            lists = text.count(b"[")
        else:
            lists = int(np.count_nonzero(np.frombuffer(text, np.uint8) == _OPENING))
        if lists * _BYTES_OF_A_LIST > len(text):
            return None
        try:
            parser = self._parsers.pop()
        except IndexError:
            parser = Parser()
        try:
            return _request(parser.parse(text), lists)
        except (ValueError, TypeError, RuntimeError):
            return None
        finally:
            if len(text) <= _KEPT_BYTES:
                self._parsers.append(parser)


def _request(root: Any, lists: int) -> dict[str, Any] | None:
    """Read a document with so many opening brackets."""
    document = _members(root, _DOCUMENT)
    if document is None or type(document.get("inputs")) is not JsonArray:
        return None
    inputs = []
    seen = 1 + (type(document.get("outputs")) is JsonArray)
    for item in document["inputs"]:
        tensor = _members(item, _TENSOR)
        if tensor is None:
            return None
        seen += type(tensor.get("shape")) is JsonArray
        data = tensor.pop("data", _MISSING)
        plain = {key: _plain(value) for key, value in tensor.items()}
        if data is not _MISSING:
            if type(data) is not JsonArray:
                return None
            within = _lists(data)
            if not within:
                return None
            seen += within
            datatype = plain.get("datatype")
            kind = _KINDS.get(datatype) if type(datatype) is str else None
            plain["data"] = _numbers(data, kind)
        inputs.append(plain)
    if seen != lists:
        return None  # there are lists among the numbers, or brackets in strings
    return {key: inputs if key == "inputs" else _plain(value) for key, value in document.items()}


def _members(item: Any, keys: frozenset[str]) -> dict[str, Any] | None:
    """Return those members of an object that `keys` names; None for no object, or one with a member twice."""
    if type(item) is not JsonObject:
        return None
    members: dict[str, Any] = {}
    for key in item:
        if key in keys:
            if key in members:
                return None  # the last is valid, and simdjson finds the first
            members[key] = item[key]
    return members


def _plain(value: Any) -> Any:
    if type(value) is JsonObject:
        return value.as_dict()
    return value.as_list() if type(value) is JsonArray else value


def _lists(data: JsonArray) -> int:
    """Return how many lists data is made of, with itself; 0 where lists side by side differ in length.

    Lists among the numbers of the innermost lists are not looked for. Raises TypeError where a number stands
    among lists.
    """
    size = len(data)
    total = rows = depth = 1
    first: Any = data
    while size and type(first := first[0]) is JsonArray:
        # No list of rows is kept: there may be very many, each of which is an object while it is looked at.
        sizes = set(map(len, _within(data, depth)))
        if len(sizes) != 1 or depth == _MAX_DEPTH:
            return 0
        rows *= size
        total += rows
        size = sizes.pop()
        depth += 1
    return total


def _within(data: Iterable[Any], depth: int) -> Iterable[Any]:
    for _ in range(depth - 1):
        data = chain.from_iterable(data)
    return data


def _numbers(data: JsonArray, kind: Kind | None) -> Array | list[Any]:
    """Return data as a flat array, or as lists where not all elements are numbers of the kind."""
    if kind is not None:
        try:
            return np.frombuffer(data.as_buffer(of_type=kind), _DTYPES[kind])
        except (TypeError, ValueError):
            pass  # the caller says which they are
    return data.as_list()

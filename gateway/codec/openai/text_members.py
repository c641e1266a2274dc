"""The members of a call on a model of texts: which there are, and what their values may be."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from gateway.codec.json_structure import check_objects, structure_of
from gateway.codec.openai.errors import RefusedCall
from gateway.wording import counted
from runtimes.base import Array
from runtimes.errors import InputError

# A call is texts, and no large tensors. Several are read at a time.
_MAX_OBJECT_BYTES = 128 * 1024 * 1024
_LARGE_BYTES = 256 * 1024
MAX_TEXTS = 2048
"""How many texts a call may have, as OpenAI has it."""


def read_members(body: Sequence[bytes | memoryview], names: Collection[str]) -> Mapping[str, Any]:
    """Return the members of a call; those that are null are left out.

    Raises:
        RefusedCall: for a body that is no JSON object, or that has other members than these.
    """
    data = body[0] if len(body) == 1 else b"".join(body)
    check_text(data)
    try:
        members = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RefusedCall(f"the body is no JSON: {error}") from error
    if not isinstance(members, dict):
        raise RefusedCall("the body must be a JSON object")
    for name in members:
        if name not in names:
            raise RefusedCall(f"unknown member {name!r}; there are {', '.join(names)}", name)
    return {name: value for name, value in members.items() if value is not None}


def check_text(data: bytes | memoryview) -> None:
    """Raise RefusedCall for a body of JSON with more values than any call has; texts count little."""
    if len(data) >= _LARGE_BYTES:
        try:
            check_objects(structure_of(data).object_bytes, _MAX_OBJECT_BYTES)
        except InputError as error:
            raise RefusedCall(str(error)) from error


def required(members: Mapping[str, Any], name: str) -> Any:
    """Return a member that a call must have. Raises RefusedCall."""
    if name not in members:
        raise RefusedCall(f"the member {name!r} is missing", name)
    return members[name]


def text_of(value: Any, name: str) -> bytes:
    """Return a string as UTF-8. Raises RefusedCall for anything else, and for an empty one."""
    if not isinstance(value, str):
        raise RefusedCall(f"{name} must be a string", name.partition("[")[0])
    if not value:
        raise RefusedCall(f"{name} is empty", name.partition("[")[0])
    return value.encode()


def count_of(value: Any, name: str) -> int:
    """Return a whole number above 0. Raises RefusedCall for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RefusedCall(f"{name} must be a whole number above 0", name)
    return value


def bounded(values: Sequence[Any], name: str) -> Sequence[Any]:
    """Return a list that is neither empty nor too long. Raises RefusedCall for another."""
    if not 1 <= len(values) <= MAX_TEXTS:
        raise RefusedCall(
            f"{name} has {counted(len(values), 'entry', 'entries')}; it must have 1 to {MAX_TEXTS:,}", name
        )
    return values


def rows_of_text(texts: Sequence[bytes]) -> Array:
    """Return a BYTES tensor of one axis."""
    array = np.empty(len(texts), object)
    array[:] = texts
    return array

"""What each datatype's elements are made of in JSON, and what elements of other types are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from runtimes.base import Datatype

# Which types of JSON values each kind (of numpy) of datatype takes; BF16 is of kind V.
_ACCEPTS: Mapping[str, frozenset[type]] = {
    "f": frozenset({float, int}),
    "V": frozenset({float, int}),
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
class Elements:
    """What a datatype's elements are: in an array, in JSON, and the range of integers."""

    datatype: Datatype
    dtype: np.dtype[Any]
    kind: str
    accepted: frozenset[type]
    minimum: int = 0
    maximum: int = 0


def _elements(datatype: Datatype) -> Elements:
    dtype = datatype.numpy
    elements = Elements(datatype, dtype, dtype.kind, _ACCEPTS[dtype.kind])
    if dtype.kind not in "iu":
        return elements
    limits = np.iinfo(dtype)
    return replace(elements, minimum=int(limits.min), maximum=int(limits.max))


ELEMENTS: Mapping[str, Elements] = {datatype.value: _elements(datatype) for datatype in Datatype}
FLOAT_ELEMENTS = frozenset({float, int, type(None), str})
"""The types of elements that floats are made of: null is a missing value, and a few strings are numbers."""
FLOATS = ", ".join(datatype for datatype in Datatype if _ACCEPTS[datatype.numpy.kind] >= {float})
"""The datatypes of floats, in one text."""


def type_names(types: Iterable[type]) -> str:
    """Return what elements of these types are called: "fractions or null"."""
    return " or ".join(sorted(_TYPE_NAMES[kind] for kind in types))

"""The values of one input become its tensor: one value, or nested lists of them, for each row.

Values are taken as strictly as in the Open Inference Protocol (`codec.json_request`): 1.5 is no INT64, true
is no FP32. Beyond that 51.0 is an INT64, and 0 and 1 are booleans, as other tools write them. Errors name the
row, counted from 1, and the column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from gateway.codec.elements import ELEMENTS, FLOAT_ELEMENTS, FLOATS, Elements, type_names
from gateway.codec.non_finite import TEXTS, are_numbers, to_floats
from gateway.wording import counted
from runtimes.base import Array, TensorSpec
from runtimes.errors import InputError
from runtimes.input_check import shape_text
from runtimes.signature import has_shape

_MAX_RANK = 16
_SHOWN_CHARACTERS = 40


def place(row: int, name: str) -> str:
    """Return where a value stands, as errors say it; `row` counts from 0."""
    return f"row {row + 1}, column {name!r}"


def shown(item: Any) -> str:
    """Return a value as errors show it: at most its beginning."""
    if type(item) is str and len(item) > _SHOWN_CHARACTERS:
        return f"{item[:_SHOWN_CHARACTERS]!r}…"
    return repr(item)


def tensor(spec: TensorSpec, values: list[Any]) -> Array:
    """Return the tensor of an input whose `values` are those of one row each, nested or not.

    Raises:
        InputError: naming the row and the column that do not fit.
    """
    flat, shape = _flat(spec.name, values)
    return shaped(spec, _array(spec, flat, len(values)), shape)


def shaped(spec: TensorSpec, array: Array, shape: Sequence[int]) -> Array:
    """Return an array of such a `shape`, rows first, in the shape of an input.

    Axes of length 1 may be missing or too many, and a row may be flat where an input is of a fixed size.
    """
    expected = spec.shape
    if expected is None or has_shape(shape, expected):
        return array.reshape(shape)
    rows, rest = shape[0], expected[1:]
    if expected and expected[0] not in (-1, rows):
        raise InputError(f"the model takes {counted(expected[0], 'row')} in a call, and this has {rows}")
    size = math.prod(shape[1:])
    is_flat = len(shape) <= 2 or [length for length in shape[1:] if length != 1] == [
        length for length in rest if length != 1
    ]
    if is_flat and expected and rest.count(-1) == 0 and math.prod(rest) == size:
        return array.reshape((rows, *rest))
    if len(shape) == len(expected) - 1 and rest.count(-1) == 1 and expected[-1] == 1:
        # Scalars or vectors that lack only a last axis of length 1.
        return array.reshape((*shape, 1))
    needed = "one value" if not rest or math.prod(rest) == 1 else f"values of shape {shape_text(rest)}"
    given = "one value" if len(shape) == 1 else f"values of shape {list(shape[1:])}"
    raise InputError(f"a row of {spec.name!r} must have {needed}, not {given}")


def _flat(name: str, values: list[Any]) -> tuple[list[Any], list[int]]:
    """Return the elements of nested lists, and the shape of these; it begins with the number of rows."""
    shape = [len(values)]
    data = values
    while list in (types := set(map(type, data))):
        lengths = set(map(len, data)) if types == {list} else set()
        if len(lengths) != 1 or len(shape) == _MAX_RANK:
            raise _ragged(name, values, data)
        shape.append(lengths.pop())
        data = list(chain.from_iterable(data))
    return data, shape


def _ragged(name: str, values: list[Any], data: list[Any]) -> InputError:
    """Return the error for lists side by side that differ, or are nested too deep."""
    sizes = [len(item) if type(item) is list else -1 for item in data]
    odd = next((index for index, size in enumerate(sizes) if size != sizes[0]), None)
    if odd is None:
        return InputError(f"{place(0, name)}: lists are nested too deep")
    row = odd * len(values) // len(data)
    first, other = ("one value" if size < 0 else counted(size, "value") for size in (sizes[0], sizes[odd]))
    return InputError(f"{place(row, name)}: {other} where {first} came before")


def _array(spec: TensorSpec, flat: list[Any], rows: int) -> Array:
    """Return the elements as a flat array of the input's datatype."""
    elements = ELEMENTS[spec.usual.value]
    kind, types = elements.kind, set(map(type, flat))
    if not types <= elements.accepted:
        if kind == "O" and spec.may_be_missing and types <= {str, type(None)}:
            return _texts([None if item is None else item.encode() for item in flat])
        if kind in "fV" and types <= FLOAT_ELEMENTS and (str not in types or are_numbers(flat)):
            return to_floats(flat, elements.dtype)
        flat = _exact(spec, flat, rows, elements)
    if kind == "O":
        return _texts([_bytes(item, spec.name, row * rows // len(flat)) for row, item in enumerate(flat)])
    if kind in "iu" and flat and not elements.minimum <= min(flat) <= max(flat) <= elements.maximum:
        wrong = next(i for i, item in enumerate(flat) if not elements.minimum <= item <= elements.maximum)
        raise InputError(
            f"{place(wrong * rows // len(flat), spec.name)}: {flat[wrong]} is outside {elements.datatype} "
            f"({elements.minimum} to {elements.maximum})"
        )
    return to_floats(flat, elements.dtype) if kind == "V" else np.array(flat, elements.dtype)


def _bytes(text: str, name: str, row: int) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{place(row, name)}: a string that is no Unicode") from None


def _texts(items: list[bytes | None]) -> Array:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def _exact(spec: TensorSpec, flat: list[Any], rows: int, elements: Elements) -> list[Any]:
    """Return elements of other types as those of the datatype, where that changes none.

    Raises:
        InputError: naming the first element that cannot be one of them.
    """
    exact = [_exact_element(item, elements) for item in flat]
    for index, (item, value) in enumerate(zip(flat, exact, strict=True)):
        is_wrong = value is None and not (item is None and elements.kind == "O" and spec.may_be_missing)
        if elements.kind in "fV":
            is_wrong = type(item) not in FLOAT_ELEMENTS or (type(item) is str and item not in TEXTS)
        if is_wrong:
            raise _refusal(spec, item, index * rows // len(flat), elements)
    return exact


def _exact_element(item: Any, elements: Elements) -> Any:
    """Return one element as one of the datatype, None where it is none."""
    if type(item) in elements.accepted:
        return item
    if type(item) is float and elements.kind in "iu":
        return int(item) if item.is_integer() else None
    if type(item) is int and elements.kind == "b":
        return bool(item) if item in (0, 1) else None
    return None


def _refusal(spec: TensorSpec, item: Any, row: int, elements: Elements) -> InputError:
    if item is None:
        advice = f"; only {FLOATS} have missing values"
        return InputError(f"{place(row, spec.name)}: {elements.datatype} cannot be null{advice}")
    names = type_names({type(item)})
    example = "" if type(item) is dict else f", such as {shown(item)}"
    return InputError(f"{place(row, spec.name)}: {elements.datatype} cannot be made of {names}{example}")

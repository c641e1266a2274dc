"""Arrays and scalars of numpy, made from what a pickle says of them without numpy's own unpickling.

`ndarray.__setstate__` and `dtype.__setstate__` change objects that others may have a view of, and believe
lengths. So an array is made at once when all of it is known, from bytes whose number is checked.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt

from runtimes.pickles.refusals import Refused

Array = npt.NDArray[Any]

_CODE = re.compile(r"[<>|=]?(?:[?bBhHiIlLqQefdgFDGc]|[biufcSUV][0-9]{1,9}|O[0-9]?|[Mm]8?)")
_UNIT = re.compile(r"[a-zA-Zμ]{1,10}")
_BYTE_ORDERS = "<>=|"
_MAX_RANK = 64  # numpy: NPY_MAXDIMS
_ALIGNED = 0x80  # numpy: NPY_ALIGNED_STRUCT
_MAX_FIELDS = 1_000


def dtype_of(code: object, state: object) -> np.dtype[Any]:
    """Return the dtype of a code such as "f8" and the state that `dtype.__reduce__` gives."""
    if type(code) is not str or not _CODE.fullmatch(code):
        raise Refused(f"an array has the datatype {code if type(code) is str else type(code).__name__:.40}")
    if type(state) is not tuple or not 8 <= len(state) <= 9 or state[0] not in (3, 4):
        raise Refused("a datatype has an unknown form")
    _, order, subarray, names, fields, size, _, flags, *metadata = state
    if type(order) is not str or len(order) != 1 or order not in _BYTE_ORDERS:
        raise Refused("a datatype has no byte order")
    if names is not None:
        return _structured(names, fields, size, flags)
    if subarray is not None:
        base, shape = pair(subarray)
        return np.dtype((plain_dtype(base), shape_of(shape)))
    if metadata and code.lstrip("<>|=")[0] in "Mm":
        return np.dtype(f"{code.lstrip('<>|=')[0]}8[{_unit(metadata[0])}]").newbyteorder(order)  # type: ignore[arg-type]
    return np.dtype(code).newbyteorder(order)  # type: ignore[arg-type]


def _structured(names: object, fields: object, size: object, flags: object) -> np.dtype[Any]:
    if type(names) is not tuple or type(fields) is not dict or len(names) > _MAX_FIELDS:
        raise Refused("a datatype has an unknown form")
    if type(size) is not int or type(flags) is not int:
        raise Refused("a datatype has an unknown form")
    parts = [pair(fields.get(name)) for name in names]
    return np.dtype(
        {
            "names": [text(name) for name in names],
            "formats": [plain_dtype(dtype) for dtype, _ in parts],
            "offsets": [offset for _, offset in parts],
            "itemsize": size,
        },
        align=bool(flags & _ALIGNED),
    )


def _unit(metadata: object) -> str:
    _, unit = pair(metadata)
    if type(unit) is not tuple or len(unit) != 4 or unit[2:] != (1, 1) or type(unit[1]) is not int:
        raise Refused("a datatype has an unknown unit of time")
    name = unit[0].decode("utf-8", "replace") if type(unit[0]) is bytes else text(unit[0])
    if not _UNIT.fullmatch(name) or not 0 < unit[1] < 2**31:
        raise Refused("a datatype has an unknown unit of time")
    return name if unit[1] == 1 else f"{unit[1]}{name}"


def pair(value: object) -> tuple[Any, Any]:
    """Return a tuple of two. Raises Refused for anything else."""
    if type(value) is not tuple or len(value) != 2:
        raise Refused("a datatype has an unknown form")
    return value


def text(value: object) -> str:
    """Return a string. Raises Refused for anything else."""
    if type(value) is not str:
        raise Refused("a name is no text")
    return value


def plain_dtype(value: object) -> np.dtype[Any]:
    """Return a dtype whose values are bytes. Raises Refused for one of objects, and for anything else."""
    if not isinstance(value, np.dtype) or value.hasobject:
        raise Refused("an array has a datatype that is none")
    return value


def shape_of(value: object) -> tuple[int, ...]:
    """Return the shape of an array. Raises Refused for what is none."""
    if type(value) is int:
        value = (value,)
    if type(value) is not tuple or len(value) > _MAX_RANK:
        raise Refused("an array has no shape")
    sizes = [int(size) if isinstance(size, np.integer) else size for size in value]
    if not all(type(size) is int and 0 <= size < 2**48 for size in sizes):
        raise Refused("an array has no shape")
    return tuple(sizes)


def array_of(state: object) -> Array:
    """Return the array of the state that `ndarray.__reduce__` gives."""
    if type(state) is not tuple or not 4 <= len(state) <= 5:
        raise Refused("an array has an unknown form")
    shape, dtype, is_fortran, raw = state[-4:]
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        return _of_objects(shape_of(shape), raw)
    return array_of_bytes(raw, plain_dtype(dtype), shape_of(shape), is_fortran=bool(is_fortran))


def array_of_bytes(
    raw: object, dtype: np.dtype[Any], shape: tuple[int, ...], *, is_fortran: bool = False
) -> Array:
    """Return an array of its own memory with these bytes."""
    if not isinstance(raw, bytes | bytearray):
        raise Refused("an array has no bytes")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise Refused(f"an array of shape {list(shape)} has {len(raw)} bytes")
    if not dtype.itemsize or not len(raw):
        return np.empty(shape, dtype, "F" if is_fortran else "C")
    content = np.frombuffer(raw, np.uint8)
    if dtype.kind == "b" and (content > 1).any():
        raise Refused("an array has a truth value that is neither 0 nor 1")
    array: Array = np.empty(math.prod(shape), dtype)
    array.view(np.uint8)[:] = content
    return array.reshape(shape, order="F" if is_fortran else "C")


def _of_objects(shape: tuple[int, ...], items: object) -> Array:
    if type(items) is not list or len(items) != math.prod(shape):
        raise Refused("an array has another number of objects than it says")
    _check_nesting(items)
    array = np.empty(len(items), object)
    for index, item in enumerate(items):
        array[index] = item
    return array.reshape(shape)


def _check_nesting(items: list[Any]) -> None:
    """Refuse arrays within arrays within arrays, which numpy frees by recursion in C."""
    inner = {id(item): item for item in items if isinstance(item, np.ndarray) and item.dtype == object}
    within = (item for array in inner.values() for item in array.reshape(-1).tolist())
    is_deep = any(isinstance(item, np.ndarray) and item.dtype == object for item in within)
    if is_deep or any(type(item) is defaultdict for item in items):
        raise Refused("an array of objects holds others too deep")


def masked_array(state: object) -> Any:
    """Return the masked array of the state that `MaskedArray.__reduce__` gives."""
    if type(state) is not tuple or len(state) != 7:
        raise Refused("a masked array has an unknown form")
    _, shape, dtype, is_fortran, raw, mask, fill_value = state
    data = array_of((1, shape, dtype, is_fortran, raw))
    if data.dtype.names is not None:
        raise Refused("a masked array has fields")
    masked = array_of_bytes(mask, np.dtype(bool), data.shape, is_fortran=bool(is_fortran))
    return np.ma.MaskedArray(data, mask=masked, fill_value=fill_value)


def scalar(dtype: object, raw: object) -> Any:
    """Return the scalar of numpy with these bytes."""
    return array_of_bytes(raw, plain_dtype(dtype), (1,))[0]

"""Files of NumPy become the inputs of a model: `.npy` of one array, `.npz` of several by name.

Nothing in them is unpickled, and nothing is allocated that the body does not hold. Format: NumPy,
`numpy.lib.format`; a `.npz` is a ZIP file of `.npy` files.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gateway.codec.predict.layout import Layout, check_lengths, listed
from gateway.codec.predict.values import shaped
from gateway.foreign_text import foreign_text
from gateway.wire.codings import MAX_RATIO, is_inflated
from gateway.wording import counted
from runtimes.base import Array, Datatype, TensorSpec
from runtimes.errors import InputError
from runtimes.tables import cast

_SUFFIX = ".npy"
_MAX_HEADER = 10_000
_KINDS = "biufSU"
_READ_HEADER: Mapping[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# Each string becomes an object of tens of bytes, and may be a single byte of the body.
_MAX_TEXTS = 2_000_000
# An array may become one of larger elements.
_MAX_BYTES = 256 * 1024 * 1024
# What stands before each entry of a ZIP file's directory, all of which is read at once.
_ENTRY = b"PK\x01\x02"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npy(body: bytes | memoryview, layout: Layout) -> dict[str, Array]:
    """Read a body that is one array: the model's only input, or the columns of a table in their order.

    An array with named fields, such as pandas' `to_records` gives, has the columns by name.

    Raises:
        InputError: where it is no such file, or does not fit the model.
    """
    array = _array(body, "the body")
    if array.dtype.names:
        if array.ndim != 1:
            raise InputError("an array with named fields must have one axis, the rows")
        layout.check_names(array.dtype.names)
        return {name: _fitted(layout.specs[name], array[name]) for name in array.dtype.names}
    if layout.single is not None and len(layout.names) == 1:
        return {layout.single.name: _fitted(layout.single, array)}
    if array.ndim == 1 and len(array) in (len(layout.names), len(layout.required)):
        array = array[np.newaxis]
    if array.ndim != 2:
        raise InputError(
            f"the model takes several inputs, {listed(layout.names)}: send an array of shape "
            f"[rows, {len(layout.names)}], or a .npz file"
        )
    return {
        name: _fitted(layout.specs[name], array[:, position])
        for position, name in enumerate(layout.placed(array.shape[1]))
    }


def read_npz(body: bytes | memoryview, layout: Layout, max_bytes: int) -> dict[str, Array]:
    """Read a body that is several arrays, by the names of the inputs; all may have `max_bytes` in memory.

    Raises:
        InputError: where it is no such file, or does not fit the model.
    """
    # The data of an array may have these bytes by chance, though not often.
    if bytes(body).count(_ENTRY) > 2 * len(layout.names) + 100:
        raise InputError(f"the file has too many arrays; the model takes {listed(layout.names)}")
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            arrays = _members(archive, layout, max_bytes)
    except InputError:
        raise
    except Exception as error:  # a damaged ZIP file has errors of many kinds
        raise InputError(f"the body is no .npz file: {foreign_text(error)}") from None
    if not arrays:
        raise InputError("the file has no arrays")
    check_lengths((name, len(array) if array.ndim else 1) for name, array in arrays.items())
    return {name: _fitted(layout.specs[name], array) for name, array in arrays.items()}


def _members(archive: zipfile.ZipFile, layout: Layout, max_bytes: int) -> Mapping[str, Array]:
    entries = archive.infolist()
    if len(entries) > len(layout.names):
        raise InputError(
            f"the file has {counted(len(entries), 'array')}; the model takes {listed(layout.names)}"
        )
    names = [entry.filename.removesuffix(_SUFFIX) for entry in entries]
    if len(set(names)) != len(names):
        raise InputError("the file has an array twice")
    layout.check_names(names)
    if sum(entry.file_size for entry in entries) > max_bytes:
        raise InputError(f"the arrays of the file take more than {max_bytes} bytes")
    if is_inflated(sum(entry.compress_size for entry in entries), sum(entry.file_size for entry in entries)):
        raise InputError(
            f"the arrays are more than {MAX_RATIO} times as large as the file; send them as .npy"
        )
    arrays = {}
    for name, entry in zip(names, entries, strict=True):
        if entry.compress_type not in _METHODS:
            raise InputError(f"array {name!r}: only `numpy.savez` and `savez_compressed` are read")
        with archive.open(entry) as file:
            data = file.read(entry.file_size + 1)
        arrays[name] = _array(data, f"array {name!r}")
    return arrays


def _array(data: bytes | memoryview, where: str) -> Array:
    """Return the array of a `.npy` file: a view of it. Raises InputError."""
    file = io.BytesIO(bytes(data[: _MAX_HEADER + 32]))
    try:
        header = _READ_HEADER[np.lib.format.read_magic(file)](file, _MAX_HEADER)
    except KeyError as error:
        raise InputError(f"{where}: version {error} of .npy is not read") from None
    except Exception as error:  # Python's own parser reads the header, and has errors of many kinds
        raise InputError(f"{where} is no .npy file: {foreign_text(error)}") from None
    shape, is_fortran, dtype = header
    fields = [dtype[name] for name in dtype.names] if dtype.names else [dtype]
    if dtype.hasobject or dtype.subdtype or any(field.kind not in _KINDS for field in fields):
        raise InputError(f"{where} has elements of {dtype}; send numbers, booleans or strings")
    if min(shape, default=0) < 0 or len(shape) > 16:
        raise InputError(f"{where} has the shape {list(shape)}")
    rest = memoryview(data)[file.tell() :]
    needed = math.prod(shape) * dtype.itemsize
    if needed != len(rest) or not dtype.itemsize:
        raise InputError(
            f"{where}: {dtype} of shape {list(shape)} needs {needed} bytes, and {len(rest)} follow"
        )
    try:
        return np.frombuffer(rest, dtype).reshape(shape, order="F" if is_fortran else "C")
    except (ValueError, TypeError, OverflowError):  # lengths beyond an array's, or that are no numbers
        raise InputError(f"{where} has the shape {list(shape)}") from None


def _texts(name: str, array: Array) -> Array:
    """Return strings as BYTES. Raises InputError for those that are no Unicode, or too many."""
    if array.size > _MAX_TEXTS:
        raise InputError(f"input {name!r} has more than {_MAX_TEXTS:,} strings; send fewer rows")
    texts = np.empty(array.size, object)
    try:
        texts[:] = [item if isinstance(item, bytes) else item.encode() for item in array.reshape(-1).tolist()]
    except (UnicodeEncodeError, ValueError, SystemError):  # numpy checks none of its code points
        raise InputError(f"input {name!r} has a string that is no Unicode") from None
    return texts.reshape(array.shape)


def _fitted(spec: TensorSpec, array: Array) -> Array:
    """Return an array in an input's shape and datatype. Raises InputError where that changes a value."""
    datatype = spec.usual
    if array.ndim == 0 or (spec.shape is not None and len(spec.shape) > 1 and array.shape == spec.shape[1:]):
        array = array[np.newaxis]
    if array.dtype.kind in "SU":
        if datatype is not Datatype.BYTES:
            raise InputError(f"input {spec.name!r} must be {datatype}, not strings")
        array = _texts(spec.name, array)
    elif array.dtype.kind == "b" and datatype is not Datatype.BOOL:
        raise InputError(f"input {spec.name!r} must be {datatype}, not BOOL")
    if array.size * datatype.numpy.itemsize > _MAX_BYTES:
        raise InputError(f"input {spec.name!r} has more than {_MAX_BYTES} bytes as {datatype}; send less")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    with np.errstate(over="ignore"):
        values = cast(spec.name, array, datatype.numpy)
    return shaped(spec, np.ascontiguousarray(values), array.shape)

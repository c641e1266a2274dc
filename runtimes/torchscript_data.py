"""The check of a TorchScript archive's pickles, which PyTorch's C++ reads without looking at sizes.

A pickle there makes tensors of records of the archive, by offset, sizes and strides. PyTorch takes these as
they are, so that a tensor of four bytes could be one of the worker's whole memory. The pickle is read here by
Python's unpickler, which finds nothing but stand-ins (torch/csrc/jit/serialization/unpickler.cpp).
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runtimes.errors import LoadError, UnsafeFormat
from runtimes.torchscript_code import check_class

RecordSize = Callable[[str], int]
"""Returns how many bytes a record of the archive has. Raises KeyError for one that is not there."""

_OPERATIONS = frozenset(  # as a text, since there are many
    """
    PROTO STOP GLOBAL BINPUT LONG_BINPUT BINGET LONG_BINGET MARK EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_LIST APPEND APPENDS LIST EMPTY_DICT SETITEM SETITEMS DICT NONE NEWTRUE NEWFALSE BININT BININT1
    BININT2 LONG1 BINFLOAT BINUNICODE BINSTRING SHORT_BINSTRING BINPERSID REDUCE BUILD NEWOBJ
    """.split()  # noqa: SIM905
)
_BYTES = {
    **dict.fromkeys(("Bool", "Byte", "Char", "QInt8", "QUInt8", "QUInt4x2", "QUInt2x4"), 1),
    **dict.fromkeys(("Float8_e5m2", "Float8_e4m3fn", "Float8_e5m2fnuz", "Float8_e4m3fnuz"), 1),
    **dict.fromkeys(("Short", "Half", "BFloat16", "UInt16"), 2),
    **dict.fromkeys(("Int", "Float", "QInt32", "UInt32", "ComplexHalf"), 4),
    **dict.fromkeys(("Long", "Double", "ComplexFloat", "UInt64"), 8),
    "ComplexDouble": 16,
}
_STORAGE = re.compile(r"torch (\w+)Storage")
_TENSORS = frozenset(
    ("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_qtensor")
)
# What makes containers and numbers of what it is given.
_PLAIN = re.compile(
    r"collections OrderedDict|builtins complex|torch device|torch\.jit\._pickle (?:restore_type_tag"
    r"|build_(?:int|tensor|double|bool)list)|torch per_\w+_affine\w*"
)
_LONGEST_PICKLE = 256 * 1024 * 1024  # bytes


def check_pickle(text: bytes, name: str, record_size: RecordSize, path: Path) -> None:
    """Check the pickle `name` of an archive; its tensors are of records below `name` without its suffix.

    Raises:
        UnsafeFormat: for a tensor that is larger than its record, and for what is not known to be harmless.
        LoadError: for what is no pickle.
    """
    where = f"{path}: {name}"
    if len(text) > _LONGEST_PICKLE:
        raise LoadError(f"{where} has {len(text)} bytes, which is too many; save the model again")
    try:
        unknown = {operation.name for operation, _, _ in pickletools.genops(text)} - _OPERATIONS
        if not unknown:
            _Reader(text, name.removesuffix(".pkl"), record_size, where).load()
    except UnsafeFormat:
        raise
    except Exception as error:
        raise LoadError(
            f"{where} is no pickle that PyTorch writes: {error!r}; save the model again"
        ) from error
    if unknown:
        raise UnsafeFormat(f"{where} has {min(unknown)}, which PyTorch does not write; save the model again")


class _Thing:
    """Stands for an instance of a class of the program, and for what a function returns."""

    def __new__(cls, *_arguments: object) -> _Thing:
        return super().__new__(cls)

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


class _Storage:
    """The bytes of a tensor."""

    def __init__(self, count: int) -> None:
        self.count = count


class _Kind:
    """Stands for the class of a storage, whose elements have `size` bytes."""

    def __init__(self, size: int) -> None:
        self.size = size


class _Reader(pickle.Unpickler):
    """Reads a pickle for its tensors; nothing of what it names is imported."""

    def __init__(self, text: bytes, prefix: str, record_size: RecordSize, where: str) -> None:
        super().__init__(io.BytesIO(text))
        self._prefix = prefix
        self._record_size = record_size
        self._where = where

    def find_class(self, module: str, name: str, /) -> Any:
        full = f"{module} {name}"
        if match := _STORAGE.fullmatch(full):
            return _Kind(_BYTES[match[1]])
        if full in _TENSORS:
            return self._tensor
        if module.startswith("__torch__.torch.classes."):
            check_class(f"{module}.{name}".removeprefix("__torch__.torch.classes."), self._where)
        if module.partition(".")[0] == "__torch__" or _PLAIN.fullmatch(full):
            return _Thing
        raise UnsafeFormat(
            f"{self._where} names {full!r}, which is not known to be harmless; save the model again"
        )

    def persistent_load(self, pid: Any, /) -> _Storage:
        word, kind, key, _device, count = pid
        if word != "storage" or type(kind) is not _Kind or type(key) is not str or type(count) is not int:
            raise UnsafeFormat(f"{self._where} refers to what is no storage; save the model again")
        size = self._record_size(f"{self._prefix}/{key}") if count else 0
        if not 0 <= count * kind.size <= size:
            raise UnsafeFormat(
                f"{self._where} takes {count * kind.size} bytes of {self._prefix}/{key}, which has {size}; "
                "the file is damaged: save the model again"
            )
        return _Storage(count)

    def _tensor(self, storage: object, offset: object, sizes: object, strides: object, *_: object) -> _Thing:
        if not isinstance(storage, _Storage) or not _fits(storage.count, offset, sizes, strides):
            raise UnsafeFormat(
                f"{self._where} has a tensor that is larger than its storage; the file is damaged: save the "
                "model again"
            )
        return _Thing()


def _fits(count: int, offset: object, sizes: object, strides: object) -> bool:
    """Tell whether each element of a tensor is one of the `count` in its storage."""
    if type(sizes) is not tuple or type(strides) is not tuple or len(sizes) != len(strides):
        return False
    numbers: Sequence[object] = (offset, *sizes, *strides)
    if any(type(number) is not int or number < 0 for number in numbers):
        return False
    if 0 in sizes:
        return True
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    return bool(last < count)

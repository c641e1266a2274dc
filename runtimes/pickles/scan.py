"""The imports of pickles, found without running them.

The operations of a pickle are simulated on a stack of placeholders for the objects that they would make. So
a name is found however it comes onto the stack, and the arrays that joblib writes between operations are
skipped. This shows people what they are asked to trust; it proves no file harmless, and nothing is loaded
because of it. The operations are documented in Python's pickletools.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from runtimes.errors import LoadError
from runtimes.formats import decompressed, follow, zip_names
from runtimes.pickles.imports import COMPUTED, describe, is_dangerous

_MAX_BYTES = 64 * 1024 * 1024
_MAX_OPERATIONS = 100_000
_PREFIX = 64 * 1024  # bytes
_MAX_DEPTH = 3  # archives within archives

_SIGNATURES = (
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"\x78",
    b"BZh",
    b"\xfd7zXZ\x00",
    *(b"\x80%c" % n for n in range(6)),
)
_DTYPE = re.compile(r"[a-zA-Z?][0-9]{0,9}")
_WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
_MAX_RANK = 64  # numpy: NPY_MAXDIMS
_FLAGS = 7  # the position of the flags in a dtype's pickled state
_HAS_OBJECTS = 0x01  # numpy: NPY_ITEM_HASOBJECT


@dataclass(frozen=True, slots=True)
class Scan:
    """The dotted names that would be imported, sorted; `whole` says whether everything was read."""

    imports: tuple[str, ...]
    whole: bool

    @property
    def dangerous(self) -> tuple[str, ...]:
        """The imports that let a file do anything. That there are none does not prove it harmless."""
        return tuple(filter(is_dangerous, self.imports))

    def __str__(self) -> str:
        return describe(self.imports) + ("" if self.whole else " (and perhaps more: not all of it was read)")


def scan(paths: Iterable[Path]) -> Scan:
    """Scan files for pickles: plain, one after another, compressed, or in zips.

    At most 64 MiB are read and 100,000 operations followed in all. Raises LoadError where a file cannot be
    read.
    """
    search = _Search()
    for path in paths:
        try:
            with path.open("rb") as file:
                search.search(file, _MAX_DEPTH)
        except OSError as error:
            raise LoadError(f"{path} cannot be read: {error}") from error
    return Scan(tuple(sorted(search.imports)), search.whole)


@dataclass(slots=True)
class _Search:
    """The imports found so far, and how much may still be read."""

    imports: set[str] = field(default_factory=set)
    whole: bool = True
    bytes_left: int = _MAX_BYTES
    operations_left: int = _MAX_OPERATIONS

    def search(self, file: BinaryIO, depth: int) -> None:
        """Search a file from its beginning; `depth` archives may be opened, one within another."""
        head = file.read(_PREFIX)
        file.seek(0)
        is_zip = head.startswith(b"PK\x03\x04")
        if not is_zip and not decompressed(head, 1):
            self._follow_all(file)
        elif not depth:
            self.whole = False
        elif is_zip:
            self._search_zip(file, depth - 1)
        else:
            compressed = self._read(file)
            data = decompressed(compressed, self.bytes_left)
            self.bytes_left -= len(data)
            self.whole = self.whole and self.bytes_left > 0
            self.search(io.BytesIO(data), depth - 1)

    def _search_zip(self, file: BinaryIO, depth: int) -> None:
        try:
            zip_names(file)
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    with archive.open(member) as content:
                        start = content.read(8)
                    if member.filename.endswith(".pkl") or start.startswith(_SIGNATURES):
                        with archive.open(member) as content:
                            self.search(io.BytesIO(self._read(content)), depth)
        # A damaged zip raises many errors, an encrypted one RuntimeError.
        except (LoadError, OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error):
            self.whole = False

    def _read(self, file: IO[bytes]) -> bytes:
        """Read the rest of a file, as far as it may be read."""
        data = file.read(self.bytes_left)
        self.bytes_left -= len(data)
        self.whole = self.whole and self.bytes_left > 0
        return data

    def _follow_all(self, file: BinaryIO) -> None:
        """Follow one pickle after another; after the first, bytes that cannot be followed are other data."""
        stream = _Stream(file, self)
        is_first = True
        while is_first or stream.peek():
            try:
                _Machine(stream, self).run()
            except (ValueError, OverflowError, _Lost):
                self.whole = self.whole and not is_first and self.bytes_left > 0 and self.operations_left > 0
                return
            is_first = False


class _Lost(Exception):
    """The operations cannot be told from data, or are too many."""


class _Stream:
    """A file as pickletools reads it; its bytes are counted."""

    def __init__(self, file: BinaryIO, search: _Search) -> None:
        self._file = file
        self._search = search

    def read(self, size: int) -> bytes:
        return self._counted(self._file.read(min(size, self._search.bytes_left)))

    def readline(self) -> bytes:
        return self._counted(self._file.readline(self._search.bytes_left))

    def skip(self, size: int) -> None:
        """Skip bytes, which are not counted."""
        self._file.seek(size, io.SEEK_CUR)

    def peek(self) -> bytes:
        byte = self._file.read(1)
        self._file.seek(-len(byte), io.SEEK_CUR)
        return byte

    def _counted(self, data: bytes) -> bytes:
        self._search.bytes_left -= len(data)
        return data


@dataclass(slots=True)
class _Object:
    """A placeholder for an object that is imported, or made by a call of one."""

    name: str
    arguments: object = None
    state: object = None


class _Machine:
    """The stack and memo of one pickle. Whatever is unknown, or missing from the stack, is None."""

    def __init__(self, stream: _Stream, search: _Search, *, has_arrays: bool = True) -> None:
        self._stream = stream
        self._search = search
        self._has_arrays = has_arrays
        self._stack: list[Any] = []
        self._memo: dict[object, object] = {}

    def run(self) -> None:
        """Follow the pickle to its end. Raises ValueError or _Lost where that cannot be done."""
        for opcode, argument, _ in pickletools.genops(self._stream):  # type: ignore[arg-type]
            self._search.operations_left -= 1
            if self._search.operations_left < 0:
                raise _Lost
            self._step(opcode, argument)

    def _step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        stack = self._stack
        match opcode.name:
            case "GLOBAL":
                stack.append(self._import(*argument.split(" ", 1)))
            case "INST":
                self._pop_to_mark()
                stack.append(self._import(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = self._pop(), self._pop()
                stack.append(self._import(module, name))
            case "EXT1" | "EXT2" | "EXT4":
                stack.append(self._import(None, None))
            case "REDUCE" | "NEWOBJ":
                arguments, callable_ = self._pop(), self._pop()
                stack.append(_Object(callable_.name, arguments) if isinstance(callable_, _Object) else None)
            case "BUILD":
                self._build(self._pop())
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._top()
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._top()
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo.get(argument))
            case "DUP":
                stack.append(self._top())
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = len(opcode.stack_before)
                stack.append(tuple(self._pop() for _ in range(size))[::-1])
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._set((key, value))
            case "SETITEMS":
                self._set(self._pop_to_mark())
            case _ if not opcode.stack_before and opcode.stack_after != [pickletools.markobject]:
                stack.append(argument if isinstance(argument, (str, int)) else None)
            case _:
                self._effect(opcode)

    def _effect(self, opcode: pickletools.OpcodeInfo) -> None:
        """Do to the stack what the operation does, with placeholders."""
        try:
            follow(self._stack, opcode)
        except IndexError:
            self._stack.extend(opcode.stack_after)

    def _import(self, module: object, name: object) -> _Object:
        is_known = isinstance(module, str) and isinstance(name, str)
        imported = _Object(f"{module}.{name}" if is_known else COMPUTED)
        self._search.imports.add(imported.name)
        return imported

    def _build(self, state: object) -> None:
        target = self._top()
        if isinstance(target, _Object):
            target.state = state
            if self._has_arrays and target.name == _WRAPPER and isinstance(state, dict):
                self._skip_array(state)

    def _skip_array(self, state: dict[str, object]) -> None:
        """Skip an array's bytes, which follow its wrapper (joblib: NumpyArrayWrapper.read_array)."""
        dtype, shape = state.get("dtype"), state.get("shape")
        if not isinstance(dtype, _Object) or not isinstance(shape, tuple) or len(shape) > _MAX_RANK:
            raise _Lost
        code = _item(dtype.arguments, 0)
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise _Lost
        if not all(isinstance(size, int) and 0 <= size < 2**63 for size in shape):
            raise _Lost
        flags = _item(dtype.state, _FLAGS)
        if code.startswith("O") or (isinstance(flags, int) and flags & _HAS_OBJECTS):
            _Machine(self._stream, self._search, has_arrays=False).run()
            return
        if state.get("numpy_array_alignment_bytes") is not None:
            self._stream.skip(int.from_bytes(self._stream.read(1)))
        try:
            itemsize = np.dtype(code).itemsize
        except TypeError:
            # A code of the right form may still be none: "i7".
            raise _Lost from None
        self._stream.skip(math.prod(shape) * itemsize)

    def _set(self, items: Sequence[object]) -> None:
        target = self._top()
        if isinstance(target, dict):
            pairs = zip(items[::2], items[1::2], strict=False)
            target.update((key, value) for key, value in pairs if isinstance(key, str))

    def _top(self) -> Any:
        return self._stack[-1] if self._stack else None

    def _pop(self) -> Any:
        return self._stack.pop() if self._stack else None

    def _pop_to_mark(self) -> list[Any]:
        items = []
        while self._stack and (item := self._stack.pop()) is not pickletools.markobject:
            items.append(item)
        return items[::-1]


def _item(values: object, index: int) -> object:
    return values[index] if isinstance(values, tuple) and len(values) > index else None

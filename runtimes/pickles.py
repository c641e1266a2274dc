"""What pickles would import, found without running them.

A pickle's operations are followed over a stack of stand-ins for what they would make, so that a name is
known by whatever way it comes to the stack, and the arrays that joblib writes between operations are
stepped over. This tells people what they are asked to trust; it proves no file harmless, and nothing is
ever loaded because of it. Operations are described in Python's pickletools.
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
from runtimes.imports import COMPUTED, describe, is_dangerous

_BYTES = 64 * 1024 * 1024
_OPERATIONS = 100_000
_PREFIX = 64 * 1024
_DEPTH = 3  # archives within archives

_STARTS = (b"PK\x03\x04", b"\x1f\x8b", b"\x78", b"BZh", b"\xfd7zXZ\x00", *(b"\x80%c" % n for n in range(6)))
_DTYPE = re.compile(r"[a-zA-Z?][0-9]{0,9}")
_WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
_MAX_RANK = 64  # numpy: NPY_MAXDIMS
_FLAGS = 7  # where a dtype's pickled state has its flags
_HAS_OBJECTS = 0x01  # numpy: NPY_ITEM_HASOBJECT


@dataclass(frozen=True, slots=True)
class Scan:
    """The dotted names that would be imported, sorted; `whole` says whether everything was looked at."""

    imports: tuple[str, ...]
    whole: bool

    @property
    def dangerous(self) -> tuple[str, ...]:
        """Those by which a file can do anything at all. That there are none means little."""
        return tuple(filter(is_dangerous, self.imports))

    def __str__(self) -> str:
        return describe(self.imports) + ("" if self.whole else " (and perhaps more: not all of it was read)")


def scan(paths: Iterable[Path]) -> Scan:
    """Look into files for pickles: plain, one after another, compressed, or in zips.

    At most 64 MiB are read and 100,000 operations followed in all. Raises LoadError for a file that cannot
    be read.
    """
    search = _Search()
    for path in paths:
        try:
            with path.open("rb") as file:
                search.look(file, _DEPTH)
        except OSError as error:
            raise LoadError(f"{path} cannot be read: {error}") from error
    return Scan(tuple(sorted(search.imports)), search.whole)


@dataclass(slots=True)
class _Search:
    """What was found so far, and how much may still be looked at."""

    imports: set[str] = field(default_factory=set)
    whole: bool = True
    bytes_left: int = _BYTES
    operations_left: int = _OPERATIONS

    def look(self, file: BinaryIO, depth: int) -> None:
        """Look into a file from its beginning; `depth` archives may be opened, one within another."""
        head = file.read(_PREFIX)
        file.seek(0)
        is_zip = head.startswith(b"PK\x03\x04")
        if not is_zip and not decompressed(head, 1):
            self._follow_all(file)
        elif not depth:
            self.whole = False
        elif is_zip:
            self._look_into_zip(file, depth - 1)
        else:
            packed = self._take(file)
            data = decompressed(packed, self.bytes_left)
            self.bytes_left -= len(data)
            self.whole = self.whole and self.bytes_left > 0
            self.look(io.BytesIO(data), depth - 1)

    def _look_into_zip(self, file: BinaryIO, depth: int) -> None:
        try:
            zip_names(file)
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    with archive.open(member) as content:
                        start = content.read(8)
                    if member.filename.endswith(".pkl") or start.startswith(_STARTS):
                        with archive.open(member) as content:
                            self.look(io.BytesIO(self._take(content)), depth)
        # a zip's damage shows in many ways, encryption as RuntimeError
        except (LoadError, OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error):
            self.whole = False

    def _take(self, file: IO[bytes]) -> bytes:
        """Return the rest of a file, as far as it may be read."""
        data = file.read(self.bytes_left)
        self.bytes_left -= len(data)
        self.whole = self.whole and self.bytes_left > 0
        return data

    def _follow_all(self, file: BinaryIO) -> None:
        """Follow one pickle after another; after the first, what cannot be followed is other data."""
        stream = _Stream(file, self)
        first = True
        while first or stream.peek():
            try:
                _Machine(stream, self).run()
            except (ValueError, OverflowError, _Lost):
                self.whole = self.whole and not first and self.bytes_left > 0 and self.operations_left > 0
                return
            first = False


class _Lost(Exception):
    """What follows cannot be told from data, or is more than is looked at."""


class _Stream:
    """A file as pickletools reads it, within what the search may read."""

    def __init__(self, file: BinaryIO, search: _Search) -> None:
        self._file = file
        self._search = search

    def read(self, size: int) -> bytes:
        return self._counted(self._file.read(min(size, self._search.bytes_left)))

    def readline(self) -> bytes:
        return self._counted(self._file.readline(self._search.bytes_left))

    def skip(self, size: int) -> None:
        """Step over bytes, which costs nothing."""
        self._file.seek(size, io.SEEK_CUR)

    def peek(self) -> bytes:
        byte = self._file.read(1)
        self._file.seek(-len(byte), io.SEEK_CUR)
        return byte

    def _counted(self, data: bytes) -> bytes:
        self._search.bytes_left -= len(data)
        return data


@dataclass(slots=True)
class _Made:
    """What an import, or a call of one, would make."""

    name: str
    arguments: object = None
    state: object = None


class _Machine:
    """One pickle's stack and memo. What is missing from the stack is None, as anything else unknown is."""

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
                stack.append(_Made(callable_.name, arguments) if isinstance(callable_, _Made) else None)
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
        """Do what the operation does to the stack, with stand-ins that mean nothing."""
        try:
            follow(self._stack, opcode)
        except IndexError:
            self._stack.extend(opcode.stack_after)

    def _import(self, module: object, name: object) -> _Made:
        known = isinstance(module, str) and isinstance(name, str)
        made = _Made(f"{module}.{name}" if known else COMPUTED)
        self._search.imports.add(made.name)
        return made

    def _build(self, state: object) -> None:
        made = self._top()
        if isinstance(made, _Made):
            made.state = state
            if self._has_arrays and made.name == _WRAPPER and isinstance(state, dict):
                self._skip_array(state)

    def _skip_array(self, state: dict[str, object]) -> None:
        """Step over an array's bytes, which follow its wrapper (joblib: NumpyArrayWrapper.read_array)."""
        dtype, shape = state.get("dtype"), state.get("shape")
        if not isinstance(dtype, _Made) or not isinstance(shape, tuple) or len(shape) > _MAX_RANK:
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
        self._stream.skip(math.prod(shape) * np.dtype(code).itemsize)

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
        taken = []
        while self._stack and (item := self._stack.pop()) is not pickletools.markobject:
            taken.append(item)
        return taken[::-1]


def _item(values: object, index: int) -> object:
    return values[index] if isinstance(values, tuple) and len(values) > index else None

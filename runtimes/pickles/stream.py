"""The bytes of a pickle: plain or as joblib compresses them, and never more than a bound.

Nothing is trusted about lengths that a file states: what it does not have is never allocated.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from runtimes.errors import LoadError

_CHUNK = 1024 * 1024  # bytes
_BLOCK = 64 * 1024  # bytes of a compressed file that are given to its codec at once
_LZMA_MEMORY = 256 * 1024 * 1024  # bytes; xz -9 needs 65 MiB
_FLOOR = 1024 * 1024 * 1024
_RATIO = 100


def limit_of(size: int) -> int:
    """Return how many bytes a file of that size may become: a GiB, and a hundred times its own size."""
    return _FLOOR + _RATIO * size


class TooLarge(LoadError):
    """A file would take more memory than one of its size may."""


class Budget:
    """The bytes that may yet be made from a file."""

    def __init__(self, size: int) -> None:
        self._left = limit_of(size)

    def take(self, count: int) -> None:
        """Account for bytes that are about to be made. Raises TooLarge where there are too many."""
        self._left -= count
        if self._left < 0:
            raise TooLarge("it becomes more than a hundred times as large in memory as it is on disk")


class Stream:
    """A file as an unpickler reads it. Raises EOFError where it ends too early."""

    def __init__(self, file: BinaryIO, budget: Budget) -> None:
        self._file = file
        self._budget = budget

    def read(self, size: int) -> bytes:
        """Read exactly so many bytes, as pickle's framing wants it: fewer at the end of the file."""
        if size <= _CHUNK:
            data = self._file.read(size)
            self._budget.take(len(data))
            return data
        parts = []
        while size > 0 and (part := self._file.read(min(size, _CHUNK))):
            self._budget.take(len(part))
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def readline(self) -> bytes:
        """Read up to the end of a line, which has at most a MiB."""
        line = self._file.readline(_CHUNK)
        self._budget.take(len(line))
        return line

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, which was allocated for what the file has."""
        view = memoryview(buffer).cast("B")
        position = 0
        while position < len(view):
            part = self._file.read(min(len(view) - position, _CHUNK))
            if not part:
                break
            self._budget.take(len(part))
            view[position : position + len(part)] = part
            position += len(part)
        return position

    def skip(self, size: int) -> None:
        """Pass over exactly so many bytes. Raises EOFError where there are fewer."""
        while size > 0:
            part = self._file.read(min(size, _CHUNK))
            if not part:
                raise EOFError("the file ends within an array")
            self._budget.take(len(part))
            size -= len(part)

    @property
    def is_at_end(self) -> bool:
        """Whether nothing but zeros or white space follows, at most a MiB of it."""
        rest = self._file.read(_CHUNK)
        return not rest.strip(b"\0 \r\n\t")


@contextmanager
def opened(path: Path) -> Iterator[tuple[Stream, Budget]]:
    """Open a pickle of any compression. Raises LoadError where it cannot be read."""
    try:
        with path.open("rb") as file:
            budget = Budget(os.fstat(file.fileno()).st_size)
            head = file.read(6)
            file.seek(0)
            yield Stream(_decompressing(file, head), budget), budget
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error}") from error


def _decompressing(file: BinaryIO, head: bytes) -> BinaryIO:
    codec: _Codec
    if head[:1] == b"\x78" or head[:2] == b"\x1f\x8b":
        codec = zlib.decompressobj(wbits=47)
    elif head[:3] == b"BZh":
        codec = _Bounded(bz2.BZ2Decompressor())
    elif head == b"\xfd7zXZ\x00" or head[:3] == b"\x5d\x00\x00":
        codec = _Bounded(lzma.LZMADecompressor(memlimit=_LZMA_MEMORY))
    elif head[:4] == b"\x04\x22\x4d\x18":
        codec = _Bounded(_lz4()())
    else:
        return file
    return io.BufferedReader(_Decompressed(file, codec), _CHUNK)


def _lz4() -> Callable[[], Any]:
    try:
        from lz4.frame import LZ4FrameDecompressor
    except ImportError as error:
        raise LoadError("it is compressed with lz4, which needs a package: pip install lz4") from error
    decompressor: Callable[[], Any] = LZ4FrameDecompressor
    return decompressor


class _Codec(Protocol):
    """What zlib's decompressors have."""

    @property
    def eof(self) -> bool: ...

    @property
    def unconsumed_tail(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Bounded:
    """A decompressor of bz2, lzma or lz4, which keeps what it has not consumed itself, as one of zlib."""

    unconsumed_tail = b""

    def __init__(self, decompressor: Any) -> None:
        self._decompressor = decompressor

    @property
    def eof(self) -> bool:
        return bool(self._decompressor.eof)

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        decompressed: bytes = self._decompressor.decompress(data, max_length)
        return decompressed


class _Decompressed(io.RawIOBase):
    """The content of a compressed file, decompressed as it is read."""

    def __init__(self, file: BinaryIO, codec: _Codec) -> None:
        self._file = file
        self._codec = codec

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        try:
            while not data and not self._codec.eof:
                compressed = self._codec.unconsumed_tail or self._file.read(_BLOCK)
                data = self._codec.decompress(compressed, len(buffer))
                if not data and not compressed:
                    raise EOFError("the compressed data ends too early")
        except (zlib.error, lzma.LZMAError, ValueError, RuntimeError) as error:
            raise EOFError(f"the compressed data is damaged: {error}") from error
        buffer[: len(data)] = data
        return len(data)

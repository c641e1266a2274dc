"""A layer's bytes on their way to files: hashed, counted, decompressed within bounds.

Nothing here needs more than the standard library, but zstd on Python before 3.14, which is asked for only
when a layer is compressed by it.
"""

import hashlib
import sys
import zlib
from collections.abc import Iterator

from gateway.errors import UnsafeArchive
from gateway.kits.layer import Compression
from gateway.oci.content import CHUNK
from gateway.oci.reference import Digest
from gateway.oci.tar import Read

MAX_RATIO = 20
"""How many times its size a layer or kit may unpack to: weights compress less than three times, a gzip bomb
of zeros 1,028 times."""
RATIO_FLOOR = 64 * 1024**2
"""Bytes that even a tiny layer or kit may unpack to."""

_INPUT = 64 * 1024
_MAX_WINDOW_LOG = 27  # 128 MiB, the most that `zstd --long` makes and zstd's own reader takes unasked


class Hashed:
    """A reader that hashes and counts what goes through it."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._hasher = hashlib.sha256()
        self.size = 0

    def read(self, size: int) -> bytes:
        """Read at most so many bytes."""
        data = self._read(size)
        self._hasher.update(data)
        self.size += len(data)
        return data

    @property
    def digest(self) -> Digest:
        """The digest of what was read so far."""
        return Digest("sha256", self._hasher.hexdigest())


def decompressed(read: Read, compression: Compression, size: int) -> Read:
    """Return a reader of what a blob of `size` bytes holds.

    It raises UnsafeArchive for a stream that is damaged, has bytes after its end, or holds more than one of
    that size should.
    """
    if compression is Compression.NONE:
        return read
    inflate = _gunzip if compression is Compression.GZIP else _unzstd
    pieces = _bounded(inflate(read), max(size * MAX_RATIO, RATIO_FLOOR))
    waiting = memoryview(b"")

    def take(most: int) -> bytes:
        nonlocal waiting
        if not waiting:
            waiting = memoryview(next(pieces, b""))
        data, waiting = waiting[:most], waiting[most:]
        return bytes(data)

    return take


def _bounded(pieces: Iterator[bytes], limit: int) -> Iterator[bytes]:
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > limit:
            raise UnsafeArchive(f"it unpacks to more than {limit} bytes, too many for its size")
        if piece:
            yield piece


def _gunzip(read: Read) -> Iterator[bytes]:
    """Yield what one gzip member holds (RFC 1952), at most CHUNK bytes at a time."""
    inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    waiting = b""
    while not inflate.eof:
        waiting = waiting or read(_INPUT)
        if not waiting:
            raise UnsafeArchive("its gzip stream ends early")
        try:
            yield inflate.decompress(waiting, CHUNK)
        except zlib.error as error:
            raise UnsafeArchive(f"its gzip stream is damaged ({error})") from error
        waiting = inflate.unconsumed_tail
    if inflate.unused_data or read(1):
        raise UnsafeArchive("it has bytes after its gzip stream")


def _unzstd(read: Read) -> Iterator[bytes]:
    """Yield what the zstd frames hold (RFC 8878, section 3), at most CHUNK bytes at a time."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
    waiting = read(_INPUT)
    if not waiting:
        raise UnsafeArchive("its zstd stream ends early")
    while waiting:
        frame = zstd.ZstdDecompressor(options=options)
        while not frame.eof:
            if frame.needs_input:
                waiting = waiting or read(_INPUT)
                if not waiting:
                    raise UnsafeArchive("its zstd stream ends early")
            try:
                yield frame.decompress(waiting, CHUNK)
            except zstd.ZstdError as error:
                raise UnsafeArchive(
                    f"its zstd stream is damaged, needs a window of more than 128 MiB, or has bytes after it "
                    f"({error})"
                ) from error
            waiting = b""
        waiting = frame.unused_data or read(_INPUT)

"""Readers of a layer's bytes: hashed, counted, decompressed within bounds.

Only the standard library is needed, and for zstd on Python before 3.14 the package backports.zstd, which is
imported when a layer is compressed by it.
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
"""How many times its size a layer or kit may unpack to: weights compress to a third at best, zeros in gzip to
1/1,028."""
RATIO_FLOOR = 64 * 1024**2
"""The bytes that a layer or kit of any size may unpack to."""

_INPUT = 64 * 1024
_MAX_WINDOW_LOG = 27  # 128 MiB: what `zstd --long` writes, and the default limit of zstd's reader


class HashingReader:
    """A reader that hashes and counts the bytes that it returns."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._hasher = hashlib.sha256()
        self.size = 0

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes."""
        data = self._read(size)
        self._hasher.update(data)
        self.size += len(data)
        return data

    @property
    def digest(self) -> Digest:
        """The digest of the bytes read so far."""
        return Digest("sha256", self._hasher.hexdigest())


def decompressed(read: Read, compression: Compression, size: int) -> Read:
    """Return a reader of the uncompressed content of a blob of `size` bytes.

    It raises UnsafeArchive for a stream that is damaged, has bytes after its end, or unpacks to more bytes
    than its size allows.
    """
    if compression is Compression.NONE:
        return read
    decompress = _gunzip if compression is Compression.GZIP else _unzstd
    chunks = _bounded(decompress(read), max(size * MAX_RATIO, RATIO_FLOOR))
    unread = memoryview(b"")

    def read_content(limit: int) -> bytes:
        nonlocal unread
        if not unread:
            unread = memoryview(next(chunks, b""))
        data, unread = unread[:limit], unread[limit:]
        return bytes(data)

    return read_content


def _bounded(chunks: Iterator[bytes], limit: int) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > limit:
            raise UnsafeArchive(f"it unpacks to more than {limit} bytes, too many for its size")
        if chunk:
            yield chunk


def _gunzip(read: Read) -> Iterator[bytes]:
    """Yield the content of one gzip member (RFC 1952), at most CHUNK bytes at a time."""
    decompressor = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    pending = b""
    while not decompressor.eof:
        pending = pending or read(_INPUT)
        if not pending:
            raise UnsafeArchive("its gzip stream ends early")
        try:
            yield decompressor.decompress(pending, CHUNK)
        except zlib.error as error:
            raise UnsafeArchive(f"its gzip stream is damaged ({error})") from error
        pending = decompressor.unconsumed_tail
    if decompressor.unused_data or read(1):
        raise UnsafeArchive("it has bytes after its gzip stream")


def _unzstd(read: Read) -> Iterator[bytes]:
    """Yield the content of the zstd frames (RFC 8878, section 3), at most CHUNK bytes at a time."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
    pending = read(_INPUT)
    if not pending:
        raise UnsafeArchive("its zstd stream ends early")
    while pending:
        frame = zstd.ZstdDecompressor(options=options)
        while not frame.eof:
            if frame.needs_input:
                pending = pending or read(_INPUT)
                if not pending:
                    raise UnsafeArchive("its zstd stream ends early")
            try:
                yield frame.decompress(pending, CHUNK)
            except zstd.ZstdError as error:
                raise UnsafeArchive(
                    f"its zstd stream is damaged, needs a window of more than 128 MiB, or has bytes after it "
                    f"({error})"
                ) from error
            pending = b""
        pending = frame.unused_data or read(_INPUT)

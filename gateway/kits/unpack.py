"""Layers into plain files, by rules of our own: nothing outside the target can be read or written.

A layer's digest is verified while it is read, so a layer that was damaged on disk is never unpacked.
"""

import hashlib
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gateway.errors import DigestMismatch, KitError, SizeMismatch, StoreError, UnsafeArchive
from gateway.kits.manifest import Archive, Compression, Layer
from gateway.kits.names import folded, safe_path
from gateway.oci.content import CHUNK
from gateway.oci.files import sync_directory
from gateway.oci.reference import Digest
from gateway.oci.tar import Read, read_tar

_MAX_ENTRIES = 100_000
# Weights compress less than three times; a bomb of zeros does 1,028 times.
_MAX_RATIO = 20
_RATIO_FLOOR = 64 * 1024**2  # bytes that even a tiny layer may unpack to
_GZIP_INPUT = 64 * 1024


@dataclass(frozen=True, slots=True)
class UnpackedFile:
    """A file of the tree: its path with "/", its bytes, and their sha256 in hex."""

    path: str
    size: int
    sha256: str


class Tree:
    """A fresh directory that the layers of one kit are unpacked into; `origin` is named in errors."""

    def __init__(self, root: Path, origin: str) -> None:
        self.root = root
        self.origin = origin
        self.files: list[UnpackedFile] = []
        self._seen: dict[str, tuple[str, bool]] = {}
        root.mkdir(mode=0o755)

    def add_directory(self, path: str) -> None:
        """Make a directory and those above it; one that is there is left alone."""
        parts = path.split("/") if path else []
        for depth in range(1, len(parts) + 1):
            parent = "/".join(parts[:depth])
            if self._seen.get(folded(parent)) != (parent, True):
                self._take(parent, is_directory=True)
                (self.root / parent).mkdir(mode=0o755)

    def add_file(self, path: str, chunks: Iterable[bytes], size: int = 0) -> None:
        """Write a file that is not there yet; `size` is what is known of its bytes beforehand."""
        self.add_directory(path.rpartition("/")[0])
        self._take(path, is_directory=False)
        free = shutil.disk_usage(self.root).free
        if free < size:
            raise StoreError(
                f"{self.origin}: {path!r} needs {size} bytes and {free} are free in {self.root}; "
                "make room there"
            )
        hasher, written = hashlib.sha256(), 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(self.root / path, flags, 0o444), "wb") as file:
            for chunk in chunks:
                file.write(chunk)
                hasher.update(chunk)
                written += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        self.files.append(UnpackedFile(path, written, hasher.hexdigest()))

    def seal(self) -> None:
        """Make all of it durable and unwritable."""
        for directory, _, _ in os.walk(self.root, topdown=False):
            sync_directory(Path(directory))
            Path(directory).chmod(0o555)

    def _take(self, path: str, *, is_directory: bool) -> None:
        if not path:
            raise UnsafeArchive("a file has no name")
        if taken := self._seen.get(folded(path)):
            raise UnsafeArchive(f"{path!r} comes after {taken[0]!r}, which takes its place")
        if len(self._seen) == _MAX_ENTRIES:
            raise UnsafeArchive(f"the kit has more than {_MAX_ENTRIES} files and directories")
        self._seen[folded(path)] = (path, is_directory)


def unpack_layer(stream: BinaryIO, layer: Layer, tree: Tree) -> None:
    """Unpack a layer's blob into a tree, verifying its digest and, where stated, that of its content.

    Raises DigestMismatch or SizeMismatch for a blob that is damaged, UnsafeArchive for one that must not
    be unpacked, and KitError for a compression that is not supported.
    """
    check_supported(layer, tree.origin)
    what = f"{tree.origin}: layer {layer.descriptor.digest}"
    blob = _Hashed(stream.read)
    try:
        content = _content(blob, layer)
        _extract(content.read, layer, tree)
    except UnsafeArchive as error:
        # Damage explains a strange archive better than malice does.
        _check_blob(blob, layer, what)
        raise UnsafeArchive(f"{what} cannot be unpacked: {error}; pack the kit again without that") from error
    _check_blob(blob, layer, what)
    if layer.diff_id not in (None, content.digest):
        raise DigestMismatch(
            f"{what} has content with the digest {content.digest} where its Kitfile says {layer.diff_id}; "
            "pack the kit again"
        )


def check_supported(layer: Layer, origin: str) -> None:
    """Raise KitError for a layer whose compression cannot be undone."""
    if layer.compression is Compression.ZSTD:
        raise KitError(
            f"{origin}: layer {layer.descriptor.digest}: compression zstd is not supported yet; "
            "pack the kit with gzip or none"
        )


def _extract(read: Read, layer: Layer, tree: Tree) -> None:
    if layer.archive is Archive.RAW:
        if not layer.path:
            raise UnsafeArchive("it is a single file, and the kit does not say which")
        tree.add_file(safe_path(layer.path), iter(lambda: read(CHUNK), b""), layer.descriptor.size)
        return
    for entry, chunks in read_tar(read):
        path = "/".join(filter(None, (layer.root, safe_path(entry.name))))
        if entry.is_directory:
            tree.add_directory(path)
        elif entry.name.endswith("/"):
            raise UnsafeArchive(f"{entry.name!r} is a file with a directory's name")
        else:
            tree.add_file(path, chunks, entry.size)


class _Hashed:
    """A reader that hashes and counts what goes through it."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._hasher = hashlib.sha256()
        self.size = 0

    def read(self, size: int) -> bytes:
        data = self._read(size)
        self._hasher.update(data)
        self.size += len(data)
        return data

    @property
    def digest(self) -> Digest:
        return Digest("sha256", self._hasher.hexdigest())


def _content(blob: _Hashed, layer: Layer) -> _Hashed:
    if layer.compression is Compression.NONE:
        return blob
    gunzip = _gunzip(blob.read, max(layer.descriptor.size * _MAX_RATIO, _RATIO_FLOOR))
    buffer = bytearray()

    def take(size: int) -> bytes:
        while not buffer and (data := next(gunzip, b"")):
            buffer.extend(data)
        data = bytes(buffer[:size])
        del buffer[:size]
        return data

    return _Hashed(take)


def _gunzip(read: Read, limit: int) -> Iterator[bytes]:
    """Yield what one gzip stream holds, at most CHUNK bytes at a time and `limit` in all."""
    inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    waiting, total = b"", 0
    while not inflate.eof:
        waiting = waiting or read(_GZIP_INPUT)
        if not waiting:
            raise UnsafeArchive("its gzip stream ends early")
        try:
            data = inflate.decompress(waiting, CHUNK)
        except zlib.error as error:
            raise UnsafeArchive(f"its gzip stream is damaged ({error})") from error
        waiting = inflate.unconsumed_tail
        total += len(data)
        if total > limit:
            raise UnsafeArchive(f"it unpacks to more than {limit} bytes, too many for its size")
        if data:
            yield data
    if inflate.unused_data or read(1):
        raise UnsafeArchive("it has bytes after its gzip stream")


def _check_blob(blob: _Hashed, layer: Layer, what: str) -> None:
    while blob.read(CHUNK):
        pass
    if blob.size != layer.descriptor.size:
        raise SizeMismatch(
            f"{what} has {blob.size} bytes where {layer.descriptor.size} were promised; pull it again"
        )
    if blob.digest != layer.descriptor.digest:
        raise DigestMismatch(f"{what} has bytes with the digest {blob.digest}; pull it again")

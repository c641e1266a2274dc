"""Layers into plain files, by rules of our own: nothing outside the target can be read or written.

A layer's digest is verified while it is read, so a layer that was damaged on disk is never unpacked; one
that was verified just now is read once less.
"""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gateway.errors import DigestMismatch, SizeMismatch, UnsafeArchive
from gateway.kits.layer import Archive, Compression, Layer
from gateway.kits.paths import safe_path
from gateway.kits.streams import Hashed, decompressed
from gateway.kits.tree import Tree, UnpackedFile, Writes
from gateway.oci.content import CHUNK
from gateway.oci.tar import Read, read_tar


@dataclass(frozen=True, slots=True)
class UnpackedLayer:
    """What a layer put into a tree: its files, and the directories that it has entries for.

    Layers of one `form` put the same into every tree.
    """

    files: tuple[UnpackedFile, ...]
    directories: tuple[str, ...]
    form: str


def unpack_layer(stream: BinaryIO, layer: Layer, tree: Tree, *, verified: bool = False) -> UnpackedLayer:
    """Unpack a layer's blob into a tree, verifying its digest and, where stated, that of its content.

    `verified` says that the caller has just verified the blob: a file is then not hashed as a whole again.
    Several threads may unpack layers into one tree. Raises DigestMismatch or SizeMismatch for a blob that is
    damaged, UnsafeArchive for one that must not be unpacked, and StoreError; nothing of the layer is left in
    the tree then.
    """
    what = f"{tree.origin}: layer {layer.descriptor.digest}"
    blob = None if verified and _is_file(stream, layer.descriptor.size) else Hashed(stream.read)
    read = decompressed(blob.read if blob else stream.read, layer.compression, layer.descriptor.size)
    content = None
    if layer.compression is not Compression.NONE and layer.diff_id is not None:
        content = Hashed(read)
        read = content.read
    with tree.layer(layer.descriptor.size) as writes:
        try:
            if layer.archive is Archive.TAR:
                _extract(read, layer, tree, writes)
            else:
                _place(stream, blob, read, layer, tree, writes)
        except UnsafeArchive as error:
            # Damage explains a strange archive better than malice does.
            _check_blob(blob, layer, what)
            raise UnsafeArchive(
                f"{what} cannot be unpacked: {error}; pack the kit again without that"
            ) from error
        _check_blob(blob, layer, what)
        found = content.digest if content else layer.descriptor.digest
        if layer.diff_id is not None and layer.diff_id != found:
            raise DigestMismatch(
                f"{what} has content with the digest {found} where its Kitfile says {layer.diff_id}; "
                "pack the kit again"
            )
    return UnpackedLayer(tuple(writes.files), tuple(writes.directories), form_of(layer))


def form_of(layer: Layer) -> str:
    """Return what a layer's files in a tree depend on."""
    raw_path = layer.path if layer.archive is Archive.RAW else None
    facts = (layer.descriptor.digest, layer.archive.value, layer.compression.value, layer.diff_id)
    return json.dumps([str(fact) for fact in (*facts, layer.root, raw_path)])


def link_layer(root: Path, known: UnpackedLayer, size: int, tree: Tree) -> UnpackedLayer:
    """Put a layer of `size` bytes that is unpacked below `root` into a tree, its files by a second name.

    Raises StoreError, and OSError for files that are not there; nothing of the layer is left then.
    """
    with tree.layer(size) as writes:
        for directory in known.directories:
            tree.add_directory(writes, directory)
        for file in known.files:
            with (root / file.path).open("rb") as source:
                tree.link_file(writes, file.path, source, file.size, file.sha256)
    return known


def _extract(read: Read, layer: Layer, tree: Tree, writes: Writes) -> None:
    for entry, chunks in read_tar(read):
        path = "/".join(filter(None, (layer.root, safe_path(entry.name))))
        if entry.is_directory:
            tree.add_directory(writes, path)
        elif entry.name.endswith("/"):
            raise UnsafeArchive(f"{entry.name!r} is a file with a directory's name")
        else:
            tree.add_file(writes, path, chunks, entry.size)


def _place(
    stream: BinaryIO, blob: Hashed | None, read: Read, layer: Layer, tree: Tree, writes: Writes
) -> None:
    """Write the one file of a raw layer; where it is not compressed, it is the blob itself."""
    if not layer.path:
        raise UnsafeArchive("it is a single file, and the kit does not say which")
    path, size = safe_path(layer.path), layer.descriptor.size
    chunks = iter(lambda: read(CHUNK), b"")
    if layer.compression is not Compression.NONE:
        tree.add_file(writes, path, chunks)
    elif blob is None:
        tree.link_file(writes, path, stream, size, layer.descriptor.digest.hex)
    else:
        tree.add_file(writes, path, _cut(chunks, size), size, lambda: blob.digest.hex)


def _cut(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield no more than the bytes promised and one piece; whoever counts them finds out."""
    for chunk in chunks:
        yield chunk
        size -= len(chunk)
        if size < 0:
            return


def _is_file(stream: BinaryIO, size: int) -> bool:
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def _check_blob(blob: Hashed | None, layer: Layer, what: str) -> None:
    if blob is None:
        return
    while blob.size <= layer.descriptor.size and blob.read(CHUNK):
        pass
    if blob.size != layer.descriptor.size:
        raise SizeMismatch(
            f"{what} has another size than the {layer.descriptor.size} bytes promised; pull it again"
        )
    if blob.digest != layer.descriptor.digest:
        raise DigestMismatch(f"{what} has bytes with the digest {blob.digest}; pull it again")

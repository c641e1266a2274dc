"""The unpacking of layers into files, so that nothing outside the target is read or written.

The digest of a layer is verified while it is read, so a layer that was damaged on disk is never unpacked. For
one that was verified just now this is left out.
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
from gateway.kits.streams import HashingReader, decompressed
from gateway.kits.tree import LayerWrites, Tree, UnpackedFile
from gateway.oci.content import CHUNK
from gateway.oci.tar import Read, read_tar


@dataclass(frozen=True, slots=True)
class UnpackedLayer:
    """The files of a layer in a tree, and the directories that it has entries for.

    Layers of the same `form` unpack to the same files in every tree (see `form_of`).
    """

    files: tuple[UnpackedFile, ...]
    directories: tuple[str, ...]
    form: str


def unpack_layer(
    stream: BinaryIO,
    layer: Layer,
    tree: Tree,
    *,
    is_verified: bool = False,
    files: frozenset[str] | None = None,
) -> UnpackedLayer:
    """Unpack a layer's blob into a tree, and verify its digest and, where stated, that of its content.

    `files` are the only files that are unpacked of it; None for all, directories included. `is_verified` says
    that the caller has just verified the blob; a regular file is then not hashed again. Several threads may
    unpack layers into one tree.

    Raises DigestMismatch or SizeMismatch for a damaged blob, UnsafeArchive for one that must not be unpacked,
    and StoreError; nothing of the layer stays in the tree.
    """
    label = f"{tree.origin}: layer {layer.descriptor.digest}"
    blob = None if is_verified and _is_file(stream, layer.descriptor.size) else HashingReader(stream.read)
    read = decompressed(blob.read if blob else stream.read, layer.compression, layer.descriptor.size)
    content = None
    if layer.compression is not Compression.NONE and layer.diff_id is not None:
        content = HashingReader(read)
        read = content.read
    with tree.layer(layer.descriptor.size) as writes:
        try:
            if layer.archive is Archive.TAR:
                _extract(read, layer, tree, writes, files)
            else:
                _write_raw_file(stream, blob, read, layer, tree, writes)
        except UnsafeArchive as error:
            # An archive is more often damaged than malicious, so that is checked first.
            _check_blob(blob, layer, label)
            raise UnsafeArchive(
                f"{label} cannot be unpacked: {error}; pack the kit again without that"
            ) from error
        _check_blob(blob, layer, label)
        diff_id = content.digest if content else layer.descriptor.digest
        if layer.diff_id is not None and layer.diff_id != diff_id:
            raise DigestMismatch(
                f"{label} has content with the digest {diff_id} where its Kitfile says {layer.diff_id}; "
                "pack the kit again"
            )
    return UnpackedLayer(tuple(writes.files), tuple(writes.directories), form_of(layer))


def form_of(layer: Layer) -> str:
    """Return, as text, everything of a layer that its files in a tree depend on."""
    raw_path = layer.path if layer.archive is Archive.RAW else None
    facts = (layer.descriptor.digest, layer.archive.value, layer.compression.value, layer.diff_id)
    return json.dumps([str(fact) for fact in (*facts, layer.root, raw_path)])


def link_layer(root: Path, unpacked: UnpackedLayer, size: int, tree: Tree) -> UnpackedLayer:
    """Link a layer of `size` bytes that is unpacked below `root` into a tree.

    Raises StoreError, and OSError for files that are missing; nothing of the layer stays in the tree then.
    """
    with tree.layer(size) as writes:
        for directory in unpacked.directories:
            tree.add_directory(writes, directory)
        for file in unpacked.files:
            with (root / file.path).open("rb") as source:
                tree.link_file(writes, file.path, source, file.size, file.sha256)
    return unpacked


def _extract(read: Read, layer: Layer, tree: Tree, writes: LayerWrites, files: frozenset[str] | None) -> None:
    for entry, chunks in read_tar(read):
        path = "/".join(filter(None, (layer.root, safe_path(entry.name))))
        if files is not None and (entry.is_directory or path not in files):
            for _ in chunks:
                pass
        elif entry.is_directory:
            tree.add_directory(writes, path)
        elif entry.name.endswith("/"):
            raise UnsafeArchive(f"{entry.name!r} is a file with a directory's name")
        else:
            tree.add_file(writes, path, chunks, entry.size)


def _write_raw_file(
    stream: BinaryIO, blob: HashingReader | None, read: Read, layer: Layer, tree: Tree, writes: LayerWrites
) -> None:
    """Write the file of a raw layer; link the blob itself where it is uncompressed and verified."""
    if not layer.path:
        raise UnsafeArchive("it is a single file, and the kit states no path for it")
    path, size = safe_path(layer.path), layer.descriptor.size
    chunks = iter(lambda: read(CHUNK), b"")
    if layer.compression is not Compression.NONE:
        tree.add_file(writes, path, chunks)
    elif blob is None:
        tree.link_file(writes, path, stream, size, layer.descriptor.digest.hex)
    else:
        tree.add_file(writes, path, _limited(chunks, size), size, lambda: blob.digest.hex)


def _limited(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield chunks until there are more than `size` bytes; the check of the blob's size reports that."""
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


def _check_blob(blob: HashingReader | None, layer: Layer, label: str) -> None:
    if blob is None:
        return
    while blob.size <= layer.descriptor.size and blob.read(CHUNK):
        pass
    if blob.size != layer.descriptor.size:
        raise SizeMismatch(
            f"{label} has not the {layer.descriptor.size} bytes that its descriptor states; pull it again"
        )
    if blob.digest != layer.descriptor.digest:
        raise DigestMismatch(f"{label} has bytes with the digest {blob.digest}; pull it again")

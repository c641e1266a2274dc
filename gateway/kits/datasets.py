"""One dataset of a kit: found by its name in the Kitfile or its path, and read into memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from gateway.errors import DigestMismatch, KitError
from gateway.kits.kit import Kit
from gateway.kits.layer import Archive, Layer, Role
from gateway.kits.streams import Hashed, decompressed
from gateway.oci.content import CHUNK
from gateway.oci.tar import read_tar

MOST_BYTES = 64 * 1024 * 1024
_SUFFIXES = (".csv", ".jsonl")


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset's file: its path within the kit, and what is in it."""

    path: str
    data: bytes


def find_dataset(kit: Kit, name: str) -> Layer:
    """Return the layer of a dataset; raises KitError, with the names there are, when the kit has none so."""
    by_digest = {entry.digest: entry.name or "" for entry in kit.kitfile.datasets}
    layers = [layer for layer in kit.layers if layer.role is Role.DATASET]
    for layer in layers:
        if name in (by_digest.get(layer.descriptor.digest), layer.path):
            return layer
    known = [by_digest.get(layer.descriptor.digest) or layer.path or "" for layer in layers]
    there = f"it has {', '.join(filter(None, known))}" if any(known) else "it has none"
    raise KitError(f"{kit.reference} has no dataset called {name}; {there}")


def read_dataset(blob: BinaryIO, kit: Kit, layer: Layer) -> Dataset:
    """Read the one CSV or JSONL file of a dataset's layer, and verify the layer's digest.

    Raises KitError when there is no such file, or several, or it is too large; UnsafeArchive for a damaged
    archive, DigestMismatch for a damaged layer.
    """
    what = f"{kit.reference}: dataset {layer.path or layer.descriptor.digest}"
    hashed = Hashed(blob.read)
    read = decompressed(hashed.read, layer.compression, layer.descriptor.size)
    found: list[Dataset] = []
    if layer.archive is Archive.RAW:
        found.append(Dataset(layer.path or "", _whole(iter(lambda: read(CHUNK), b""), what)))
    else:
        for entry, chunks in read_tar(read):
            if entry.is_directory or not entry.name.endswith(_SUFFIXES):
                for _ in chunks:
                    pass
            else:
                found.append(Dataset(entry.name, _whole(chunks, what)))
    if len(found) != 1 or not found[0].path.endswith(_SUFFIXES):
        raise KitError(f"{what} must be one CSV or JSONL file, not {len(found)}")
    while hashed.read(CHUNK):
        pass
    if hashed.digest != layer.descriptor.digest:
        raise DigestMismatch(f"{what} has bytes with the digest {hashed.digest}; pull it again")
    return found[0]


def _whole(chunks: Iterable[bytes], what: str) -> bytes:
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > MOST_BYTES:
            raise KitError(f"{what} is larger than {MOST_BYTES} bytes; a golden dataset is a small one")
    return bytes(data)

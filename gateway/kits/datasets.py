"""A dataset of a kit: datasets by its name in the Kitfile or its path, and read into memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from gateway.errors import DigestMismatch, KitError
from gateway.kits.kit import Kit
from gateway.kits.layer import Archive, Layer, Role
from gateway.kits.streams import HashingReader, decompressed
from gateway.oci.content import CHUNK
from gateway.oci.tar import read_tar

MAX_BYTES = 64 * 1024 * 1024
_SUFFIXES = (".csv", ".jsonl")


@dataclass(frozen=True, slots=True)
class Dataset:
    """The file of a dataset: its path within the kit, and its content."""

    path: str
    data: bytes


def find_dataset(kit: Kit, name: str) -> Layer:
    """Return the layer of the dataset `name`. Raises KitError where the kit has none of that name."""
    names = {entry.digest: entry.name or "" for entry in kit.kitfile.datasets}
    layers = [layer for layer in kit.layers if layer.role is Role.DATASET]
    for layer in layers:
        if name in (names.get(layer.descriptor.digest), layer.path):
            return layer
    for entry in kit.kitfile.datasets:
        if entry.remote_path and name in (entry.name, entry.path):
            raise KitError(
                f"{kit.reference}: its dataset {name} is not packed but at {entry.remote_path}, which is not "
                "fetched; pack it into the kit"
            )
    available = [names.get(layer.descriptor.digest) or layer.path or "" for layer in layers]
    listed = ", ".join(filter(None, available)) or "none"
    raise KitError(f"{kit.reference} has no dataset called {name}; it has {listed}")


def read_dataset(blob: BinaryIO, kit: Kit, layer: Layer) -> Dataset:
    """Read the one CSV or JSONL file of a dataset's layer, and verify the layer's digest.

    Raises KitError where there is no such file, or several, or it is too large; UnsafeArchive for a damaged
    archive, DigestMismatch for a damaged layer.
    """
    label = f"{kit.reference}: dataset {layer.path or layer.descriptor.digest}"
    hashed = HashingReader(blob.read)
    read = decompressed(hashed.read, layer.compression, layer.descriptor.size)
    datasets: list[Dataset] = []
    if layer.archive is Archive.RAW:
        datasets.append(Dataset(layer.path or "", _whole(iter(lambda: read(CHUNK), b""), label)))
    else:
        for entry, chunks in read_tar(read):
            if entry.is_directory or not entry.name.endswith(_SUFFIXES):
                for _ in chunks:
                    pass
            else:
                datasets.append(Dataset(entry.name, _whole(chunks, label)))
    if len(datasets) != 1 or not datasets[0].path.endswith(_SUFFIXES):
        raise KitError(f"{label} must be one CSV or JSONL file, not {len(datasets)}")
    while hashed.read(CHUNK):
        pass
    if hashed.digest != layer.descriptor.digest:
        raise DigestMismatch(f"{label} has bytes with the digest {hashed.digest}; pull it again")
    return datasets[0]


def _whole(chunks: Iterable[bytes], label: str) -> bytes:
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > MAX_BYTES:
            raise KitError(f"{label} is larger than {MAX_BYTES} bytes; a golden dataset is a small one")
    return bytes(data)

"""The kits of one node: from a reference to a verified, unpacked directory.

    kits/HEX/             an unpacked kit, by the digest of its manifest; nothing in it is writable
    kits/HEX.seal.json    what was unpacked; written last, so a directory without it does not exist

Blobs are beside it, in the node's Store. Several processes may use one library at the same time.
"""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ValidationError

from gateway.errors import ContentError, KitError, SizeMismatch
from gateway.kits.kit import Kit
from gateway.kits.kitfile import MAX_CONFIG, read_kitfile
from gateway.kits.layer import Layer, Role
from gateway.kits.manifest import parse_manifest
from gateway.kits.tree import Tree, UnpackedFile
from gateway.kits.unpack import unpack_layer
from gateway.oci.content import Descriptor
from gateway.oci.files import sync_directory
from gateway.oci.options import SourceOptions
from gateway.oci.reference import Digest, Reference
from gateway.oci.sources import open_source
from gateway.oci.store import Store

__all__ = ["Kit", "Layer", "Library", "Progress", "Role", "UnpackedKit"]


_ANYWHERE = SourceOptions()


class Progress(Protocol):
    """Told how far `Library.open` is; called in the thread that called it."""

    def pulling(self, done: int, total: int) -> None:
        """Bytes of the needed layers that are on this node, and bytes of all of them."""

    def unpacking(self) -> None:
        """Every layer is here, and is being unpacked."""


@dataclass(frozen=True, slots=True)
class UnpackedKit:
    """A kit in a directory of this node: read-only, and there until the library is removed.

    `from_cache` says that it was unpacked before; `pulled_bytes` is what came from the source for it, and
    `unpack_seconds` the time that unpacking took.
    """

    kit: Kit
    path: Path
    from_cache: bool
    pulled_bytes: int
    unpack_seconds: float

    @property
    def model_path(self) -> Path:
        """The model's file or directory; the kit's own directory where the kit names neither."""
        return self.path / self.kit.model_name


class _Seal(BaseModel):
    files: list[UnpackedFile]


class Library:
    """Kits and their blobs under `root`; `sources` says how their sources are reached.

    Every method raises the RegistryError family where a source is asked, the ContentError family for
    bytes that are not what was promised, and StoreError where this node's disk fails.
    """

    def __init__(self, root: Path, sources: SourceOptions = _ANYWHERE) -> None:
        self._store = Store(root)
        self._sources = sources
        self._kits = root / "kits"
        with self._store.writing():
            self._kits.mkdir(exist_ok=True)

    def resolve(self, reference: Reference) -> Digest:
        """Return the digest that a reference names now; a pinned one answers for itself."""
        return reference.digest or open_source(reference, self._sources).resolve().digest

    def describe(self, reference: Reference) -> Kit:
        """Return what a reference names, without its layers; asks nobody when it is pinned and known.

        Raises NotAKit, InvalidKitfile or KitError for what cannot be served.
        """
        pinned = reference.pinned(self.resolve(reference))
        digest = self.resolve(pinned)
        data = self._store.read(digest)
        if data is None:
            source = open_source(pinned, self._sources)
            data = source.manifest(source.resolve())
        manifest = parse_manifest(data, str(pinned))
        self._store.put(data)
        config = self._config(pinned, manifest.config)
        return Kit.of(pinned, digest, manifest, read_kitfile(manifest, config, str(pinned)))

    def open(self, reference: Reference, progress: Progress | None = None) -> UnpackedKit:
        """Return the kit's directory: pulled, verified, unpacked and sealed, by whoever comes first.

        Asks nobody when the reference is pinned and the kit is here. Raises what `describe` raises, and
        UnsafeArchive for a layer that must not be unpacked; nothing of a kit is left behind then.
        """
        kit = self.describe(reference)
        _check_servable(kit)
        path = self._kits / kit.digest.hex
        with self._store.lock(f"kit-{kit.digest.hex}"), self._store.writing():
            if self._is_sealed(path):
                return UnpackedKit(kit, path, from_cache=True, pulled_bytes=0, unpack_seconds=0.0)
            pulled = self._pull(kit, progress)
            if progress is not None:
                progress.unpacking()
            try:
                seconds = self._unpack(kit, path)
            except ContentError:
                # A blob was damaged on this disk: have it again, once. Whole blobs mean a lying kit.
                digests = [layer.descriptor.digest for layer in kit.needed_layers()]
                if not [digest for digest in digests if not self._store.sound(digest)]:
                    raise
                pulled += self._pull(kit, progress)
                seconds = self._unpack(kit, path)
            return UnpackedKit(kit, path, from_cache=False, pulled_bytes=pulled, unpack_seconds=seconds)

    def _config(self, pinned: Reference, descriptor: Descriptor) -> bytes:
        if descriptor.size > MAX_CONFIG:
            raise SizeMismatch(f"{pinned}: its Kitfile has {descriptor.size} bytes; 4 MiB are allowed")
        data = self._store.read(descriptor.digest)
        if data is None:
            data = self._store.fetch(descriptor, open_source(pinned, self._sources)).read_bytes()
        return data

    def _pull(self, kit: Kit, progress: Progress | None) -> int:
        """Fetch what is missing of the needed layers; return the bytes that came."""
        layers = kit.needed_layers()
        missing = [layer.descriptor for layer in layers if not self._store.has(layer.descriptor.digest)]
        here, pulled = kit.size - sum(descriptor.size for descriptor in missing), 0

        def arrived(size: int) -> None:
            nonlocal pulled
            pulled += size
            if progress is not None:
                progress.pulling(min(here + pulled, kit.size), kit.size)

        arrived(0)
        if missing:
            source = open_source(kit.reference, self._sources)
            for descriptor in missing:
                self._store.fetch(descriptor, source, arrived)
        return pulled

    def _unpack(self, kit: Kit, path: Path) -> float:
        begun = time.monotonic()
        fresh = path.with_name(f".{path.name}.tmp")
        _remove_tree(fresh)
        try:
            tree = Tree(fresh, str(kit.reference), durable=True)
            for layer in kit.needed_layers():
                with self._store.path(layer.descriptor.digest).open("rb") as blob:
                    unpack_layer(blob, layer, tree)
            _check_model(kit, fresh)
            tree.seal()
            fresh.rename(path)
        except BaseException:
            _remove_tree(fresh)
            raise
        self._seal(path, tree.files)
        return time.monotonic() - begun

    def _seal(self, path: Path, files: list[UnpackedFile]) -> None:
        fresh = path.with_name(f".{path.name}.seal.tmp")
        with fresh.open("w") as file:
            file.write(_Seal(files=files).model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(_seal_path(path))
        sync_directory(self._kits)

    def _is_sealed(self, path: Path) -> bool:
        """Tell whether an unpacked kit is whole, by names and sizes; remove what is left of any other."""
        try:
            seal = _Seal.model_validate_json(_seal_path(path).read_bytes())
            if all((path / file.path).lstat().st_size == file.size for file in seal.files) and path.is_dir():
                return True
        except (FileNotFoundError, NotADirectoryError, ValidationError):
            pass
        _seal_path(path).unlink(missing_ok=True)
        _remove_tree(path)
        return False


def _check_model(kit: Kit, root: Path) -> None:
    if not (root / kit.model_name).exists():
        raise KitError(
            f"{kit.reference}: its model is to be at {kit.model_name!r}, and no layer has that; "
            "pack the kit again"
        )


def _check_servable(kit: Kit) -> None:
    layers = kit.needed_layers()
    if not any(layer.role is Role.MODEL for layer in layers) and kit.kitfile.parent is not None:
        raise KitError(
            f"{kit.reference} names a parent kit {kit.kitfile.parent}; parent kits are not supported yet; "
            "serve the parent, or pack the model into this kit"
        )
    if not layers:
        raise KitError(f"{kit.reference} has no model; pack one, with `model` in its Kitfile")


def _seal_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.seal.json")


def _remove_tree(path: Path) -> None:
    if not path.exists():
        return
    for directory, _, _ in os.walk(path):
        Path(directory).chmod(0o755)
    shutil.rmtree(path)

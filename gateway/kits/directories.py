"""Unpacked kits: directories that are whole and as they were sealed, or do not exist.

KEY/             an unpacked kit; nothing in it is writable
KEY.seal.json    what it holds; written last, so a directory without it does not exist
.KEY.tmp/        one that is being unpacked
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from gateway.kits.tree import UnpackedFile
from gateway.kits.unpack import UnpackedLayer
from gateway.oci.documents import DigestField
from gateway.oci.files import replace_file
from gateway.oci.reference import Digest

_SEAL = ".seal.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SealedBlob(BaseModel):
    """A blob that the kit was made of; `size` in bytes."""

    digest: DigestField
    size: int


class SealedFile(BaseModel):
    """A file of the kit; `changed` is its mtime in ns when it was last known to be what it should."""

    path: str
    size: int
    sha256: str
    changed: int


class SealedLayer(BaseModel):
    """A layer that the kit was unpacked from: what it is, and what of the kit is its."""

    form: str
    files: list[str]
    directories: list[str]


class Seal(BaseModel):
    """What an unpacked kit is; `names` are the references without digest that it was opened by.

    `boot` names the run of the machine in which `changed` of each file holds: before a crash nothing was
    forced to disk, so what an earlier run left is read through once.
    """

    digest: DigestField
    manifest_size: int
    names: list[str]
    blobs: list[SealedBlob]
    boot: str
    files: list[SealedFile]
    layers: list[SealedLayer]

    @property
    def size(self) -> int:
        """Bytes of the unpacked files."""
        return sum(file.size for file in self.files)


class SealedTrees:
    """The unpacked kits below `root`, by key. Raises OSError where the disk fails."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """Return the directory of a kit."""
        return self._root / key

    def begin(self, key: str) -> Path:
        """Return where a kit is to be unpacked; nothing is there."""
        fresh = self._root / f".{key}.tmp"
        remove_tree(fresh)
        return fresh

    def finish(self, key: str, seal: Seal) -> None:
        """Put what was unpacked in its place."""
        self._root.joinpath(f".{key}.tmp").rename(self.path(key))
        self.write(key, seal)

    def write(self, key: str, seal: Seal) -> None:
        """Write a kit's seal."""
        replace_file(self._seal(key), seal.model_dump_json().encode())

    def find(self, key: str, *, thorough: bool = False) -> Seal | None:
        """Return the seal of a kit that is whole; remove what is left of any other.

        For whoever has the kit's lock: another may be unpacking it.
        """
        seal = self.read(key)
        if seal is None or (known := self._known(key, seal, thorough)) is None:
            self.remove(key)
            return None
        if known != seal:
            self.write(key, known)
        return known

    def read(self, key: str) -> Seal | None:
        """Return a kit's seal, whatever state its files are in."""
        try:
            return Seal.model_validate_json(self._seal(key).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def is_whole(self, key: str) -> bool:
        """Tell whether a kit is here and as it was sealed; nothing is removed or noted."""
        seal = self.read(key)
        return seal is not None and self._known(key, seal) is not None

    def _known(self, key: str, seal: Seal, thorough: bool = False) -> Seal | None:
        """Return the seal as of now where every file is what was sealed; those touched are read through."""
        boot, files = boot_id(), []
        try:
            for file in seal.files:
                path = self.path(key) / file.path
                status = path.lstat()
                if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
                    return None
                touched = seal.boot != boot or status.st_mtime_ns != file.changed
                if (thorough or touched) and not _has_digest(path, file.sha256):
                    return None
                files.append(file.model_copy(update={"changed": status.st_mtime_ns}) if touched else file)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not self.path(key).is_dir():
            return None
        return seal.model_copy(update={"boot": boot, "files": files})

    def remove(self, key: str) -> None:
        """Remove a kit, its seal first."""
        self._seal(key).unlink(missing_ok=True)
        remove_tree(self.path(key))

    def all(self) -> dict[str, Seal]:
        """Return every seal by key."""
        seals = {key: self.read(key) for key in self._keys()}
        return {key: seal for key, seal in seals.items() if seal is not None}

    def needed(self) -> set[Digest]:
        """Return the blobs that the kits here were made of."""
        return {blob.digest for seal in self.all().values() for blob in seal.blobs}

    def layers(self) -> dict[str, list[tuple[str, UnpackedLayer]]]:
        """Return every layer that is unpacked, by its form: the key of the kit, and what it put there."""
        found: dict[str, list[tuple[str, UnpackedLayer]]] = {}
        for key, seal in self.all().items():
            files = {file.path: UnpackedFile(file.path, file.size, file.sha256) for file in seal.files}
            for layer in seal.layers:
                unpacked = UnpackedLayer(
                    tuple(files[path] for path in layer.files), tuple(layer.directories), layer.form
                )
                found.setdefault(layer.form, []).append((key, unpacked))
        return found

    def files(self) -> Iterator[Path]:
        """Yield every file of every kit."""
        return (self.path(key) / file.path for key, seal in self.all().items() for file in seal.files)

    def leftovers(self) -> list[str]:
        """Return the keys of what has no readable seal, or is not unpacked to its end."""
        names = {entry.name for entry in self._root.iterdir() if entry.is_dir()} | set(self._keys())
        return [name.removeprefix(".").removesuffix(".tmp") for name in names - self.all().keys()]

    def _keys(self) -> Iterator[str]:
        return (entry.name.removesuffix(_SEAL) for entry in self._root.glob(f"[0-9a-f]*{_SEAL}"))

    def _seal(self, key: str) -> Path:
        return self._root / f"{key}{_SEAL}"


def sealed_layers(layers: Iterable[UnpackedLayer]) -> list[SealedLayer]:
    """Return what a seal says of the layers that a kit was just unpacked from."""
    return [
        SealedLayer(
            form=unpacked.form,
            files=[file.path for file in unpacked.files],
            directories=list(unpacked.directories),
        )
        for unpacked in layers
    ]


def sealed_files(root: Path, files: Iterable[UnpackedFile]) -> list[SealedFile]:
    """Return what a seal says of files that were just unpacked below `root`."""
    return [
        SealedFile(
            path=file.path,
            size=file.size,
            sha256=file.sha256,
            changed=(root / file.path).lstat().st_mtime_ns,
        )
        for file in files
    ]


def boot_id() -> str:
    """Return what names this run of the machine."""
    return _BOOT_ID.read_text().strip()


def remove_tree(path: Path) -> None:
    """Remove a directory whose parts may be read-only."""
    if not path.exists():
        return
    for directory, _, _ in os.walk(path):
        Path(directory).chmod(0o755)
    shutil.rmtree(path)


def _has_digest(path: Path, digest: str) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest

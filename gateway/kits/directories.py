"""The directories of unpacked kits, each with an inventory that it is checked against.

KEY/             an unpacked kit; nothing in it is writable
KEY.seal.json    its inventory; written last, so a directory without one counts as missing
.KEY.tmp/        a kit that is being unpacked
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

COMPILED = "compiled"
"""Where engines keep what they compile of kits, beside the directory of the kits."""
_INVENTORY = ".seal.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class InventoryBlob(BaseModel):
    """A blob of the kit: its manifest, its config or a layer; `size` in bytes."""

    digest: DigestField
    size: int


class InventoryFile(BaseModel):
    """A file of the kit; `changed` is its mtime in ns when its content was last known to be right."""

    path: str
    size: int
    sha256: str
    changed: int


class InventoryLayer(BaseModel):
    """A layer of the kit: its form (see `unpack.form_of`), and the files and directories from it."""

    form: str
    files: list[str]
    directories: list[str]


class Inventory(BaseModel):
    """The content of an unpacked kit; `names` are the references that it was opened by, without digests.

    `boot` is the boot of the machine for which the `changed` of each file holds: unpacked files are not
    synced to disk, so after another boot each is read and checked once. `has_companions` says that the files
    which the model names were looked for in other layers; up to the first release they were not. `entry` is
    the path of the Python that serves the kit, "" where there is none, None where nobody has looked for it.
    """

    digest: DigestField
    manifest_size: int
    names: list[str]
    blobs: list[InventoryBlob]
    boot: str
    files: list[InventoryFile]
    layers: list[InventoryLayer]
    has_companions: bool = False
    entry: str | None = None

    @property
    def size(self) -> int:
        """The bytes of the unpacked files."""
        return sum(file.size for file in self.files)


class KitDirectories:
    """The unpacked kits under `root`, by key (see `Kit.key`). Raises OSError where the disk fails."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """Return the directory of a kit."""
        return self._root / key

    def begin(self, key: str) -> Path:
        """Return the path to unpack a kit into; nothing is there yet."""
        temporary = self._root / f".{key}.tmp"
        remove_tree(temporary)
        return temporary

    def finish(self, key: str, inventory: Inventory) -> None:
        """Move a kit that was unpacked to its path, in place of what was there, and write its inventory."""
        self.remove(key)
        self._root.joinpath(f".{key}.tmp").rename(self.path(key))
        self.write(key, inventory)

    def write(self, key: str, inventory: Inventory) -> None:
        """Write the inventory of a kit."""
        replace_file(self._inventory_path(key), inventory.model_dump_json().encode())

    def check(self, key: str, *, read_all: bool = False) -> Inventory | None:
        """Return the inventory of a kit whose files match it; remove one whose files do not.

        Files that changed since they were last known to be right are read, with `read_all` all files. The
        caller holds the kit's lock, as another process may be unpacking it.
        """
        inventory = self.read(key)
        if inventory is None or (checked := self._checked(key, inventory, read_all)) is None:
            self.remove(key)
            return None
        if checked != inventory:
            self.write(key, checked)
        return checked

    def read(self, key: str) -> Inventory | None:
        """Return the inventory of a kit, without a look at its files."""
        try:
            return Inventory.model_validate_json(self._inventory_path(key).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def is_intact(self, key: str) -> bool:
        """Tell whether a kit is here and its files match its inventory; nothing is changed on disk."""
        inventory = self.read(key)
        return inventory is not None and self._checked(key, inventory) is not None

    def _checked(self, key: str, inventory: Inventory, read_all: bool = False) -> Inventory | None:
        """Return the inventory as of now, or None where a file does not match it."""
        boot, files = boot_id(), []
        try:
            for file in inventory.files:
                path = self.path(key) / file.path
                status = path.lstat()
                if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
                    return None
                is_suspect = inventory.boot != boot or status.st_mtime_ns != file.changed
                if (read_all or is_suspect) and not _has_digest(path, file.sha256):
                    return None
                files.append(file.model_copy(update={"changed": status.st_mtime_ns}) if is_suspect else file)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not self.path(key).is_dir():
            return None
        return inventory.model_copy(update={"boot": boot, "files": files})

    def remove(self, key: str) -> None:
        """Remove a kit, its inventory first, and what engines compiled of it."""
        self._inventory_path(key).unlink(missing_ok=True)
        remove_tree(self.path(key))
        remove_tree(self._root.parent / COMPILED / key)

    def inventories(self) -> dict[str, Inventory]:
        """Return the inventory of every kit by its key."""
        inventories = {key: self.read(key) for key in self._keys()}
        return {key: inventory for key, inventory in inventories.items() if inventory is not None}

    def needed_blobs(self) -> set[Digest]:
        """Return the blobs of all kits."""
        return {blob.digest for inventory in self.inventories().values() for blob in inventory.blobs}

    def layers(self) -> dict[str, list[tuple[str, UnpackedLayer]]]:
        """Return every unpacked layer by its form, with the key of its kit."""
        layers: dict[str, list[tuple[str, UnpackedLayer]]] = {}
        for key, inventory in self.inventories().items():
            files = {file.path: UnpackedFile(file.path, file.size, file.sha256) for file in inventory.files}
            for layer in inventory.layers:
                unpacked = UnpackedLayer(
                    tuple(files[path] for path in layer.files), tuple(layer.directories), layer.form
                )
                layers.setdefault(layer.form, []).append((key, unpacked))
        return layers

    def files(self) -> Iterator[Path]:
        """Yield every file of every kit."""
        return (
            self.path(key) / file.path
            for key, inventory in self.inventories().items()
            for file in inventory.files
        )

    def leftovers(self) -> list[str]:
        """Return the keys of directories without a readable inventory, or not unpacked to the end."""
        names = {entry.name for entry in self._root.iterdir() if entry.is_dir()} | set(self._keys())
        return [name.removeprefix(".").removesuffix(".tmp") for name in names - self.inventories().keys()]

    def _keys(self) -> Iterator[str]:
        return (entry.name.removesuffix(_INVENTORY) for entry in self._root.glob(f"[0-9a-f]*{_INVENTORY}"))

    def _inventory_path(self, key: str) -> Path:
        return self._root / f"{key}{_INVENTORY}"


def inventory_layers(layers: Iterable[UnpackedLayer]) -> list[InventoryLayer]:
    """Return the inventory of the layers that a kit was just unpacked from."""
    return [
        InventoryLayer(
            form=unpacked.form,
            files=[file.path for file in unpacked.files],
            directories=list(unpacked.directories),
        )
        for unpacked in layers
    ]


def inventory_files(root: Path, files: Iterable[UnpackedFile]) -> list[InventoryFile]:
    """Return the inventory of files that were just unpacked below `root`."""
    return [
        InventoryFile(
            path=file.path,
            size=file.size,
            sha256=file.sha256,
            changed=(root / file.path).lstat().st_mtime_ns,
        )
        for file in files
    ]


def boot_id() -> str:
    """Return the id of the machine's present boot."""
    return _BOOT_ID.read_text().strip()


def remove_tree(path: Path) -> None:
    """Remove a directory, read-only parts included."""
    if not path.exists():
        return
    for directory, _, _ in os.walk(path):
        Path(directory).chmod(0o755)
    shutil.rmtree(path)


def _has_digest(path: Path, digest: str) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest

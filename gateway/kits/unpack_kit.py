"""The unpacking of a whole kit: its layers, the Python that serves it, and the files that its model names.

The inventory is written last, so a kit that is unpacked in part does not exist.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gateway.errors import KitError, UnsafeArchive
from gateway.kits.companions import holders, missing_files
from gateway.kits.directories import (
    Inventory,
    InventoryBlob,
    KitDirectories,
    boot_id,
    inventory_files,
    inventory_layers,
    remove_tree,
)
from gateway.kits.entry import (
    PythonEntry,
    code_layers,
    entry_among,
    known_entry,
    may_have_unseen_entry,
    possible_entries,
    stated_entry,
)
from gateway.kits.kit import Kit
from gateway.kits.pull import Pull, WantedLayer
from gateway.kits.tree import Tree
from gateway.kits.unpack import UnpackedLayer, form_of
from gateway.oci.reference import Digest
from gateway.oci.store import Store


class KitUnpacker:
    """Unpacks kits into their directories; `make_room` frees as many bytes as are still to be written."""

    def __init__(self, store: Store, directories: KitDirectories, make_room: Callable[[int], object]) -> None:
        self._store = store
        self._directories = directories
        self._make_room = make_room

    def unpack(self, kit: Kit, may_run_code: bool, pull: Pull) -> None:
        """Pull and unpack a kit; its code only where there is an entry, and `may_run_code`.

        Raises:
            KitError: where no layer has the model that the Kitfile names.
            ContentError: for bytes that are not what their descriptor states.
            UnsafeArchive: for a layer that must not be unpacked.
        """
        needed = [WantedLayer(link.reference, layer) for link in kit.chain for layer in link.needed_layers()]
        self._make_room(pull.add(needed))
        directory = self._directories.begin(kit.key)
        try:
            tree = Tree(directory, str(kit.reference), expected=kit.size)
            unpacked = pull.unpack_into(tree, needed)
            _check_model(kit, directory)
            entry = stated_entry(kit) or entry_among(kit, [file.path for file in tree.files])
            entry = entry or self._find_entry(kit, may_run_code, pull)
            code = code_layers(kit) if entry is not None and may_run_code else ()
            unpacked += self._unpack_layers(pull, tree, [WantedLayer(kit.reference, layer) for layer in code])
            companions = self._unpack_companions(kit, pull, tree)
            tree.make_read_only()
            files = inventory_files(directory, tree.files)
        except BaseException:
            remove_tree(directory)
            raise
        blobs = (*kit.needed_blobs, *companions, *(layer.descriptor.digest for layer in code))
        self._directories.finish(
            kit.key,
            Inventory(
                digest=kit.digest,
                manifest_size=self._size(kit.digest),
                names=[],
                blobs=[
                    InventoryBlob(digest=digest, size=self._size(digest))
                    for digest in dict.fromkeys(blobs)
                    if self._store.has(digest)
                ],
                boot=boot_id(),
                files=files,
                layers=inventory_layers(unpacked),
                has_companions=True,
                entry="" if entry is None else entry.path,
            ),
        )

    def _unpack_layers(self, pull: Pull, tree: Tree, wanted: list[WantedLayer]) -> list[UnpackedLayer]:
        """Pull further layers and unpack them into a tree; return what each put there."""
        if not wanted:
            return []
        self._make_room(pull.add(wanted))
        return pull.unpack_into(tree, wanted)

    def _unpack_companions(self, kit: Kit, pull: Pull, tree: Tree) -> list[Digest]:
        """Unpack the files that the model names from the layers that hold them; return those layers."""
        missing = missing_files(kit, tree.root, [file.path for file in tree.files])
        held = []
        for candidate in holders(kit, missing):
            # An earlier candidate may have had them.
            files = frozenset(candidate.files or ()) & missing
            if files:
                wanted = replace(candidate, files=files)
                (unpacked,) = self._unpack_layers(pull, tree, [wanted])
                missing -= {file.path for file in unpacked.files}
                if unpacked.files:
                    held.append(wanted.layer.descriptor.digest)
        return held

    def _find_entry(self, kit: Kit, may_run_code: bool, pull: Pull) -> PythonEntry | None:
        """Return the entry that is in a code layer and stated nowhere; nothing of it is kept."""
        for layer, path in possible_entries(kit, may_run_code):
            wanted = WantedLayer(kit.reference, layer, frozenset({path}))
            self._make_room(pull.add([wanted]))
            directory = self._directories.begin(f"{kit.key}-entry")
            try:
                tree = Tree(directory, str(kit.reference), expected=layer.descriptor.size)
                (unpacked,) = pull.unpack_into(tree, [wanted])
            except UnsafeArchive:
                # What is not unpacked may hold what it likes.
                if may_run_code:
                    raise
                continue
            finally:
                remove_tree(directory)
            if unpacked.files:
                return PythonEntry(path)
        return None

    def _size(self, digest: Digest) -> int:
        return self._store.path(digest).stat().st_size


def is_incomplete(kit: Kit, inventory: Inventory, may_run_code: bool) -> bool:
    """Tell whether a kit was unpacked without what serving needs by now: a layer, or a look for its entry.

    That is so after an earlier release, which did not know a type of layer, and where the policy has changed.
    """
    forms = {layer.form for layer in inventory.layers}
    needed = [layer for link in kit.chain for layer in link.needed_layers()]
    if may_run_code and known_entry(kit, inventory) is not None:
        needed += code_layers(kit)
    return any(form_of(layer) not in forms for layer in needed) or may_have_unseen_entry(
        kit, inventory, may_run_code
    )


def _check_model(kit: Kit, root: Path) -> None:
    if not (root / kit.model_name).exists():
        raise KitError(
            f"{kit.reference}: its model should be at {kit.model_name!r}, and no layer has that; "
            "pack the kit again"
        )

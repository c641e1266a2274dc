"""The entry of a kit: the file of Python in its code that serves it.

It is what the Kitfile's `model.parameters.entry` names, "src/serve.py" or "src/serve.py:ClassName"; else the
`kitserve.py` at the root of a code layer. Which it is in a layer of a directory is known only once that layer
was looked into. An entry of a parent is none of its child's, as only the model comes from there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.errors import InvalidKitfile, UnsafeArchive
from gateway.kits.directories import Inventory
from gateway.kits.kit import Kit
from gateway.kits.layer import Archive, Layer, Role
from gateway.kits.paths import safe_path

FILE = "kitserve.py"
"""What the entry is called where the Kitfile names none."""
LOOKED_INTO_BYTES = 64 * 1024 * 1024
"""How large a code layer may be that is fetched only to see whether it has an entry."""

_PARAMETER = "entry"
# Layers of directories have such names hardly ever, and those that `kit init` makes for single files always.
_SINGLE_FILE = re.compile(
    r"\.(?:py|pyi|ipynb|sh|md|txt|csv|json|yaml|yml|toml|cfg|ini|lock|data|onnx_data|bin|onnx|whl|zip|gz|tar)$",
    re.IGNORECASE,
)
_STATED = re.compile(r"(?P<path>[^:]+\.py)(?::(?P<name>[^:]*))?")


@dataclass(frozen=True, slots=True)
class PythonEntry:
    """A file of Python that serves its kit."""

    path: str
    """Its path within the kit."""
    class_name: str = ""
    """The class in it; "" for the only one that can be served."""


def stated_entry(kit: Kit) -> PythonEntry | None:
    """Return the entry that the kit's documents tell of; None where they do not.

    Raises:
        InvalidKitfile: where the Kitfile names one by an unsafe path, or a class that is none.
    """
    model = kit.kitfile.model
    value = None if model is None else model.parameter(_PARAMETER)
    if isinstance(value, str) and (match := _STATED.fullmatch(value.strip())):
        where = f"{kit.reference}: model.parameters.{_PARAMETER} in its Kitfile"
        name = match["name"] or ""
        if match["name"] is not None and not name.isidentifier():
            raise InvalidKitfile(
                f"{where}: {name!r} is no name of a class; write `{match['path']}:ClassName`"
            )
        try:
            return PythonEntry(safe_path(match["path"]), name)
        except UnsafeArchive as error:
            raise InvalidKitfile(f"{where}: {error}") from error
    for layer in code_layers(kit):
        if (path := layer.safe_path) is not None and posixpath.basename(path) == FILE:
            return PythonEntry(path)
    return None


def code_layers(kit: Kit) -> tuple[Layer, ...]:
    """Return the layers with the kit's own code, not with a parent's."""
    return tuple(layer for layer in kit.layers if layer.role is Role.CODE)


def possible_entries(kit: Kit, may_run_code: bool) -> Iterator[tuple[Layer, str]]:
    """Yield the layers that may have an entry which nothing tells of, each with the path that it would have.

    A layer of one file of another name has none. Where the kit may not run code, larger layers than
    `LOOKED_INTO_BYTES` are left out.
    """
    for layer in code_layers(kit):
        path = layer.safe_path
        if layer.archive is not Archive.TAR or path is None or _SINGLE_FILE.search(path):
            continue
        if may_run_code or layer.descriptor.size <= LOOKED_INTO_BYTES:
            yield layer, posixpath.join(path, FILE)


def entry_among(kit: Kit, files: Iterable[str]) -> PythonEntry | None:
    """Return the entry among the files of the unpacked model: at the root of the kit, or of its model."""
    paths = set(files)
    for path in (FILE, posixpath.join(kit.model_name, FILE)):
        if path in paths and not kit.parents:
            return PythonEntry(path)
    return None


def may_have_unseen_entry(kit: Kit, inventory: Inventory, may_run_code: bool) -> bool:
    """Tell whether an unpacked kit has code that nobody looked into for an entry."""
    is_unknown = inventory.entry is None and stated_entry(kit) is None
    return is_unknown and next(possible_entries(kit, may_run_code), None) is not None


def known_entry(kit: Kit, inventory: Inventory) -> PythonEntry | None:
    """Return the entry that an unpacked kit states, or that was found in it."""
    return stated_entry(kit) or (PythonEntry(inventory.entry) if inventory.entry else None)

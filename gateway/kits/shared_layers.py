"""Layers that another kit of this node has unpacked already: their files are shared, not written again."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.kits.directories import SealedTrees
from gateway.kits.layer import Layer
from gateway.kits.unpack import UnpackedLayer, form_of
from gateway.oci.leases import Lease


@dataclass(frozen=True, slots=True)
class Donor:
    """A kit's directory, and what a layer put into it."""

    root: Path
    unpacked: UnpackedLayer


class Donors:
    """Finds donors, and has them stay until the block ends; `lease` takes a lease on a kit by its key."""

    def __init__(self, trees: SealedTrees, lease: Callable[[str], Lease]) -> None:
        self._trees = trees
        self._lease = lease
        self._stack = ExitStack()
        self._known = trees.layers()
        self._whole: dict[str, bool] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def find(self, layer: Layer) -> Donor | None:
        """Return a kit that has the same layer, whole; None where there is none."""
        for key, unpacked in self._known.get(form_of(layer), ()):
            if self._is_whole(key):
                return Donor(self._trees.path(key), unpacked)
        return None

    def _is_whole(self, key: str) -> bool:
        if key not in self._whole:
            lease = self._lease(key)
            self._stack.callback(lease.release)
            # It may have gone before there was a lease on it.
            self._whole[key] = self._trees.is_whole(key)
        return self._whole[key]

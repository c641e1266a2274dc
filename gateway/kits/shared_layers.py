"""Layers that another kit of this node has unpacked already: their files are linked, not written again."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.kits.directories import KitDirectories
from gateway.kits.layer import Layer
from gateway.kits.unpack import UnpackedLayer, form_of
from gateway.oci.leases import Lease


@dataclass(frozen=True, slots=True)
class SharedLayer:
    """An unpacked layer in the directory of another kit, `root`."""

    root: Path
    unpacked: UnpackedLayer


class SharedLayers:
    """Finds shared layers, and keeps their kits until the block ends; `lease` leases a kit by its key."""

    def __init__(self, directories: KitDirectories, lease: Callable[[str], Lease]) -> None:
        self._directories = directories
        self._lease = lease
        self._stack = ExitStack()
        self._layers = directories.layers()
        self._intact: dict[str, bool] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def find(self, layer: Layer) -> SharedLayer | None:
        """Return the layer as an intact kit has it; None where there is none."""
        for key, unpacked in self._layers.get(form_of(layer), ()):
            if self._is_intact(key):
                return SharedLayer(self._directories.path(key), unpacked)
        return None

    def _is_intact(self, key: str) -> bool:
        if key not in self._intact:
            lease = self._lease(key)
            self._stack.callback(lease.release)
            # Checked under the lease, as the kit may have been removed before it was taken.
            self._intact[key] = self._directories.is_intact(key)
        return self._intact[key]

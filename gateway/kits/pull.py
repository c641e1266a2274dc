"""The pull of one kit: its layers are fetched in parallel, and each is unpacked as soon as it is here."""

import time
from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event, Lock
from typing import Protocol

from gateway.kits.layer import Archive, Compression, Layer
from gateway.kits.shared_layers import SharedLayer, SharedLayers
from gateway.kits.tree import Tree
from gateway.kits.unpack import UnpackedLayer, form_of, link_layer, unpack_layer
from gateway.oci.content import Source
from gateway.oci.reference import Digest, Reference
from gateway.oci.store import Store


class Progress(Protocol):
    """The progress of a pull, reported by one thread at a time."""

    def pulling(self, done: int, total: int) -> None:
        """Report the bytes of the needed layers that are on this node, and the bytes of all of them."""

    def unpacking(self) -> None:
        """Report that every layer is on this node; some may still have to be unpacked."""


@dataclass(frozen=True, slots=True)
class WantedLayer:
    """A layer of the kit that `reference` names."""

    reference: Reference
    layer: Layer
    files: frozenset[str] | None = None
    """The only files that are wanted of it; None for all."""


class Pull:
    """The pull of layers of a kit and its parents into a tree; for one thread at a time.

    `pulled` is the bytes that came from sources, `cached` the blobs that were here before, `unpack_seconds`
    the time that unpacking took, summed over threads.
    """

    def __init__(
        self,
        store: Store,
        source: Callable[[Reference], Source],
        connections: int,
        shared_layers: SharedLayers,
        progress: Progress | None,
    ) -> None:
        self.pulled = 0
        self.unpack_seconds = 0.0
        self.cached: list[Digest] = []
        self._store = store
        self._source = source
        self._connections = connections
        self._shared_layers = shared_layers
        self._progress = progress
        self._missing: dict[Digest, int] = {}
        self._shared: dict[str, SharedLayer] = {}
        self._counted: set[Digest] = set()
        self._total = 0
        # What the total was when the progress was last told that all of it is here.
        self._told_total = -1
        self._lock = Lock()
        self._stopping = Event()

    def add(self, layers: Iterable[WantedLayer]) -> int:
        """Add layers to what is pulled; return the bytes that those write at least.

        These are missing blobs, and files that are unpacked from tars.
        """
        needed = 0
        for wanted in layers:
            layer = wanted.layer
            digest, size = layer.descriptor.digest, layer.descriptor.size
            if digest not in self._counted:
                # A layer that is looked into twice is still one.
                self._counted.add(digest)
                self._total += size
            if digest not in self.cached and digest not in self._missing:
                if self._store.has(digest):
                    self.cached.append(digest)
                else:
                    self._missing[digest] = size
                    needed += size
            is_cached = digest in self.cached and wanted.files is None
            shared = self._shared_layers.find(layer) if is_cached else None
            if shared is not None:
                self._shared[form_of(layer)] = shared
            elif layer.compression is Compression.NONE and layer.archive is Archive.TAR:
                needed += size
        return needed

    def unpack_into(self, tree: Tree, layers: Sequence[WantedLayer]) -> list[UnpackedLayer]:
        """Fetch and unpack layers that were added; return what each put into the tree.

        The first error ends all transfers; what has arrived is kept for the next try.
        """
        self._stopping.clear()
        self._on_received(0)
        sources = {wanted.reference: self._source(wanted.reference) for wanted in layers}
        with ThreadPoolExecutor(self._connections, thread_name_prefix="pull") as pool:
            tasks = [
                pool.submit(self._unpack_layer, wanted, sources[wanted.reference], tree) for wanted in layers
            ]
            try:
                wait(tasks, return_when=FIRST_EXCEPTION)
            finally:
                self._stopping.set()
                for task in tasks:
                    task.cancel()
        errors = [task.exception() for task in tasks if not task.cancelled()]
        for error in sorted(filter(None, errors), key=lambda error: isinstance(error, _Abandoned)):
            raise error
        return [task.result() for task in tasks]

    def undo(self, needed: Container[Digest]) -> None:
        """Remove the blobs that were fetched, whole or in part, but those that are `needed` by other kits."""
        for digest in self._missing:
            if digest not in needed:
                self._store.discard(digest)
            self._store.discard_partial(digest)

    def _unpack_layer(self, wanted: WantedLayer, source: Source, tree: Tree) -> UnpackedLayer:
        layer = wanted.layer
        if wanted.files is None and (shared := self._shared.get(form_of(layer))):
            return link_layer(shared.root, shared.unpacked, layer.descriptor.size, tree)
        blob, is_verified = self._store.fetch(layer.descriptor, source, self._on_received)
        with blob:
            start = time.monotonic()
            unpacked = unpack_layer(blob, layer, tree, is_verified=is_verified, files=wanted.files)
        with self._lock:
            self.unpack_seconds += time.monotonic() - start
        return unpacked

    def _on_received(self, size: int) -> None:
        if self._stopping.is_set():
            raise _Abandoned
        with self._lock:
            self.pulled += size
            if self._progress is None:
                return
            done = self._total - sum(self._missing.values()) + self.pulled
            self._progress.pulling(min(done, self._total), self._total)
            if done >= self._total and self._told_total != self._total:
                self._told_total = self._total
                self._progress.unpacking()


class _Abandoned(Exception):
    """The error of another layer has ended the pull."""

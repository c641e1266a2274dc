"""The pull of one kit: its layers are fetched in parallel, and each is unpacked as soon as it is here."""

import time
from collections.abc import Callable, Container
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event, Lock
from typing import Protocol

from gateway.kits.kit import Kit
from gateway.kits.layer import Archive, Compression, Layer
from gateway.kits.shared_layers import SharedLayers
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


class Pull:
    """The pull of a kit's layers, those of its parents included, into a tree; for one thread at a time.

    `pulled` is the bytes that came from sources, `cached` the blobs that were here before, `unpack_seconds`
    the time that unpacking took, summed over threads.
    """

    def __init__(
        self,
        store: Store,
        kit: Kit,
        source: Callable[[Reference], Source],
        connections: int,
        shared_layers: SharedLayers,
        progress: Progress | None,
    ) -> None:
        self.pulled = 0
        self.unpack_seconds = 0.0
        self._store = store
        self._source = source
        self._connections = connections
        self._progress = progress
        self._layers = [(link.reference, layer) for link in kit.chain for layer in link.needed_layers()]
        digests = {layer.descriptor.digest: layer.descriptor.size for _, layer in self._layers}
        self.cached = [digest for digest in digests if store.has(digest)]
        self._missing = {digest: size for digest, size in digests.items() if digest not in self.cached}
        self._shared = {
            form_of(layer): shared
            for _, layer in self._layers
            if layer.descriptor.digest in self.cached and (shared := shared_layers.find(layer)) is not None
        }
        self._total = kit.size
        self._lock = Lock()
        self._stopping = Event()

    @property
    def needed(self) -> int:
        """The bytes that the pull writes at least: missing blobs, and files that are unpacked from tars."""
        written = (
            layer.descriptor.size
            for _, layer in self._layers
            if form_of(layer) not in self._shared
            and layer.compression is Compression.NONE
            and layer.archive is Archive.TAR
        )
        return sum(self._missing.values()) + sum(written)

    def unpack_into(self, tree: Tree) -> list[UnpackedLayer]:
        """Fetch and unpack every layer; return what each put into the tree.

        The first error ends all transfers; what has arrived is kept for the next try.
        """
        self._stopping.clear()
        self._on_received(0)
        sources = {reference: self._source(reference) for reference, _ in self._layers}
        with ThreadPoolExecutor(self._connections, thread_name_prefix="pull") as pool:
            tasks = [
                pool.submit(self._unpack_layer, layer, sources[reference], tree)
                for reference, layer in self._layers
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

    def _unpack_layer(self, layer: Layer, source: Source, tree: Tree) -> UnpackedLayer:
        if shared := self._shared.get(form_of(layer)):
            return link_layer(shared.root, shared.unpacked, layer.descriptor.size, tree)
        blob, is_verified = self._store.fetch(layer.descriptor, source, self._on_received)
        with blob:
            start = time.monotonic()
            unpacked = unpack_layer(blob, layer, tree, is_verified=is_verified)
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
            if done >= self._total:
                self._progress.unpacking()


class _Abandoned(Exception):
    """The error of another layer has ended the pull."""

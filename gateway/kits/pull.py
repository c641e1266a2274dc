"""The layers of one kit, brought to this node in parallel; each is unpacked as soon as it is whole."""

import time
from collections.abc import Callable, Container
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event, Lock
from typing import Protocol

from gateway.kits.kit import Kit
from gateway.kits.layer import Archive, Compression, Layer
from gateway.kits.shared_layers import Donors
from gateway.kits.tree import Tree
from gateway.kits.unpack import UnpackedLayer, form_of, link_layer, unpack_layer
from gateway.oci.content import Source
from gateway.oci.reference import Digest, Reference
from gateway.oci.store import Store


class Progress(Protocol):
    """Told how far a pull is, by one thread at a time."""

    def pulling(self, done: int, total: int) -> None:
        """Bytes of the needed layers that are on this node, and bytes of all of them."""

    def unpacking(self) -> None:
        """Every layer is here; some may still have to be unpacked."""


class Pull:
    """The way of a kit's layers, parents' included, into a tree; for one thread at a time.

    `pulled` is how many bytes came from sources, `cached` the blobs that were here before, `unpack_seconds`
    the time that unpacking took, added up over threads.
    """

    def __init__(
        self,
        store: Store,
        kit: Kit,
        source: Callable[[Reference], Source],
        connections: int,
        donors: Donors,
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
        self._donors = {
            form_of(layer): donor
            for _, layer in self._layers
            if layer.descriptor.digest in self.cached and (donor := donors.find(layer)) is not None
        }
        self._total = kit.size
        self._lock = Lock()
        self._stopping = Event()

    @property
    def needed(self) -> int:
        """Bytes that the disk must take at least: missing blobs, and what is unpacked from all of them."""
        written = (
            layer.descriptor.size
            for _, layer in self._layers
            if form_of(layer) not in self._donors
            and layer.compression is Compression.NONE
            and layer.archive is Archive.TAR
        )
        return sum(self._missing.values()) + sum(written)

    def into(self, tree: Tree) -> list[UnpackedLayer]:
        """Fetch and unpack every layer; returns what each put into the tree.

        The first fault ends all transfers; what has arrived of them is kept for the next try.
        """
        self._stopping.clear()
        self._arrived(0)
        sources = {reference: self._source(reference) for reference, _ in self._layers}
        with ThreadPoolExecutor(self._connections, thread_name_prefix="pull") as pool:
            tasks = [
                pool.submit(self._bring, layer, sources[reference], tree) for reference, layer in self._layers
            ]
            try:
                wait(tasks, return_when=FIRST_EXCEPTION)
            finally:
                self._stopping.set()
                for task in tasks:
                    task.cancel()
        faults = [task.exception() for task in tasks if not task.cancelled()]
        for fault in sorted(filter(None, faults), key=lambda fault: isinstance(fault, _Abandoned)):
            raise fault
        return [task.result() for task in tasks]

    def undo(self, kept: Container[Digest]) -> None:
        """Remove what was fetched, whole or in part: the disk has no room for it; other kits need `kept`."""
        for digest in self._missing:
            if digest not in kept:
                self._store.discard(digest)
            self._store.discard_partial(digest)

    def _bring(self, layer: Layer, source: Source, tree: Tree) -> UnpackedLayer:
        if donor := self._donors.get(form_of(layer)):
            return link_layer(donor.root, donor.unpacked, layer.descriptor.size, tree)
        blob, fresh = self._store.fetch(layer.descriptor, source, self._arrived)
        with blob:
            begun = time.monotonic()
            unpacked = unpack_layer(blob, layer, tree, verified=fresh)
        with self._lock:
            self.unpack_seconds += time.monotonic() - begun
        return unpacked

    def _arrived(self, size: int) -> None:
        if self._stopping.is_set():
            raise _Abandoned
        with self._lock:
            self.pulled += size
            if self._progress is None:
                return
            here = self._total - sum(self._missing.values()) + self.pulled
            self._progress.pulling(min(here, self._total), self._total)
            if here >= self._total:
                self._progress.unpacking()


class _Abandoned(Exception):
    """Another layer's fault has ended the pull."""

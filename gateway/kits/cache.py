"""What this node keeps of kits: when room is needed the least recently used go, and never what is in use."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gateway.kits.directories import Seal, SealedTrees
from gateway.oci.content import OCI_MANIFEST, Descriptor
from gateway.oci.files import disk_use, remove_unfinished
from gateway.oci.leases import Lease, last_used, try_claim
from gateway.oci.reference import Digest
from gateway.oci.store import Store


@dataclass(frozen=True, slots=True)
class CachedKit:
    """A kit on this node. Sizes are in bytes; `last_used` in seconds since the epoch."""

    key: str
    names: tuple[str, ...]
    digest: Digest
    stored: int
    """Of its blobs, those that other kits have too included."""
    unpacked: int
    """Of its files, those that other kits have too included."""
    last_used: float
    in_use: bool


@dataclass(frozen=True, slots=True)
class Freed:
    """What was removed: kits, blobs of no kit, transfers broken off, and the bytes of it all."""

    kits: tuple[CachedKit, ...] = ()
    blobs: int = 0
    transfers: int = 0
    size: int = 0

    def __add__(self, other: Self) -> "Freed":
        return Freed(
            self.kits + other.kits,
            self.blobs + other.blobs,
            self.transfers + other.transfers,
            self.size + other.size,
        )


@dataclass(frozen=True, slots=True)
class Damage:
    """What `Cache.verify` looked at, and what was damaged: it is gone, and fetched again when needed."""

    blobs: int
    kits: int
    bad_blobs: tuple[Digest, ...]
    bad_kits: tuple[str, ...]


class Cache:
    """The kits of one node: a store of blobs, and trees unpacked from it.

    `limit` is how many bytes both may take together; None for as many as the disk has.
    """

    def __init__(self, store: Store, trees: SealedTrees, limit: int | None) -> None:
        self._store = store
        self._trees = trees
        self._limit = limit

    def lease(self, key: str) -> Lease:
        """Keep a kit from being removed until the lease is given back."""
        with self._store.disk_errors():
            return Lease(self._lease(key))

    def kits(self) -> list[CachedKit]:
        """Return every kit, the most recently used first."""
        with self._store.disk_errors():
            found = [self._cached(key, seal) for key, seal in self._trees.all().items()]
        return sorted(found, key=lambda kit: kit.last_used, reverse=True)

    def make_room(self, needed: int) -> Freed:
        """Remove kits until `needed` more bytes fit within the limit and on the disk.

        Raises StoreError when the disk is too small even so. A limit that what is in use exceeds is not
        one to fail for: what serves goes on serving.
        """
        used, free = self._used(), self._store.free
        if needed > used + free:
            raise self._store.full_error(needed)
        over = max(0 if self._limit is None else used + needed - self._limit, needed - free)
        freed = self._remove(reversed(self.kits()), over) if over > 0 else Freed()
        if needed > self._store.free:
            raise self._store.full_error(needed)
        return freed

    def prune(self, keep: int = 0) -> Freed:
        """Remove what is not in use, least recently used first, until at most `keep` bytes are left.

        Blobs of no kit and transfers that were broken off go in any case, unless a pull is in progress.
        """
        kits = self.kits()
        freed = self._remove(reversed(kits), self._used() - keep)
        with self._store.disk_errors(), try_claim(self._pulls) as alone:
            return freed + self._remove_strays() if alone else freed

    def verify(self) -> Damage:
        """Read everything through; what is damaged is removed."""
        blobs = self._store.blobs()
        bad_blobs = tuple(digest for digest in blobs if not self._store.verify(digest))
        with self._store.disk_errors():
            keys = self._trees.all().keys()
        bad_kits = tuple(key for key in keys if not self._is_sound(key))
        if bad_kits:
            self.write_index()
        return Damage(len(blobs), len(keys), bad_blobs, bad_kits)

    def write_index(self) -> None:
        """Have the layout's index name every kit that is here, by the references it was opened with."""
        with self._store.lock("index"), self._store.disk_errors():
            named: dict[str, Descriptor] = {}
            nameless = []
            # A tag that moved names the kit it was last opened as.
            for _, seal in sorted(
                self._trees.all().items(), key=lambda item: last_used(self._lease(item[0]))
            ):
                descriptor = Descriptor(OCI_MANIFEST, seal.digest, seal.manifest_size)
                named |= dict.fromkeys(seal.names, descriptor)
                nameless += [] if seal.names else [(descriptor, None)]
            self._store.write_index([*((descriptor, name) for name, descriptor in named.items()), *nameless])

    @contextmanager
    def pulling(self) -> Iterator[None]:
        """Have what belongs to no kit yet be left alone within the block."""
        with self._store.disk_errors():
            lease = Lease(self._pulls)
        try:
            yield
        finally:
            lease.release()

    @property
    def _pulls(self) -> Path:
        return self._store.locks / "pulling"

    def _lease(self, key: str) -> Path:
        return self._store.locks / f"use-{key}"

    def _cached(self, key: str, seal: Seal) -> CachedKit:
        used = last_used(self._lease(key))
        with try_claim(self._lease(key)) as free:
            in_use = not free
        return CachedKit(
            key=key,
            names=tuple(seal.names),
            digest=seal.digest,
            stored=sum(blob.size for blob in seal.blobs),
            unpacked=seal.size,
            last_used=used,
            in_use=in_use,
        )

    def _used(self) -> int:
        """Bytes that blobs and unpacked kits take; a file of several names counts once."""
        blobs = (self._store.path(digest) for digest in self._store.blobs())
        return disk_use((*blobs, *self._trees.files()))

    def _is_sound(self, key: str) -> bool:
        """Read a kit through; whoever wants to open it waits, so that what is made again is not removed."""
        with self._store.lock(f"kit-{key}"), self._store.disk_errors():
            return self._trees.read(key) is None or self._trees.find(key, thorough=True) is not None

    def _remove(self, kits: Iterable[CachedKit], wanted: int) -> Freed:
        """Remove kits in this order until so many bytes are free; one that is in use is passed over."""
        freed = Freed()
        for kit in kits:
            if freed.size >= wanted:
                break
            freed += self._remove_kit(kit)
        if freed.kits:
            self.write_index()
        return freed

    def _remove_kit(self, kit: CachedKit) -> Freed:
        with self._store.disk_errors(), try_claim(self._lease(kit.key)) as free:
            seal = self._trees.read(kit.key)
            if not free or seal is None:
                return Freed()
            before = self._used()
            self._trees.remove(kit.key)
            needed = self._trees.needed()
            for blob in seal.blobs:
                if blob.digest not in needed:
                    self._store.discard(blob.digest)
            self._lease(kit.key).unlink()
            return Freed(kits=(kit,), size=before - self._used())

    def _remove_strays(self) -> Freed:
        needed = self._trees.needed()
        strays = {digest: size for digest, size in self._store.blobs().items() if digest not in needed}
        partials = self._store.partials()
        for digest in strays:
            self._store.discard(digest)
        for digest in partials:
            self._store.discard_partial(digest)
        for key in self._trees.leftovers():
            with try_claim(self._lease(key)) as free:
                if free:
                    self._trees.remove(key)
                    self._trees.begin(key)
                    self._lease(key).unlink()
        self.write_index()
        root = self._store.root
        for directory in (root, *filter(Path.is_dir, root.iterdir())):
            remove_unfinished(directory)
        return Freed(
            blobs=len(strays), transfers=len(partials), size=sum(strays.values()) + sum(partials.values())
        )

"""The kits that this node keeps: their eviction, least recently used first, and their verification."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gateway.kits.directories import Inventory, KitDirectories
from gateway.kits.manifest import media_type_of
from gateway.oci.content import Descriptor
from gateway.oci.files import disk_use, remove_unfinished
from gateway.oci.leases import Lease, last_used, try_claim
from gateway.oci.reference import Digest
from gateway.oci.store import Store


@dataclass(frozen=True, slots=True)
class CachedKit:
    """A kit on this node. Sizes are in bytes, `last_used` is in seconds since the epoch."""

    key: str
    names: tuple[str, ...]
    digest: Digest
    stored: int
    """The size of its blobs, those that it shares with other kits included."""
    unpacked: int
    """The size of its files, those that it shares with other kits included."""
    last_used: float
    in_use: bool


@dataclass(frozen=True, slots=True)
class Freed:
    """What was removed: kits, blobs of no kit, transfers that broke off, and the bytes of all of it."""

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
class Verification:
    """How many blobs and kits `Cache.verify` read, and the damaged ones, which it removed."""

    blobs: int
    kits: int
    bad_blobs: tuple[Digest, ...]
    bad_kits: tuple[str, ...]


class Cache:
    """The kits of one node: a store of blobs, and the directories unpacked from it.

    `limit` is how many bytes both may take together; None for as many as the disk has.
    """

    def __init__(self, store: Store, directories: KitDirectories, limit: int | None) -> None:
        self._store = store
        self._directories = directories
        self._limit = limit

    def lease(self, key: str) -> Lease:
        """Take a lease on a kit: until it is released, the kit is not removed."""
        with self._store.disk_errors():
            return Lease(self._lease(key))

    def kits(self) -> list[CachedKit]:
        """Return every kit, the most recently used first."""
        with self._store.disk_errors():
            kits = [
                self._cached(key, inventory) for key, inventory in self._directories.inventories().items()
            ]
        return sorted(kits, key=lambda kit: kit.last_used, reverse=True)

    def make_room(self, needed: int) -> Freed:
        """Remove kits until `needed` more bytes fit within the limit and on the disk.

        Raises StoreError where the disk is too small even so. Kits in use may exceed the limit, which is no
        error: they go on serving.
        """
        used, free = self._used(), self._store.free
        if needed > used + free:
            raise self._store.full_error(needed)
        excess = max(0 if self._limit is None else used + needed - self._limit, needed - free)
        freed = self._remove(reversed(self.kits()), excess) if excess > 0 else Freed()
        if needed > self._store.free:
            raise self._store.full_error(needed)
        return freed

    def prune(self, keep: int = 0) -> Freed:
        """Remove kits that are not in use, least recently used first, until at most `keep` bytes are left.

        Blobs of no kit and transfers that broke off are removed in any case, unless a pull is in progress.
        """
        kits = self.kits()
        freed = self._remove(reversed(kits), self._used() - keep)
        with self._store.disk_errors(), try_claim(self._pull_lease) as is_idle:
            return freed + self._remove_unreferenced() if is_idle else freed

    def verify(self) -> Verification:
        """Read every blob and file; remove what is damaged, which is then fetched again when it is needed."""
        blobs = self._store.blobs()
        bad_blobs = tuple(digest for digest in blobs if not self._store.verify(digest))
        with self._store.disk_errors():
            keys = self._directories.inventories().keys()
        bad_kits = tuple(key for key in keys if not self._is_intact(key))
        if bad_kits:
            self.write_index()
        return Verification(len(blobs), len(keys), bad_blobs, bad_kits)

    def write_index(self) -> None:
        """Write the layout's index: every kit that is here, by the references that it was opened by."""
        with self._store.lock("index"), self._store.disk_errors():
            named: dict[str, Descriptor] = {}
            nameless = []
            # A tag that has moved stands for the kit that was used last under it.
            for _, inventory in sorted(
                self._directories.inventories().items(), key=lambda item: last_used(self._lease(item[0]))
            ):
                media_type = media_type_of(self._store.read(inventory.digest))
                descriptor = Descriptor(media_type, inventory.digest, inventory.manifest_size)
                named |= dict.fromkeys(inventory.names, descriptor)
                nameless += [] if inventory.names else [(descriptor, None)]
            self._store.write_index([*((descriptor, name) for name, descriptor in named.items()), *nameless])

    @contextmanager
    def pulling(self) -> Iterator[None]:
        """Keep blobs that belong to no kit yet from being pruned within the block."""
        with self._store.disk_errors():
            lease = Lease(self._pull_lease)
        try:
            yield
        finally:
            lease.release()

    @property
    def _pull_lease(self) -> Path:
        return self._store.locks / "pulling"

    def _lease(self, key: str) -> Path:
        return self._store.locks / f"use-{key}"

    def _cached(self, key: str, inventory: Inventory) -> CachedKit:
        used_at = last_used(self._lease(key))
        with try_claim(self._lease(key)) as is_free:
            in_use = not is_free
        return CachedKit(
            key=key,
            names=tuple(inventory.names),
            digest=inventory.digest,
            stored=sum(blob.size for blob in inventory.blobs),
            unpacked=inventory.size,
            last_used=used_at,
            in_use=in_use,
        )

    def _used(self) -> int:
        """Return the bytes that blobs and unpacked kits take; a file with several names counts once."""
        blobs = (self._store.path(digest) for digest in self._store.blobs())
        return disk_use((*blobs, *self._directories.files()))

    def _is_intact(self, key: str) -> bool:
        """Read a whole kit, under its lock, so that a kit that is unpacked again meanwhile is not removed."""
        with self._store.lock(f"kit-{key}"), self._store.disk_errors():
            return (
                self._directories.read(key) is None or self._directories.check(key, read_all=True) is not None
            )

    def _remove(self, kits: Iterable[CachedKit], size: int) -> Freed:
        """Remove kits in this order until `size` bytes are freed; those in use are skipped."""
        freed = Freed()
        for kit in kits:
            if freed.size >= size:
                break
            freed += self._remove_kit(kit)
        if freed.kits:
            self.write_index()
        return freed

    def _remove_kit(self, kit: CachedKit) -> Freed:
        with self._store.disk_errors(), try_claim(self._lease(kit.key)) as is_free:
            inventory = self._directories.read(kit.key)
            if not is_free or inventory is None:
                return Freed()
            before = self._used()
            self._directories.remove(kit.key)
            needed = self._directories.needed_blobs()
            for blob in inventory.blobs:
                if blob.digest not in needed:
                    self._store.discard(blob.digest)
            self._lease(kit.key).unlink()
            return Freed(kits=(kit,), size=before - self._used())

    def _remove_unreferenced(self) -> Freed:
        needed = self._directories.needed_blobs()
        unreferenced = {digest: size for digest, size in self._store.blobs().items() if digest not in needed}
        partials = self._store.partials()
        for digest in unreferenced:
            self._store.discard(digest)
        for digest in partials:
            self._store.discard_partial(digest)
        for key in self._directories.leftovers():
            with try_claim(self._lease(key)) as is_free:
                if is_free:
                    self._directories.remove(key)
                    self._directories.begin(key)
                    self._lease(key).unlink()
        self.write_index()
        root = self._store.root
        for directory in (root, *filter(Path.is_dir, root.iterdir())):
            remove_unfinished(directory)
        return Freed(
            blobs=len(unreferenced),
            transfers=len(partials),
            size=sum(unreferenced.values()) + sum(partials.values()),
        )

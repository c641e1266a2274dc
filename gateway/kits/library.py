"""The kits of one node: from a reference to a verified, unpacked directory that is in use.

A kit passes through these states. `Library.describe` ends at manifest, `judge` at judged, `open` at leased.

    State      Reached by                       What is then on this node
    reference  the caller                       nothing
    digest     Lookup: a source's `resolve`     nothing
    manifest   Lookup                           manifest and Kitfile in blobs/; parents' digests in parents/
    judged     trust.judge                      the verdict in trust/, where the policy has keys
    blobs      Pull: Store.fetch                layers in blobs/; of one that still arrives, a part in ingest/
    unpacked   Pull: Tree; KitDirectories       the read-only directory kits/KEY/ and its inventory
    leased     Cache.lease                      a shared lock on locks/use-KEY, held by an UnpackedKit
    evicted    Cache.make_room, Cache.prune     nothing but blobs that other kits need

Rules:

1. A kit is its digest; a tag only points to it. KEY is the digest, or for a kit with parents a digest over
   all of theirs. A pinned kit that is on this node and was judged is opened without a request.
2. The policy comes first: its registries before any request, the rest before any layer is fetched. A verdict
   is stored per kit and policy, except for the registry, which is judged each time.
3. Nothing unverified is used: manifests and blobs by digest and size, layers once more as they are unpacked
   unless they were fetched just now, files by their inventory.
4. A directory without an inventory does not exist: the inventory is written last and removed first.
5. One process works on a kit at a time, under the lock kit-KEY. Others wait, and then find it unpacked.
6. A lease is taken before the kit is looked for. Eviction claims the lease of each kit, so it never removes
   one that is leased. Blobs of no kit are removed only while nobody pulls.
7. A pull that fails leaves no directory, but whole blobs, and parts that the next one resumes. Where the disk
   is full or fails, it removes what it fetched.
8. A damaged blob of this node is fetched again, once. Where the blobs are intact, the kit itself is wrong.
9. Unpacked files are not synced to disk: after another boot of the machine, each is read once before use.

Several processes may use one library, each with a Library of its own.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gateway.errors import ContentError, RegistryError, StoreError
from gateway.kits.cache import Cache
from gateway.kits.companions import holders, missing_files
from gateway.kits.datasets import Dataset, find_dataset, read_dataset
from gateway.kits.directories import (
    Inventory,
    KitDirectories,
)
from gateway.kits.entry import (
    PythonEntry,
    known_entry,
    stated_entry,
)
from gateway.kits.kit import Kit
from gateway.kits.layer import Layer, Role
from gateway.kits.lookup import Lookup
from gateway.kits.policy import ANYTHING, Policy, judge_registry
from gateway.kits.pull import Progress, Pull
from gateway.kits.shared_layers import SharedLayers
from gateway.kits.trust import Verdict, combined_verdict, judge, verdict_from_json, verdict_to_json
from gateway.kits.unpack_kit import KitUnpacker, is_incomplete
from gateway.kits.variants import Room
from gateway.oci.files import replace_file
from gateway.oci.leases import Lease
from gateway.oci.options import SourceOptions
from gateway.oci.reference import Digest, Reference, RegistryReference
from gateway.oci.store import Store

__all__ = ["Kit", "Layer", "Library", "Progress", "Role", "UnpackedKit"]

_DEFAULT_SOURCES = SourceOptions()


@dataclass(frozen=True, slots=True)
class UnpackedKit:
    """A kit in a read-only directory of this node, which stays until `lease` is released.

    `blobs` are all that it was made of. `entry` is the Python that serves it, if there is any; it and the
    rest of the kit's code are in the directory only where the verdict allows code. `environments` is where
    this node keeps the environments of such kits. `from_cache` says that it was unpacked before;
    `pulled_bytes` is what came from sources for it, and `unpack_seconds` the time that unpacking took,
    summed over threads.
    """

    kit: Kit
    path: Path
    verdict: Verdict
    lease: Lease
    blobs: frozenset[Digest]
    from_cache: bool
    pulled_bytes: int
    unpack_seconds: float
    entry: PythonEntry | None = None
    environments: Path | None = None

    @property
    def model_path(self) -> Path:
        """The model's file or directory; the kit's own directory where the Kitfile names none."""
        return self.path / self.kit.model_name


class Library:
    """The kits of this node under `root`; `sources` says how their sources are reached.

    `limit` is how many bytes all of it may take; None for as many as the disk has. `on_wait` is told what is
    waited for, where another process holds a lock for long. With `is_preview`, nothing is noted of kits that
    are looked at, neither their parents nor verdicts nor names. Every method raises the RegistryError family
    where a source fails, the ContentError family for bytes that are not what their descriptor states, and
    StoreError where this node's disk fails.
    """

    def __init__(
        self,
        root: Path,
        sources: SourceOptions = _DEFAULT_SOURCES,
        limit: int | None = None,
        on_wait: Callable[[str], None] = lambda _: None,
        *,
        is_preview: bool = False,
    ) -> None:
        self._is_preview = is_preview
        self._store = Store(root, on_wait)
        self._sources = sources
        self._parents = root / "parents"
        self._verdicts = root / "trust"
        self._environments = root / "environments"
        with self._store.disk_errors():
            self._directories = KitDirectories(root / "kits")
            self._parents.mkdir(exist_ok=True)
            self._verdicts.mkdir(exist_ok=True)
        self.cache = Cache(self._store, self._directories, limit)
        self._unpacker = KitUnpacker(self._store, self._directories, self.cache.make_room)

    def describe(
        self,
        reference: Reference,
        policy: Policy = ANYTHING,
        room: Callable[[], Room] = Room.here,
        parents: Sequence[Reference] = (),
    ) -> Kit:
        """Return the kit that a reference names, its layers not fetched.

        `parents` are as for `open`.

        An index is followed to the one kit in it, or to that of the reference's variant; `room` returns what
        decides where that is `auto`. Raises NotAKit, InvalidKitfile or KitError for what cannot
        be served, and NotTrusted, before any request, for a registry that the policy does not allow.
        """
        return self._lookup(room).kit(reference, policy, parents)

    def has(self, kit: Kit) -> bool:
        """Tell whether a kit is on this node, with all that serving needs; nothing of it is read."""
        return all(self._store.has(digest) for digest in kit.needed_blobs)

    def has_unpacked(self, kit: Kit, verdict: Verdict) -> bool:
        """Tell whether a kit that was judged is unpacked on this node, so that to open it pulls nothing."""
        with self._store.disk_errors():
            inventory = self._directories.read(kit.key)
        has_all = inventory is not None and inventory.has_companions
        return has_all and inventory is not None and not is_incomplete(kit, inventory, verdict.code)

    def missing(self, kit: Kit, verdict: Verdict) -> dict[Digest, int]:
        """Return the layers that are to be fetched for a kit, and how many bytes of each are not here yet.

        The code of a kit counts where it may run. What its model names from other layers is not known before.
        """
        links = [(link, verdict.code and link is kit) for link in kit.chain]
        layers = [layer for link, with_code in links for layer in link.needed_layers(with_code)]
        partials = self._store.partials()
        return {
            layer.descriptor.digest: max(0, layer.descriptor.size - partials.get(layer.descriptor.digest, 0))
            for layer in layers
            if not self._store.has(layer.descriptor.digest)
        }

    @property
    def free(self) -> int:
        """The bytes that the disk has free."""
        return self._store.free

    def judge(self, kit: Kit, policy: Policy) -> Verdict:
        """Return why the policy allows a kit. Raises NotTrusted for one that it does not allow."""
        return self._judge(kit, policy, self._lookup())

    def open(
        self,
        reference: Reference,
        progress: Progress | None = None,
        *,
        policy: Policy = ANYTHING,
        parents: Sequence[Reference] = (),
    ) -> UnpackedKit:
        """Return the kit that a reference names, unpacked and leased.

        `parents` are the kit's parents, pinned, where another node has looked them up: all nodes must use the
        same ones. Raises what `describe` and `judge` raise, and UnsafeArchive for a layer that must not be
        unpacked.
        """
        lookup = self._lookup()
        with self.cache.pulling():
            kit = lookup.kit(reference, policy, parents)
            verdict = self._judge(kit, policy, lookup)
            kit.check_servable(with_code=True)
            return self._open(kit, verdict, lookup, progress)

    def dataset(
        self,
        reference: Reference,
        name: str,
        policy: Policy = ANYTHING,
        parents: Sequence[Reference] = (),
    ) -> Dataset:
        """Return a dataset of a kit, by its name in the Kitfile or its path; fetch only its layer.

        `parents` are as for `open`. Raises what `describe` and `judge` raise, and KitError where the kit has
        no such file.
        """
        lookup = self._lookup()
        with self.cache.pulling():
            kit = lookup.kit(reference, policy, parents)
            self._judge(kit, policy, lookup)
            layer = find_dataset(kit, name)
            blob, _ = self._store.fetch(layer.descriptor, lookup.source(kit.reference))
            with blob:
                return read_dataset(blob, kit, layer)

    def _open(self, kit: Kit, verdict: Verdict, lookup: Lookup, progress: Progress | None) -> UnpackedKit:
        lease = self.cache.lease(kit.key)
        pull = None
        try:
            with self._store.lock(f"kit-{kit.key}"), self._store.disk_errors():
                inventory = self._directories.check(kit.key)
                if inventory is None:
                    pull = self._pull(kit, verdict.code, lookup, progress)
                elif not inventory.has_companions or is_incomplete(kit, inventory, verdict.code):
                    pull = self._complete(kit, inventory, verdict.code, lookup, progress)
                blobs, entry = self._record_name(kit)
                if entry is None:
                    kit.check_servable()
        except BaseException:
            lease.release()
            raise
        return UnpackedKit(
            kit=kit,
            path=self._directories.path(kit.key),
            verdict=verdict,
            lease=lease,
            blobs=blobs,
            from_cache=pull is None,
            pulled_bytes=pull.pulled if pull else 0,
            unpack_seconds=pull.unpack_seconds if pull else 0.0,
            entry=entry,
            environments=self._environments,
        )

    def _complete(
        self, kit: Kit, inventory: Inventory, may_run_code: bool, lookup: Lookup, progress: Progress | None
    ) -> Pull | None:
        """Pull a kit once more where an earlier release left out layers, or files that its model names.

        So it is, too, where the kit's code was left out and the policy allows it now. Where its source is
        away, the kit is used as it is, as its model may need none of that.
        """
        root = self._directories.path(kit.key)
        missing = missing_files(kit, root, [file.path for file in inventory.files])
        if is_incomplete(kit, inventory, may_run_code) or next(holders(kit, missing), None) is not None:
            with suppress(RegistryError):
                return self._pull(kit, may_run_code, lookup, progress)
        else:
            self._directories.write(kit.key, inventory.model_copy(update={"has_companions": True}))
        return None

    def _lookup(self, room: Callable[[], Room] = Room.here) -> Lookup:
        return Lookup(self._store, self._sources, self._parents, room, notes_parents=not self._is_preview)

    def _judge(self, kit: Kit, policy: Policy, lookup: Lookup) -> Verdict:
        """Judge a kit and its parents; store verdicts that took requests, as the source may be down later."""
        path = self._verdicts / f"{kit.key}.{policy.fingerprint}.json"
        # Judged each time, as the registry is no part of the key.
        registry, *_ = [judge_registry(link.reference, policy) for link in kit.chain]
        with self._store.disk_errors(), suppress(FileNotFoundError, ValueError):
            return replace(verdict_from_json(path.read_bytes()), registry=registry)
        verdict = combined_verdict(
            [judge(link, policy, partial(lookup.source, link.reference)) for link in kit.chain]
        )
        if policy.keys and not self._is_preview:
            with self._store.disk_errors():
                replace_file(path, verdict_to_json(verdict).encode())
        return verdict

    def _pull(self, kit: Kit, may_run_code: bool, lookup: Lookup, progress: Progress | None) -> Pull:
        """Pull and unpack a kit."""
        connections = lookup.connections(kit.reference)
        with SharedLayers(self._directories, self.cache.lease) as shared_layers:
            pull = Pull(self._store, lookup.source, connections, shared_layers, progress)
            try:
                with self._store.disk_errors():
                    self._unpack_or_refetch(kit, may_run_code, pull)
            except StoreError:
                pull.undo(self._directories.needed_blobs())
                raise
        return pull

    def _unpack_or_refetch(self, kit: Kit, may_run_code: bool, pull: Pull) -> None:
        """Unpack a kit; where blobs of this node are damaged, fetch them again and unpack it once more."""
        try:
            self._unpacker.unpack(kit, may_run_code, pull)
        except ContentError:
            damaged = [digest for digest in pull.cached if not self._store.verify(digest)]
            # With intact blobs, the kit itself is wrong.
            if not damaged:
                raise
            self._unpacker.unpack(kit, may_run_code, pull)

    def _record_name(self, kit: Kit) -> tuple[frozenset[Digest], PythonEntry | None]:
        """Add the reference that a kit was opened by to its inventory; return its blobs and entry."""
        inventory = self._directories.read(kit.key)
        if inventory is None:
            return frozenset(), stated_entry(kit)
        name = _name_in_index(kit.reference)
        if name and name not in inventory.names and not self._is_preview:
            inventory.names.append(name)
            self._directories.write(kit.key, inventory)
            self.cache.write_index()
        blobs = frozenset(blob.digest for blob in inventory.blobs)
        return blobs, known_entry(kit, inventory)


def _name_in_index(reference: Reference) -> str:
    """Return the name of a kit in the node's own layout; "" for a reference without a tag."""
    if reference.tag is None:
        return ""
    if isinstance(reference, RegistryReference):
        return str(replace(reference, digest=None))
    return f"{reference.name}:{reference.tag}"


def cache_directory(home: Path) -> Path:
    """Return the directory of the library of the Kitserve whose home is `home`."""
    return home.absolute() / "cache"

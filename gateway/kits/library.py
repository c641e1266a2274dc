"""The kits of one node: from a reference to a verified, unpacked directory.

    kits/          unpacked kits (see directories.py)
    parents/       which kits the parents of a kit were (see lookup.py)
    trust/         what was judged of which kit by which policy

Blobs are beside them, in the node's Store. Several processes may use one library at the same time.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gateway.errors import ContentError, KitError, StoreError
from gateway.kits.cache import Cache
from gateway.kits.datasets import Dataset, find_dataset, read_dataset
from gateway.kits.directories import (
    Seal,
    SealedBlob,
    SealedTrees,
    boot_id,
    remove_tree,
    sealed_files,
    sealed_layers,
)
from gateway.kits.kit import Kit
from gateway.kits.layer import Layer, Role
from gateway.kits.lookup import Lookup
from gateway.kits.pull import Progress, Pull
from gateway.kits.shared_layers import Donors
from gateway.kits.tree import Tree
from gateway.kits.trust import (
    ANYTHING,
    Policy,
    Verdict,
    judge,
    judge_registry,
    together,
    verdict_from_json,
    verdict_to_json,
)
from gateway.oci.files import replace_file
from gateway.oci.leases import Lease
from gateway.oci.options import SourceOptions
from gateway.oci.reference import Digest, Reference, RegistryReference
from gateway.oci.store import Store

__all__ = ["Kit", "Layer", "Library", "Progress", "Role", "UnpackedKit"]

_ANYWHERE = SourceOptions()


@dataclass(frozen=True, slots=True)
class UnpackedKit:
    """A kit in a directory of this node: read-only, and there until `lease` is given back.

    `from_cache` says that it was unpacked before; `pulled_bytes` is what came from the source for it, and
    `unpack_seconds` the time that unpacking took, added up over threads.
    """

    kit: Kit
    path: Path
    verdict: Verdict
    lease: Lease
    from_cache: bool
    pulled_bytes: int
    unpack_seconds: float

    @property
    def model_path(self) -> Path:
        """The model's file or directory; the kit's own directory where the kit names neither."""
        return self.path / self.kit.model_name


class Library:
    """Kits and their blobs under `root`; `sources` says how their sources are reached.

    `limit` is how many bytes all of it may take: the least recently used go first, and what is in use never.
    Every method raises the RegistryError family where a source is asked, the ContentError family for
    bytes that are not what was promised, and StoreError where this node's disk fails.
    """

    def __init__(self, root: Path, sources: SourceOptions = _ANYWHERE, limit: int | None = None) -> None:
        self._store = Store(root)
        self._sources = sources
        self._pins = root / "parents"
        self._verdicts = root / "trust"
        with self._store.disk_errors():
            self._trees = SealedTrees(root / "kits")
            self._pins.mkdir(exist_ok=True)
            self._verdicts.mkdir(exist_ok=True)
        self.cache = Cache(self._store, self._trees, limit)

    def describe(self, reference: Reference, policy: Policy = ANYTHING) -> Kit:
        """Return what a reference names, without its layers; asks nobody when it is pinned and known.

        An index is followed to the one kit in it. Raises NotAKit, InvalidKitfile or KitError for what cannot
        be served, and NotTrusted, before anyone is asked, for a place that the policy does not allow.
        """
        return self._lookup().kit(reference, policy)

    def judge(self, kit: Kit, policy: Policy) -> Verdict:
        """Return what the policy says of a kit that may be served; raises NotTrusted for one that may not."""
        return self._judge(kit, policy, self._lookup())

    def open(
        self,
        reference: Reference,
        progress: Progress | None = None,
        *,
        policy: Policy = ANYTHING,
        parents: Sequence[Reference] = (),
    ) -> UnpackedKit:
        """Return the kit's directory: judged, pulled, verified, unpacked and sealed, by whoever comes first.

        `parents` are the kit's, pinned, where another node has looked them up: nodes must not differ in them.
        Asks nobody when the reference is pinned, and the kit is here and was judged by this policy. Raises
        what `describe` and `judge` raise, and UnsafeArchive for a layer that must not be unpacked; nothing of
        a kit is left behind then but whole blobs, and what a later try can go on with.
        """
        lookup = self._lookup()
        with self.cache.pulling():
            kit = lookup.kit(reference, policy, parents)
            verdict = self._judge(kit, policy, lookup)
            _check_servable(kit)
            return self._open(kit, verdict, lookup, progress)

    def dataset(self, reference: Reference, name: str, policy: Policy = ANYTHING) -> Dataset:
        """Return a dataset of a kit, by its name in the Kitfile or its path; nothing else is pulled for it.

        Raises what `describe` and `judge` raise, and KitError where the kit has no such file.
        """
        lookup = self._lookup()
        with self.cache.pulling():
            kit = lookup.kit(reference, policy)
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
                if self._trees.find(kit.key) is None:
                    pull = self._bring(kit, lookup, progress)
                self._name(kit)
        except BaseException:
            lease.release()
            raise
        return UnpackedKit(
            kit=kit,
            path=self._trees.path(kit.key),
            verdict=verdict,
            lease=lease,
            from_cache=pull is None,
            pulled_bytes=pull.pulled if pull else 0,
            unpack_seconds=pull.unpack_seconds if pull else 0.0,
        )

    def _lookup(self) -> Lookup:
        return Lookup(self._store, self._sources, self._pins)

    def _judge(self, kit: Kit, policy: Policy, lookup: Lookup) -> Verdict:
        """Judge a kit and its parents; what took requests is remembered for when nobody answers them."""
        path = self._verdicts / f"{kit.key}.{policy.fingerprint}.json"
        # Where a kit is from is not in its key.
        registry, *_ = [judge_registry(link.reference, policy) for link in kit.chain]
        with self._store.disk_errors(), suppress(FileNotFoundError, ValueError):
            return replace(verdict_from_json(path.read_bytes()), registry=registry)
        verdict = together(
            [judge(link, policy, partial(lookup.source, link.reference)) for link in kit.chain]
        )
        if policy.keys:
            with self._store.disk_errors():
                replace_file(path, verdict_to_json(verdict).encode())
        return verdict

    def _bring(self, kit: Kit, lookup: Lookup, progress: Progress | None) -> Pull:
        """Pull and unpack a kit."""
        connections = lookup.connections(kit.reference)
        with Donors(self._trees, self.cache.lease) as donors:
            pull = Pull(self._store, kit, lookup.source, connections, donors, progress)
            try:
                with self._store.disk_errors():
                    self.cache.make_room(pull.needed)
                    self._unpack_sound(kit, pull)
            except StoreError:
                pull.undo(self._trees.needed())
                raise
        return pull

    def _unpack_sound(self, kit: Kit, pull: Pull) -> None:
        """Unpack a kit; a blob that was damaged on this disk is had again, once."""
        try:
            self._unpack(kit, pull)
        except ContentError:
            damaged = [digest for digest in pull.cached if not self._store.verify(digest)]
            # Whole blobs mean a lying kit.
            if not damaged:
                raise
            self._unpack(kit, pull)

    def _unpack(self, kit: Kit, pull: Pull) -> None:
        fresh = self._trees.begin(kit.key)
        try:
            tree = Tree(fresh, str(kit.reference), expected=kit.size)
            layers = sealed_layers(pull.into(tree))
            _check_model(kit, fresh)
            tree.seal()
            files = sealed_files(fresh, tree.files)
        except BaseException:
            remove_tree(fresh)
            raise
        self._trees.finish(
            kit.key,
            Seal(
                digest=kit.digest,
                manifest_size=self._store.path(kit.digest).stat().st_size,
                names=[],
                blobs=[SealedBlob(digest=digest, size=size) for digest, size in self._blobs(kit).items()],
                boot=boot_id(),
                files=files,
                layers=layers,
            ),
        )

    def _blobs(self, kit: Kit) -> dict[Digest, int]:
        """Return every blob that the kit and its parents need."""
        return {
            digest: self._store.path(digest).stat().st_size
            for link in kit.chain
            for digest in (
                link.digest,
                link.manifest.config.digest,
                *(layer.descriptor.digest for layer in link.needed_layers()),
            )
            if self._store.has(digest)
        }

    def _name(self, kit: Kit) -> None:
        """Note by which reference a kit was opened."""
        seal = self._trees.read(kit.key)
        name = _name_in_index(kit.reference)
        if seal is not None and name and name not in seal.names:
            seal.names.append(name)
            self._trees.write(kit.key, seal)
            self.cache.write_index()


def _name_in_index(reference: Reference) -> str:
    """Return what a kit is called in the node's own layout; "" for one that has no tag."""
    if reference.tag is None:
        return ""
    if isinstance(reference, RegistryReference):
        return str(replace(reference, digest=None))
    return f"{reference.name}:{reference.tag}"


def _check_model(kit: Kit, root: Path) -> None:
    if not (root / kit.model_name).exists():
        raise KitError(
            f"{kit.reference}: its model is to be at {kit.model_name!r}, and no layer has that; "
            "pack the kit again"
        )


def _check_servable(kit: Kit) -> None:
    if not any(link.needed_layers() for link in kit.chain):
        raise KitError(f"{kit.reference} has no model; pack one, with `model` in its Kitfile")


def cache_directory(home: Path) -> Path:
    """Return where a Kitserve that keeps its things in `home` has its library."""
    return home.absolute() / "cache"

"""A kit: what a reference resolved to, each layer matched with what the Kitfile says of it."""

import posixpath
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.errors import InvalidKitfile, UnsafeArchive
from gateway.kits.kitfile import Entry, Kitfile
from gateway.kits.manifest import Layer, Manifest, Role
from gateway.kits.names import safe_path
from gateway.oci.reference import Digest, Reference

_MODEL_ROLES = frozenset({Role.MODEL, Role.PART})
_NEEDED = _MODEL_ROLES | {Role.CODE}


@dataclass(frozen=True, slots=True)
class Kit:
    """What a reference resolved to; `reference` is pinned to `digest`, and keeps its tag."""

    reference: Reference
    digest: Digest
    manifest: Manifest
    kitfile: Kitfile
    layers: tuple[Layer, ...]
    model_name: str
    """The model's path within the kit, "" for the kit itself."""
    parents: tuple["Kit", ...] = ()
    """The kits that its model comes from, nearest first."""

    @classmethod
    def of(cls, reference: Reference, digest: Digest, manifest: Manifest, kitfile: Kitfile) -> "Kit":
        """Match layers and Kitfile; raises InvalidKitfile where they contradict each other."""
        try:
            layers = _matched(manifest, kitfile)
            return cls(reference, digest, manifest, kitfile, layers, _model_name(kitfile, layers))
        except (InvalidKitfile, UnsafeArchive) as error:
            raise InvalidKitfile(
                f"{reference}: its Kitfile cannot be followed: {error}; pack the kit again"
            ) from error

    def needed_layers(self, with_code: bool = False) -> tuple[Layer, ...]:
        """Return what serving needs: model and parts, and code if asked for; never datasets or docs."""
        roles = _NEEDED if with_code else _MODEL_ROLES
        return tuple(layer for layer in self.layers if layer.role in roles)

    @property
    def chain(self) -> tuple["Kit", ...]:
        """The kit and its parents."""
        return (self, *self.parents)

    @property
    def key(self) -> str:
        """What names the kit on a node: its digest in hex; with parents, that of its and their digests."""
        digests = " ".join(link.digest.hex for link in self.chain)
        return Digest.of(digests.encode()).hex if self.parents else digests

    @property
    def size(self) -> int:
        """Bytes of the layers that serving needs, parents' included, as they are stored."""
        return sum(layer.descriptor.size for link in self.chain for layer in link.needed_layers())


def _matched(manifest: Manifest, kitfile: Kitfile) -> tuple[Layer, ...]:
    entries = list(kitfile.entries())
    if not entries:
        return manifest.layers
    # Kits from before KitOps 0.5 have no digests in their Kitfile; their layers are in its order.
    legacy = all(entry.digest is None for _, entry in entries)
    waiting: dict[tuple[Role, Digest | None], deque[Entry]] = defaultdict(deque)
    for role, entry in entries:
        if legacy or entry.digest is not None:
            waiting[_group(role), entry.digest].append(entry)
    merge: Callable[[Layer, Entry], Layer] = _merge_legacy if legacy else _merge
    layers = []
    for layer in manifest.layers:
        found = waiting[_group(layer.role), None if legacy else layer.descriptor.digest]
        if found:
            layers.append(merge(layer, found.popleft()))
        elif layer.role in _NEEDED:
            raise InvalidKitfile(
                f"it does not say what {layer.role.value} layer {layer.descriptor.digest} is"
            )
        else:
            layers.append(layer)
    if missing := [entry.path for left in waiting.values() for entry in left]:
        raise InvalidKitfile(f"the manifest has no layer for {', '.join(map(repr, missing))}")
    return tuple(layers)


def _group(role: Role) -> Role:
    # A part may be packed as one more weight layer.
    return Role.MODEL if role is Role.PART else role


def _merge(layer: Layer, entry: Entry) -> Layer:
    return replace(layer, path=layer.path or entry.path, diff_id=entry.diff_id)


def _merge_legacy(layer: Layer, entry: Entry) -> Layer:
    """Old tars begin at the last part of the Kitfile's path, so they are unpacked beside it."""
    return replace(layer, path=entry.path, root=posixpath.dirname(safe_path(entry.path or "")))


def _model_name(kitfile: Kitfile, layers: tuple[Layer, ...]) -> str:
    if kitfile.model is not None and kitfile.model.path and kitfile.parent is None:
        return safe_path(kitfile.model.path)
    weights = [layer.path for layer in layers if layer.role is Role.MODEL]
    return safe_path(weights[0] or "") if len(weights) == 1 else ""

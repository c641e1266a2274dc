"""A kit: what a reference resolved to, each layer matched with what the Kitfile says of it."""

import posixpath
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.errors import InvalidKitfile, UnsafeArchive
from gateway.kits.kitfile import Entry, Kitfile
from gateway.kits.layer import Archive, Layer, Role
from gateway.kits.manifest import Format, Manifest
from gateway.kits.paths import safe_path
from gateway.oci.reference import Digest, Reference

_MODEL_ROLES = frozenset({Role.MODEL, Role.PART})
_NEEDED = _MODEL_ROLES | {Role.CODE}
_SHOWN = 8  # faults of one kind


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
        except InvalidKitfile as error:
            raise InvalidKitfile(
                f"{reference}: its manifest and its Kitfile do not go together: {error}; pack the kit again"
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
    if manifest.format is Format.MODELPACK and all(entry.digest is None for _, _, entry in entries):
        layers = _described_by_themselves(manifest.layers, kitfile.layer_diff_ids)
    else:
        layers = _described_by_entries(manifest.layers, entries)
    _check_paths(layers)
    return layers


def _described_by_themselves(layers: tuple[Layer, ...], diff_ids: tuple[Digest, ...]) -> tuple[Layer, ...]:
    if not diff_ids:
        return layers
    if len(diff_ids) != len(layers):
        raise InvalidKitfile(f"modelfs.diffIds: {len(diff_ids)} digests for {len(layers)} layers")
    return tuple(replace(layer, diff_id=digest) for layer, digest in zip(layers, diff_ids, strict=True))


def _described_by_entries(
    layers: tuple[Layer, ...], entries: Sequence[tuple[str, Role, Entry]]
) -> tuple[Layer, ...]:
    """Match by digest; kits from before KitOps 0.5 have none, and their layers are in the Kitfile's order."""
    legacy = all(entry.digest is None for _, _, entry in entries)
    waiting: dict[tuple[Role, Digest | None], deque[tuple[str, Role, Entry]]] = defaultdict(deque)
    for where, role, entry in entries:
        if entry.digest is None and not legacy:
            raise InvalidKitfile(f"{where}: has no digest, where others have one")
        waiting[role if legacy else _group(role), entry.digest].append((where, role, entry))
    matched = []
    for position, layer in enumerate(layers):
        found = waiting[(layer.role, None) if legacy else (_group(layer.role), layer.descriptor.digest)]
        if found:
            where, role, entry = found.popleft()
            # A prompt is one by the manifest's word or the Kitfile's.
            layer = replace(layer, role=role) if role is Role.PROMPT else layer
            matched.append((_merge_legacy if legacy else _merge)(layer, where, entry))
        elif layer.role is Role.OTHER:
            matched.append(layer)
        else:
            raise InvalidKitfile(f"{_named(layer, position)} is not, or not so often, in the Kitfile")
    left = [said for group in waiting.values() for said in group]
    if left:
        raise InvalidKitfile("; ".join(_missing(where, entry, layers) for where, _, entry in left[:_SHOWN]))
    return tuple(matched)


def _missing(where: str, entry: Entry, layers: tuple[Layer, ...]) -> str:
    if entry.digest is None:
        return f"{where}: the manifest has no layer for it"
    for layer in layers:
        if layer.descriptor.digest == entry.digest:
            if layer.role is Role.OTHER:
                return f"{where}: its layer has the type {layer.descriptor.media_type!r}, which is not known"
            return f"{where}: the manifest has {entry.digest} as a {layer.role.value} layer, or not so often"
    return f"{where}: the manifest has no layer {entry.digest}"


def _group(role: Role) -> Role:
    # A part may be packed as one more weight layer; prompts are code to those who do not know them.
    return {Role.PART: Role.MODEL, Role.PROMPT: Role.CODE}.get(role, role)


def _merge(layer: Layer, where: str, entry: Entry) -> Layer:
    if entry.path and layer.role in _NEEDED:
        _checked(where, entry.path)
    return replace(layer, path=layer.path or entry.path, diff_id=entry.diff_id)


def _merge_legacy(layer: Layer, where: str, entry: Entry) -> Layer:
    """Old tars begin at the last part of the Kitfile's path, so they are unpacked beside it."""
    if not entry.path:
        raise InvalidKitfile(f"{where}.path: is missing, in a kit whose layers are unpacked beside it")
    if layer.role not in _NEEDED:
        return replace(layer, path=entry.path)
    return replace(layer, path=entry.path, root=posixpath.dirname(_checked(where, entry.path)))


def _check_paths(layers: tuple[Layer, ...]) -> None:
    """Refuse what no unpacking could come well out of, before anything is pulled for it."""
    seen: dict[tuple[Digest, str | None] | str, int] = {}
    for position, layer in enumerate(layers):
        if layer.role not in _NEEDED:
            continue
        target: tuple[Digest, str | None] | str = (layer.descriptor.digest, layer.path)
        if layer.archive is Archive.RAW:
            if not layer.path:
                raise InvalidKitfile(f"{_named(layer, position)} is a single file, and nothing says which")
            target = _checked(f"layers.{position}", layer.path)
        if target in seen:
            raise InvalidKitfile(f"{_named(layer, position)} repeats layers.{seen[target]}")
        seen[target] = position


def _checked(where: str, path: str) -> str:
    try:
        return safe_path(path)
    except UnsafeArchive as error:
        raise InvalidKitfile(f"{where}.path: {error}") from error


def _named(layer: Layer, position: int) -> str:
    return f"layers.{position} ({layer.role.value}, {layer.descriptor.digest})"


def _model_name(kitfile: Kitfile, layers: tuple[Layer, ...]) -> str:
    if kitfile.parent is not None:
        return ""
    if kitfile.model is not None and kitfile.model.path:
        return _checked("model", kitfile.model.path)
    weights = [layer.path for layer in layers if layer.role is Role.MODEL]
    return _checked("layers", weights[0] or "") if len(weights) == 1 else ""

"""A kit: what a reference resolved to, each layer matched with its entry in the Kitfile.

What serving needs must match: model, parts, and their paths. A layer of another kind that is in no entry, or
an entry of another kind without a layer, is left alone: newer packers have sections that are not known here.
"""

import posixpath
import re
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.errors import InvalidKitfile, KitError, UnsafeArchive
from gateway.kits.kitfile import Entry, Kitfile
from gateway.kits.layer import MODEL_ROLES, Archive, Layer, Role, with_file_names
from gateway.kits.manifest import Format, Manifest
from gateway.kits.paths import safe_path
from gateway.kits.uses import use_of_file
from gateway.kits.variants import ChosenKit
from gateway.oci.reference import Digest, Reference
from gateway.wording import counted

_NEEDED = MODEL_ROLES | {Role.CODE}
_MAX_SHOWN = 8  # errors of one kind
_MAX_TYPE = 120  # characters of a media type
# The files of one GGUF model that is split; the first of them is what is loaded.
_SHARD = re.compile(r"-[0-9]{5}-of-[0-9]{5}\.gguf$")


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
    system_prompt: Layer | None = None
    """The prompt that serving needs; None for parents, of which only the model is used."""
    choice: ChosenKit | None = None
    """Which kit of an index it is, where the reference named one."""

    @classmethod
    def of(cls, reference: Reference, digest: Digest, manifest: Manifest, kitfile: Kitfile) -> "Kit":
        """Match layers and Kitfile. Raises InvalidKitfile where they contradict each other."""
        try:
            layers = _match_layers(manifest, kitfile)
            return cls(
                reference,
                digest,
                manifest,
                kitfile,
                layers,
                _model_name(kitfile, layers),
                system_prompt=_system_prompt(kitfile, layers),
            )
        except InvalidKitfile as error:
            raise InvalidKitfile(
                f"{reference}: its manifest and its Kitfile contradict each other: {error}; "
                "pack the kit again"
            ) from error

    def needed_layers(self, with_code: bool = False) -> tuple[Layer, ...]:
        """Return the layers that serving needs: model, parts, system prompt, and code if `with_code`."""
        roles = _NEEDED if with_code else MODEL_ROLES
        return tuple(layer for layer in self.layers if layer.role in roles or layer == self.system_prompt)

    def check_servable(self, with_code: bool = False) -> None:
        """Check that the kit has a model, or code if `with_code`, as an entry may be in there.

        Raises KitError, with the media types that are not known.
        """
        if any(link.needed_layers(with_code) for link in self.chain):
            return
        others = [layer for link in self.chain for layer in link.layers if layer.role is Role.OTHER]
        types = sorted({layer.descriptor.media_type[:_MAX_TYPE] for layer in others})
        if types:
            raise KitError(
                f"{self.reference} has no model that can be read: its layers are of types that are not "
                f"known, {', '.join(map(repr, types[:_MAX_SHOWN]))}; pack it with kit"
            )
        raise KitError(f"{self.reference} has no model; pack one, with `model` in its Kitfile")

    @property
    def chain(self) -> tuple["Kit", ...]:
        """The kit and its parents."""
        return (self, *self.parents)

    @property
    def key(self) -> str:
        """The kit's name on a node: its digest in hex; with parents, a digest over its and their digests."""
        digests = " ".join(link.digest.hex for link in self.chain)
        return Digest.of(digests.encode()).hex if self.parents else digests

    @property
    def needed_blobs(self) -> tuple[Digest, ...]:
        """The blobs that serving needs, each once: manifests, Kitfiles and layers, parents' included."""
        digests = (
            digest
            for link in self.chain
            for digest in (
                link.digest,
                link.manifest.config.digest,
                *(layer.descriptor.digest for layer in link.layers if layer.role is Role.SETTINGS),
                *(layer.descriptor.digest for layer in link.needed_layers()),
            )
        )
        return tuple(dict.fromkeys(digests))

    @property
    def size(self) -> int:
        """The bytes of the layers that serving needs, parents' included, as they are stored."""
        return sum(layer.descriptor.size for link in self.chain for layer in link.needed_layers())


def _match_layers(manifest: Manifest, kitfile: Kitfile) -> tuple[Layer, ...]:
    entries = list(kitfile.entries())
    if manifest.format is not Format.MODELKIT and all(entry.digest is None for _, _, entry in entries):
        layers = _match_diff_ids(manifest.layers, kitfile.layer_diff_ids)
    else:
        layers = _match_entries(manifest.layers, entries)
    layers = with_file_names(layers)
    _check_paths(layers)
    return layers


def _match_diff_ids(layers: tuple[Layer, ...], diff_ids: tuple[Digest, ...]) -> tuple[Layer, ...]:
    if not diff_ids:
        return layers
    if len(diff_ids) != len(layers):
        raise InvalidKitfile(
            f"modelfs.diffIds: {counted(len(diff_ids), 'digest')} for {counted(len(layers), 'layer')}"
        )
    return tuple(replace(layer, diff_id=digest) for layer, digest in zip(layers, diff_ids, strict=True))


def _match_entries(
    layers: tuple[Layer, ...], entries: Sequence[tuple[str, Role, Entry]]
) -> tuple[Layer, ...]:
    """Match by digest; in kits from before KitOps 0.5, which have none, by role and order."""
    is_legacy = all(entry.digest is None for _, _, entry in entries)
    unmatched: dict[tuple[Role, Digest | None], deque[tuple[str, Role, Entry]]] = defaultdict(deque)
    for field, role, entry in entries:
        if entry.digest is None and not is_legacy:
            if role in MODEL_ROLES:
                raise InvalidKitfile(f"{field}: has no digest, where others have one")
            continue
        unmatched[role if is_legacy else _group(role), entry.digest].append((field, role, entry))
    matched, unexpected = [], []
    for position, layer in enumerate(layers):
        key = (layer.role, None) if is_legacy else (_group(layer.role), layer.descriptor.digest)
        if unmatched[key]:
            field, role, entry = unmatched[key].popleft()
            # A layer is a prompt where the manifest or the Kitfile says so.
            layer = replace(layer, role=role) if role is Role.PROMPT else layer
            matched.append((_merge_legacy if is_legacy else _merge)(layer, field, entry))
            continue
        if layer.role is not Role.OTHER:
            unexpected.append(f"{_describe(layer, position)} is not in the Kitfile, or not as often")
            if layer.role in MODEL_ROLES:
                raise InvalidKitfile(unexpected[-1])
        matched.append(replace(layer, role=Role.OTHER))
    missing = [item for group in unmatched.values() for item in group if item[1] in MODEL_ROLES]
    if missing:
        faults = [_missing(field, entry, layers) for field, _, entry in missing[:_MAX_SHOWN]]
        # The layer may be there as one of another kind.
        raise InvalidKitfile("; ".join(unexpected[:_MAX_SHOWN] + faults))
    return tuple(matched)


def _missing(field: str, entry: Entry, layers: tuple[Layer, ...]) -> str:
    if entry.digest is None:
        return f"{field}: the manifest has no layer for it"
    for layer in layers:
        if layer.descriptor.digest == entry.digest:
            if layer.role is Role.OTHER:
                return f"{field}: its layer has the type {layer.descriptor.media_type!r}, which is not known"
            return f"{field}: the manifest has {entry.digest} as a {layer.role.value} layer, or not as often"
    return f"{field}: the manifest has no layer {entry.digest}"


def _group(role: Role) -> Role:
    # Some tools pack a part as one more model layer, and a prompt as code.
    return {Role.PART: Role.MODEL, Role.PROMPT: Role.CODE}.get(role, role)


def _merge(layer: Layer, field: str, entry: Entry) -> Layer:
    if entry.path and layer.role in _NEEDED:
        _checked(field, entry.path)
    return replace(layer, path=layer.path or entry.path, diff_id=entry.diff_id)


def _merge_legacy(layer: Layer, field: str, entry: Entry) -> Layer:
    """Merge an old kit's entry: its tar begins at the last part of the path, so the parent is its root."""
    if not entry.path:
        raise InvalidKitfile(f"{field}.path: is missing; a kit without digests needs it to be unpacked")
    if layer.role not in _NEEDED:
        return replace(layer, path=entry.path)
    return replace(layer, path=entry.path, root=posixpath.dirname(_checked(field, entry.path)))


def _check_paths(layers: tuple[Layer, ...]) -> None:
    """Refuse layers that could not be unpacked, before they are pulled."""
    seen: dict[tuple[Digest, str | None] | str, int] = {}
    for position, layer in enumerate(layers):
        if layer.role not in _NEEDED:
            continue
        target: tuple[Digest, str | None] | str = (layer.descriptor.digest, layer.path)
        if layer.archive is Archive.RAW:
            if not layer.path:
                raise InvalidKitfile(f"{_describe(layer, position)} is a single file without a path")
            target = _checked(f"layers.{position}", layer.path)
        if target in seen:
            raise InvalidKitfile(f"{_describe(layer, position)} repeats layers.{seen[target]}")
        seen[target] = position


def _checked(field: str, path: str) -> str:
    try:
        return safe_path(path)
    except UnsafeArchive as error:
        raise InvalidKitfile(f"{field}.path: {error}") from error


def _describe(layer: Layer, position: int) -> str:
    return f"layers.{position} ({layer.role.value}, {layer.descriptor.digest})"


def _model_name(kitfile: Kitfile, layers: tuple[Layer, ...]) -> str:
    if kitfile.parent is not None:
        return ""
    if kitfile.model is not None and kitfile.model.path:
        return _checked("model", kitfile.model.path)
    weights = [layer.path or "" for layer in layers if layer.role is Role.MODEL]
    if len(weights) > 1:
        # A projector is weights too, for some packers.
        weights = [path for path in weights if use_of_file(posixpath.basename(path)) is None]
    series = {_SHARD.sub("", path) for path in weights if _SHARD.search(path)}
    is_series = len(series) == 1 and all(_SHARD.search(path) for path in weights)
    name = min(weights) if len(weights) == 1 or is_series else ""
    return _checked("layers", name)


def _system_prompt(kitfile: Kitfile, layers: tuple[Layer, ...]) -> Layer | None:
    entry = kitfile.system_prompt
    if entry is None:
        return None
    # The manifest has the path as kit cleaned it, the Kitfile as it was written.
    path = posixpath.normpath(entry.path or "")
    prompts = (layer for layer in layers if layer.role is Role.PROMPT)
    return next((layer for layer in prompts if posixpath.normpath(layer.path or "") == path), None)

"""Indexes of manifests: the kit that is meant when a reference names an index.

OCI indexes, Docker's manifest lists and KitOps' ModelKit indexes are read in the same way. The only kit among
the entries is the one that is meant; among several, the reference's variant says which (see `variants`).
"""

import json
from collections import Counter
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from gateway.errors import KitError, NotAKit, NotFound
from gateway.kits.layer import MODEL_ROLES
from gateway.kits.manifest import Manifest, agreed_type, index_kind, read_manifest, read_members
from gateway.kits.variants import Candidate, ChosenKit, IndexEntry, Room, that_fits, with_labels
from gateway.oci.content import OCI_INDEX, OCI_MANIFEST, REF_NAME, Descriptor
from gateway.oci.documents import DescriptorDocument, describe_errors, read_json
from gateway.oci.reference import Digest
from gateway.oci.variant import Variant
from gateway.wording import counted

MAX_ENTRIES = 64
"""How many entries of an index are read."""

_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_DOCKER_MANIFESTS = "application/vnd.docker.distribution.manifest."
_MAX_LISTED = 10_000
_IMAGE = "a container image"


class _Platform(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    os: str | None = None
    architecture: str | None = None
    variant: str | None = None


class _Entry(DescriptorDocument):
    platform: _Platform | None = None
    labels: dict[str, JsonValue] | None = Field(alias="modelMetadata", default=None)

    def entry(self) -> IndexEntry:
        platform = self.platform or _Platform()
        parts = (platform.os, platform.architecture, platform.variant)
        return IndexEntry(
            self.descriptor(),
            (self.annotations or {}).get(REF_NAME),
            "/".join(filter(None, parts)) or None,
            {
                name: value if isinstance(value, str) else _compact(value)
                for name, value in (self.labels or {}).items()
            },
        )


class _Index(BaseModel):
    """An image index in a document (OCI image spec, "Image Index")."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    schema_version: int = Field(alias="schemaVersion", ge=2, le=2)
    media_type: str | None = Field(alias="mediaType", max_length=255, default=None)
    manifests: list[_Entry] = Field(max_length=_MAX_LISTED)


def _compact(value: JsonValue) -> str:
    """Write a label as kit does that is no text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def is_index(data: bytes) -> bool:
    """Tell whether a document is an index; one that is not JSON is none."""
    try:
        members = read_json(data)
    except ValueError:
        return False
    return isinstance(members, dict) and "manifests" in members


def parse_index(data: bytes, origin: str, media_type: str | None = None) -> tuple[IndexEntry, ...]:
    """Parse an index, each digest once; `media_type` is the one under which it was sent, where known.

    Raises NotAKit for an index that is a manifest as well, and KitError for one that is broken.
    """
    members = read_members(data, origin, "index")
    index_kind(members, origin)
    try:
        index = _Index.model_validate(members)
    except ValidationError as error:
        raise KitError(f"{origin}: its index is broken: {describe_errors(error)}; push it again") from error
    stated = agreed_type(index.media_type, media_type, origin, "index")
    if stated not in (None, OCI_INDEX, _DOCKER_LIST):
        raise KitError(
            f"{origin}: its index has the media type {stated!r}, which is not an index's; push it again"
        )
    entries: dict[Digest, IndexEntry] = {}
    for entry in index.manifests:
        entries.setdefault(entry.digest, entry.entry())
    return tuple(entries.values())


def choose_kit(
    data: bytes,
    origin: str,
    read: Callable[[Descriptor], bytes],
    media_type: str | None = None,
    *,
    variant: Variant | None = None,
    room: Callable[[], Room] = Room.here,
) -> ChosenKit:
    """Return the kit of an index that is meant; `read` returns the manifest of an entry, verified.

    `room` returns what `auto` goes by; it is called for that alone.

    Raises NotAKit, which lists the entries, where there is no such kit or more than one, and KitError where
    none fits; and what `parse_index` and `read` raise, except for NotFound: an index may list manifests that
    its repository does not have.
    """
    entries = parse_index(data, origin, media_type)
    kits: list[Candidate] = []
    others: Counter[str] = Counter()
    for entry in entries[:MAX_ENTRIES]:
        manifest = _manifest(entry.descriptor, origin, read)
        if isinstance(manifest, str):
            others[manifest] += 1
        else:
            kits.append(Candidate(entry, _model_size(manifest)))
    unread = len(entries) - MAX_ENTRIES
    if kits and unread <= 0 and variant is not None:
        if not variant.is_auto:
            return with_labels(kits, variant, origin)
        if len(kits) > 1:
            return that_fits(kits, room(), origin)
    if len(kits) == 1 and unread <= 0:
        return ChosenKit(kits[0].entry.descriptor, kits[0].entry.described_labels)
    rest = [f"{kind} (×{count})" if count > 1 else kind for kind, count in others.items()]
    if unread > 0:
        rest.append(f"{counted(unread, 'entry', 'entries')} not read")
    if kits:
        listed = "; ".join(str(kit.entry) for kit in kits)
        besides = f"; besides, it has {', '.join(rest)}" if rest else ""
        advice = "say which with `variant`" if any(kit.entry.labels for kit in kits) else ""
        advice = ", or ".join(filter(None, (advice, "name one kit of it by its digest or its own tag")))
        raise NotAKit(f"{origin} is an index with {listed}{besides}; {advice}")
    description = f"an index with no kit in it, but {', '.join(rest)}"
    if not entries:
        description = "an empty index"
    elif set(others) == {_IMAGE} and unread <= 0:
        description = "an index of container images"
    raise NotAKit(f"{origin} is {description}; name a ModelKit or a ModelPack")


def _manifest(descriptor: Descriptor, origin: str, read: Callable[[Descriptor], bytes]) -> Manifest | str:
    """Return the manifest of an entry that is a kit, or what it is instead."""
    if descriptor.media_type in (OCI_INDEX, _DOCKER_LIST):
        return "a nested index"
    if descriptor.media_type.startswith(_DOCKER_MANIFESTS):
        return _IMAGE
    if descriptor.media_type != OCI_MANIFEST:
        return f"an entry of type {descriptor.media_type!r}"
    try:
        data = read(descriptor)
    except NotFound:
        return "a manifest that its repository does not have"
    return read_manifest(data, f"{origin}: {descriptor.digest}", descriptor.media_type)


def _model_size(manifest: Manifest) -> int:
    return sum(layer.descriptor.size for layer in manifest.layers if layer.role in MODEL_ROLES)

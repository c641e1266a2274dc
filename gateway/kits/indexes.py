"""Indexes of manifests: the kit that is meant when a reference names an index.

OCI indexes, Docker's manifest lists and KitOps' ModelKit indexes are read in the same way. The only kit among
the entries is the one that is meant; among several, the user has to choose.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from gateway.errors import KitError, NotAKit, NotFound
from gateway.kits.manifest import agreed_type, index_kind, read_manifest, read_members
from gateway.oci.content import OCI_INDEX, OCI_MANIFEST, REF_NAME, Descriptor
from gateway.oci.documents import DescriptorDocument, describe_errors, read_json
from gateway.oci.reference import Digest

MAX_ENTRIES = 64
"""How many entries of an index are read."""

_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_DOCKER_MANIFESTS = "application/vnd.docker.distribution.manifest."
_MAX_LISTED = 10_000
_MAX_LABEL = 80  # characters that are shown
_IMAGE = "a container image"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One entry of an index, with the tag, platform ("os/architecture/variant") and labels that it states.

    Labels are a ModelKit index's `modelMetadata`: strings as they are, other values as JSON.
    """

    descriptor: Descriptor
    tag: str | None
    platform: str | None
    labels: Mapping[str, str]

    def __str__(self) -> str:
        details = [f"tag {_shown(self.tag)}" if self.tag else "", self.platform and _shown(self.platform)]
        details += [f"{_shown(name)}={_shown(value)}" for name, value in sorted(self.labels.items())]
        listed = ", ".join(filter(None, details))
        return f"{self.descriptor.digest} ({listed})" if listed else f"{self.descriptor.digest}"


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
                name: value if isinstance(value, str) else json.dumps(value)
                for name, value in (self.labels or {}).items()
            },
        )


class _Index(BaseModel):
    """An image index in a document (OCI image spec, "Image Index")."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    schema_version: int = Field(alias="schemaVersion", ge=2, le=2)
    media_type: str | None = Field(alias="mediaType", max_length=255, default=None)
    manifests: list[_Entry] = Field(max_length=_MAX_LISTED)


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
    data: bytes, origin: str, read: Callable[[Descriptor], bytes], media_type: str | None = None
) -> Descriptor:
    """Return the one kit of an index; `read` returns the manifest of an entry, verified.

    Raises NotAKit, which lists the entries, where there is none or more than one; and what `parse_index` and
    `read` raise, except for NotFound: an index may list manifests that its repository does not have.
    """
    entries = parse_index(data, origin, media_type)
    kits: list[IndexEntry] = []
    others: Counter[str] = Counter()
    for entry in entries[:MAX_ENTRIES]:
        kind = _other_kind(entry.descriptor, origin, read)
        if kind is None:
            kits.append(entry)
        else:
            others[kind] += 1
    unread = len(entries) - MAX_ENTRIES
    if len(kits) == 1 and unread <= 0:
        return kits[0].descriptor
    rest = [f"{kind} (×{count})" if count > 1 else kind for kind, count in others.items()]
    if unread > 0:
        rest.append(f"{unread} entries that were not read")
    if kits:
        listed = "; ".join(map(str, kits))
        besides = f"; besides, it has {', '.join(rest)}" if rest else ""
        raise NotAKit(
            f"{origin} is an index with {listed}{besides}; name one kit of it by its digest or its own tag"
        )
    description = f"an index with no kit in it, but {', '.join(rest)}"
    if not entries:
        description = "an empty index"
    elif set(others) == {_IMAGE} and unread <= 0:
        description = "an index of container images"
    raise NotAKit(f"{origin} is {description}; name a ModelKit or a ModelPack")


def _other_kind(descriptor: Descriptor, origin: str, read: Callable[[Descriptor], bytes]) -> str | None:
    """Return what an entry is, None for a kit."""
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
    manifest = read_manifest(data, f"{origin}: {descriptor.digest}", descriptor.media_type)
    return manifest if isinstance(manifest, str) else None


def _shown(text: str) -> str:
    text = text if len(text) <= _MAX_LABEL else f"{text[:_MAX_LABEL]}…"
    return text if text.isprintable() else repr(text)

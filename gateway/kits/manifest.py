"""A kit's manifest: its format, its config and its layers.

These formats are read in the same way: KitOps ModelKits, CNCF ModelPacks (model-spec), and the models of
Docker Model Runner and of Ollama. A document that two correct readers could understand differently is
refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.errors import KitError, NotAKit
from gateway.kits.layer import OLLAMA_TYPES, Layer
from gateway.oci.content import MAX_MANIFEST, OCI_MANIFEST, Descriptor
from gateway.oci.documents import DescriptorDocument, describe_errors, read_json

MODELKIT_INDEX = "application/vnd.kitops.modelkit.index.v1+json"
"""The artifact type of an index of ModelKits."""


class Format(Enum):
    """The specification a kit follows."""

    MODELKIT = "ModelKit"
    MODELPACK = "ModelPack"
    DOCKER = "Docker model"
    OLLAMA = "Ollama model"


_KIT_TYPES = {
    "application/vnd.kitops.modelkit.manifest.v1+json": Format.MODELKIT,
    "application/vnd.kitops.modelkit.config.v1+json": Format.MODELKIT,
    "application/vnd.cncf.model.manifest.v1+json": Format.MODELPACK,
    "application/vnd.cncf.model.config.v1+json": Format.MODELPACK,
    "application/vnd.cnai.model.manifest.v1+json": Format.MODELPACK,
    "application/vnd.cnai.model.config.v1+json": Format.MODELPACK,
    "application/vnd.docker.ai.model.config.v0.1+json": Format.DOCKER,
    "application/vnd.docker.ai.model.config.v0.2+json": Format.DOCKER,
}
_DOCKER_IMAGE = "application/vnd.docker.container.image.v1+json"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_OTHER_TYPES = {
    "application/vnd.oci.image.config.v1+json": "a container image",
    _DOCKER_IMAGE: "a container image",
    "application/vnd.cncf.helm.config.v1+json": "a Helm chart",
}
_SCHEMA_1 = "a container image of Docker's first schema"
# The members that decide what a manifest, an index or a descriptor means. Go reads them in any case, Python
# only in this one; a document must not mean two things (compare CVE-2021-41190).
_ESSENTIAL = {
    name.casefold(): name
    for name in (
        "schemaVersion",
        "mediaType",
        "artifactType",
        "config",
        "layers",
        "manifests",
        "subject",
        "annotations",
        "digest",
        "size",
        "urls",
        "data",
        "platform",
    )
}
_MAX_LAYERS = 4096


@dataclass(frozen=True, slots=True)
class Manifest:
    """A kit's manifest; its layers are in the order in which they were packed."""

    format: Format
    config: Descriptor
    layers: tuple[Layer, ...]
    annotations: Mapping[str, str]


class _Document(BaseModel):
    """An OCI image manifest in a document (OCI image spec, "Image Manifest")."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    schema_version: int = Field(alias="schemaVersion", ge=2, le=2)
    media_type: str | None = Field(alias="mediaType", max_length=255, default=None)
    artifact_type: str | None = Field(alias="artifactType", max_length=255, default=None)
    config: DescriptorDocument
    # kit writes null for a kit that has no layer of its own.
    layers: list[DescriptorDocument] | None = Field(max_length=_MAX_LAYERS)
    annotations: dict[str, str] | None = None


def parse_manifest(data: bytes, origin: str, media_type: str | None = None) -> Manifest:
    """Parse a manifest; `origin` is the reference that errors name.

    `media_type` is the one in the document's descriptor or answer, where that is known; kit writes none into
    its manifests. Raises NotAKit for any other artifact, and KitError for a manifest that is broken.
    """
    manifest = read_manifest(data, origin, media_type)
    if isinstance(manifest, str):
        raise NotAKit(f"{origin} is no kit: this is {manifest}; name a ModelKit or a ModelPack")
    return manifest


def read_manifest(data: bytes, origin: str, media_type: str | None = None) -> Manifest | str:
    """Parse a manifest as `parse_manifest` does, but return what the artifact is where it is no kit.

    Raises NotAKit for an index, and KitError for a manifest that is broken.
    """
    members = read_members(data, origin, "manifest")
    if "manifests" in members:
        raise NotAKit(
            f"{origin} is {index_kind(members, origin)}, not a kit; name one kit of it by its digest"
        )
    if "fsLayers" in members:
        return _SCHEMA_1
    try:
        document = _Document.model_validate(members)
    except ValidationError as error:
        raise KitError(
            f"{origin}: its manifest is broken: {describe_errors(error)}; push the kit again"
        ) from error
    stated = agreed_type(document.media_type, media_type, origin, "manifest") or OCI_MANIFEST
    layers = tuple(Layer.of(entry.descriptor()) for entry in document.layers or ())
    format_ = _format(document, origin)
    if isinstance(format_, str):
        return format_
    if stated != OCI_MANIFEST and (format_ is not Format.OLLAMA or stated != _DOCKER_MANIFEST):
        raise KitError(
            f"{origin}: its manifest has the media type {stated!r}, and a kit's has {OCI_MANIFEST}; "
            "push the kit again"
        )
    return Manifest(format_, document.config.descriptor(), layers, document.annotations or {})


def media_type_of(data: bytes | None) -> str:
    """Return the media type that a manifest states; OCI's where it states none, or is not here (None)."""
    try:
        members = read_json(data or b"{}")
    except ValueError:
        return OCI_MANIFEST
    stated = members.get("mediaType") if isinstance(members, dict) else None
    return stated if isinstance(stated, str) and stated else OCI_MANIFEST


def read_members(data: bytes, origin: str, kind: str) -> dict[str, Any]:
    """Parse the JSON object of a manifest or index. Raises KitError where it is broken or ambiguous."""
    if len(data) > MAX_MANIFEST:
        raise KitError(f"{origin}: its {kind} has {len(data)} bytes; 4 MiB are allowed")
    try:
        members = read_json(data)
        if not isinstance(members, dict):
            raise ValueError("is not an object")  # noqa: TRY004, TRY301 - reported like the others below
        _check_names(members, "")
        _check_names(members.get("config"), "config.")
        for entries in ("layers", "manifests"):
            if isinstance(members.get(entries), list):
                for position, entry in enumerate(members[entries]):
                    _check_names(entry, f"{entries}.{position}.")
    except ValueError as error:
        raise KitError(f"{origin}: its {kind} cannot be read: {error}; push the kit again") from error
    return members


def agreed_type(stated: str | None, sent: str | None, origin: str, kind: str) -> str | None:
    """Return the media type that a document states, or was sent with. Raises KitError where they differ."""
    if stated and sent and stated != sent:
        raise KitError(
            f"{origin}: its {kind} states the type {stated!r} and was sent as {sent!r}; push the kit again"
        )
    return stated or sent or None


def index_kind(members: Mapping[str, Any], origin: str) -> str:
    """Return what kind of index this is. Raises NotAKit for one that is a manifest as well."""
    if extra := [name for name in ("config", "layers", "fsLayers") if name in members]:
        raise NotAKit(
            f"{origin} is an index and a manifest in one (it has manifests and {', '.join(extra)}), "
            "which is ambiguous; push the kit again"
        )
    is_of_kits = members.get("artifactType") == MODELKIT_INDEX
    return "an index of ModelKits" if is_of_kits else "an index of manifests"


def _check_names(members: object, prefix: str) -> None:
    names: Iterable[str] = members if isinstance(members, dict) else ()
    for name in names:
        if (essential := _ESSENTIAL.get(name.casefold(), name)) != name:
            raise ValueError(f"has {prefix}{name[:80]!r} instead of {essential!r}")


def _format(document: _Document, origin: str) -> Format | str:
    types = (document.artifact_type, document.config.media_type)
    layers = document.layers or ()
    if document.config.media_type == _DOCKER_IMAGE and any(
        layer.media_type.startswith(OLLAMA_TYPES) for layer in layers
    ):
        return Format.OLLAMA
    formats = {_KIT_TYPES[name] for name in types if name in _KIT_TYPES}
    if len(formats) > 1:
        kinds = sorted(format_.value for format_ in formats)
        raise KitError(
            f"{origin}: its manifest is a {kinds[0]} by one type and a {kinds[1]} by the other "
            f"(artifactType {types[0]!r}, config {types[1]!r}); push the kit again"
        )
    other = document.artifact_type or document.config.media_type
    description = _OTHER_TYPES.get(document.config.media_type, f"an artifact of type {other!r}")
    return next(iter(formats), description)

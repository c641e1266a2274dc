"""A kit's manifest: which layers it has, what each is for, and how each is packed.

Two formats are read alike: KitOps ModelKits and CNCF ModelPacks (model-spec).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.errors import KitError, NotAKit
from gateway.oci.content import MAX_MANIFEST, Descriptor
from gateway.oci.documents import DescriptorDocument, faults, read_json
from gateway.oci.reference import Digest


class Format(Enum):
    """The specification a kit follows."""

    MODELKIT = "ModelKit"
    MODELPACK = "ModelPack"


class Role(Enum):
    """What a layer is for."""

    MODEL = "model"
    PART = "part"
    CODE = "code"
    DATASET = "dataset"
    DOCS = "docs"
    OTHER = "other"


class Archive(Enum):
    """How a layer holds its files: many in a tar, or one as it is."""

    TAR = "tar"
    RAW = "raw"


class Compression(Enum):
    """How a layer's bytes are compressed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


_PACKINGS = {
    f"{archive.value}{suffix}": (archive, compression)
    for archive in Archive
    for suffix, compression in (
        ("", Compression.NONE),
        ("+gzip", Compression.GZIP),
        ("+zstd", Compression.ZSTD),
    )
}
_MODELKIT_ROLES = {
    "model": Role.MODEL,
    "modelpart": Role.PART,
    "dataset": Role.DATASET,
    "code": Role.CODE,
    "docs": Role.DOCS,
}
_MODELPACK_ROLES = {
    "weight": Role.MODEL,
    "weight.config": Role.PART,
    "dataset": Role.DATASET,
    "code": Role.CODE,
    "doc": Role.DOCS,
}

LAYER_TYPES: Mapping[str, tuple[Role, Archive, Compression]] = MappingProxyType(
    {
        f"application/vnd.{family}.{base}.v1.{packing}": (role, *how)
        for family, roles in (("kitops.modelkit", _MODELKIT_ROLES), ("cncf.model", _MODELPACK_ROLES))
        for base, role in roles.items()
        for packing, how in _PACKINGS.items()
        # The ModelPack specification has no compressed raw layers.
        if not (family == "cncf.model" and packing.startswith("raw+"))
    }
)
"""Each layer media type of both formats: its role, archive and compression."""

_KIT_TYPES = {
    "application/vnd.kitops.modelkit.manifest.v1+json": Format.MODELKIT,
    "application/vnd.kitops.modelkit.config.v1+json": Format.MODELKIT,
    "application/vnd.cncf.model.manifest.v1+json": Format.MODELPACK,
    "application/vnd.cncf.model.config.v1+json": Format.MODELPACK,
}
_OTHER_TYPES = {
    "application/vnd.oci.image.config.v1+json": "a container image",
    "application/vnd.docker.container.image.v1+json": "a container image",
    "application/vnd.cncf.helm.config.v1+json": "a Helm chart",
}
_KIT_INDEX = "application/vnd.kitops.modelkit.index.v1+json"
_FILE_PATH = "org.cncf.model.filepath"
_MAX_LAYERS = 4096


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its blob, what it is for, how it is packed.

    `path` is the file or directory it holds, as the manifest or the Kitfile says; None where neither does.
    `root` is the directory of the kit, "" for its top, that names in a tar are relative to. `diff_id` is the
    digest of the uncompressed bytes, where the kit states one.
    """

    descriptor: Descriptor
    role: Role
    archive: Archive
    compression: Compression
    path: str | None
    root: str = ""
    diff_id: Digest | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A kit's manifest, its layers in the order in which they were packed."""

    format: Format
    config: Descriptor
    layers: tuple[Layer, ...]
    annotations: Mapping[str, str]


class _Document(BaseModel):
    """An OCI image manifest as it is written (OCI image spec, "Image Manifest")."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    schema_version: int = Field(alias="schemaVersion", ge=2, le=2)
    artifact_type: str | None = Field(alias="artifactType", default=None)
    config: DescriptorDocument
    # kit writes null for a kit that has no layer of its own.
    layers: list[DescriptorDocument] | None = Field(max_length=_MAX_LAYERS)
    annotations: dict[str, str] | None = None


def parse_manifest(data: bytes, origin: str) -> Manifest:
    """Read a manifest; `origin` is the reference that errors name.

    Raises NotAKit for any other artifact, and KitError for a manifest that is broken.
    """
    if len(data) > MAX_MANIFEST:
        raise KitError(f"{origin}: its manifest has {len(data)} bytes; 4 MiB are allowed")
    try:
        members = read_json(data)
        if not isinstance(members, dict):
            raise ValueError("is not an object")  # noqa: TRY004, TRY301 - one way to say it is broken
    except ValueError as error:
        raise KitError(f"{origin}: its manifest cannot be read: {error}; push the kit again") from error
    _refuse_index(members, origin)
    try:
        document = _Document.model_validate(members)
    except ValidationError as error:
        raise KitError(f"{origin}: its manifest is broken: {faults(error)}; push the kit again") from error
    return Manifest(
        format=_classify(document, origin),
        config=document.config.descriptor(),
        layers=tuple(_layer(entry.descriptor()) for entry in document.layers or ()),
        annotations=document.annotations or {},
    )


def _refuse_index(members: dict[str, Any], origin: str) -> None:
    if "manifests" not in members:
        return
    if "config" in members or "layers" in members:
        raise NotAKit(f"{origin} is an index and a manifest in one, which no honest tool writes")
    what = "an index of ModelKits" if members.get("artifactType") == _KIT_INDEX else "an index of manifests"
    raise NotAKit(f"{origin} is {what}, not a kit; name one kit of it by its tag or digest")


def _classify(document: _Document, origin: str) -> Format:
    for name in (document.artifact_type, document.config.media_type):
        if name in _KIT_TYPES:
            return _KIT_TYPES[name]
    name = document.artifact_type or document.config.media_type
    what = _OTHER_TYPES.get(document.config.media_type, f"an artifact of type {name!r}")
    raise NotAKit(f"{origin} is no kit: this is {what}; name a ModelKit or a ModelPack")


def _layer(descriptor: Descriptor) -> Layer:
    other = (Role.OTHER, Archive.RAW, Compression.NONE)
    role, archive, compression = LAYER_TYPES.get(descriptor.media_type, other)
    return Layer(descriptor, role, archive, compression, descriptor.annotations.get(_FILE_PATH))

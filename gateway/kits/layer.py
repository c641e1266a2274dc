"""A kit's layers: what each is for and how it is packed, by its media type.

Three families of media types are known: KitOps ModelKits, CNCF ModelPacks (model-spec), and the "cnai"
names that ModelPacks had up to model-spec 0.0.6.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from gateway.oci.content import Descriptor
from gateway.oci.reference import Digest


class Role(Enum):
    """What a layer is for."""

    MODEL = "model"
    PART = "part"
    CODE = "code"
    PROMPT = "prompt"
    DATASET = "dataset"
    DOCS = "docs"
    MCP_SERVER = "mcp server"
    OTHER = "other"


class Archive(Enum):
    """How a layer holds its files: in a tar, or as one raw file."""

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
_FAMILIES = {
    "kitops.modelkit": _MODELKIT_ROLES,
    "cncf.model": _MODELPACK_ROLES,
    "cnai.model": _MODELPACK_ROLES,
}

LAYER_TYPES: Mapping[str, tuple[Role, Archive, Compression]] = MappingProxyType(
    {
        f"application/vnd.{family}.{base}.v1.{suffix}": (role, *packing)
        for family, roles in _FAMILIES.items()
        for base, role in roles.items()
        for suffix, packing in _PACKINGS.items()
        # The ModelPack specification has no compressed raw layers.
        if family == "kitops.modelkit" or not suffix.startswith("raw+")
    }
    | {"application/vnd.kitops.modelkit.mcpb.v1.raw": (Role.MCP_SERVER, Archive.RAW, Compression.NONE)}
)
"""Each layer media type of every family: its role, archive and compression."""

_FILE_PATHS = ("org.cncf.model.filepath", "org.cnai.model.filepath")
_SUBTYPE = "ml.kitops.modelkit.layer-subtype"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its blob, what it is for, how it is packed.

    `path` is the file or directory in it, as the manifest or the Kitfile states; None where neither does.
    `root` is the directory of the kit, "" for its top, that paths in a tar are relative to. `diff_id` is the
    digest of the uncompressed bytes, where the kit states one.
    """

    descriptor: Descriptor
    role: Role
    archive: Archive
    compression: Compression
    path: str | None
    root: str = ""
    diff_id: Digest | None = None

    @classmethod
    def of(cls, descriptor: Descriptor) -> "Layer":
        """Return the layer of a descriptor; a media type that is not known makes it Role.OTHER."""
        other = (Role.OTHER, Archive.RAW, Compression.NONE)
        role, archive, compression = LAYER_TYPES.get(descriptor.media_type, other)
        if role is Role.CODE and descriptor.annotations.get(_SUBTYPE) == "prompt":
            role = Role.PROMPT
        paths = (descriptor.annotations.get(key) for key in _FILE_PATHS)
        return cls(descriptor, role, archive, compression, next(filter(None, paths), None))

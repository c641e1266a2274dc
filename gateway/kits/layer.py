"""A kit's layers: what each is for and how it is packed, by its media type.

These families of media types are known: KitOps ModelKits, CNCF ModelPacks (model-spec), the "cnai" names
that ModelPacks had up to model-spec 0.0.6, and those of Docker Model Runner and of Ollama.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType

from gateway.errors import UnsafeArchive
from gateway.kits.paths import safe_path
from gateway.kits.uses import Use
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
    SETTINGS = "settings"
    """What is no file of the kit, but part of its Kitfile."""
    OTHER = "other"


MODEL_ROLES = frozenset({Role.MODEL, Role.PART})
"""What is the model itself."""


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

_RAW = (Archive.RAW, Compression.NONE)
_TAR = (Archive.TAR, Compression.NONE)
# Docker Model Runner, pkg/distribution/types; the first two are its own additions to model-spec's.
_DOCKER_TYPES = {
    "application/vnd.cncf.model.weight.v1.gguf": (Role.MODEL, *_RAW),
    "application/vnd.cncf.model.weight.v1.safetensors": (Role.MODEL, *_RAW),
    "application/vnd.docker.ai.gguf.v3": (Role.MODEL, *_RAW),
    "application/vnd.docker.ai.safetensors": (Role.MODEL, *_RAW),
    "application/vnd.docker.ai.dduf": (Role.MODEL, *_RAW),
    "application/vnd.docker.ai.mmproj": (Role.PART, *_RAW),
    "application/vnd.docker.ai.chat.template.jinja": (Role.PART, *_RAW),
    "application/vnd.docker.ai.model.file": (Role.PART, *_RAW),
    "application/vnd.docker.ai.vllm.config.tar": (Role.PART, *_TAR),
    "application/vnd.docker.ai.dir.tar": (Role.PART, *_TAR),
    "application/vnd.docker.ai.license": (Role.DOCS, *_RAW),
}
OLLAMA_TYPES = "application/vnd.ollama.image."
"""What the types of Ollama's layers begin with."""
_OLLAMA_TYPES = {
    f"{OLLAMA_TYPES}model": (Role.MODEL, *_RAW),
    f"{OLLAMA_TYPES}projector": (Role.PART, *_RAW),
    f"{OLLAMA_TYPES}adapter": (Role.PART, *_RAW),
    f"{OLLAMA_TYPES}draft": (Role.PART, *_RAW),
    f"{OLLAMA_TYPES}params": (Role.SETTINGS, *_RAW),
    f"{OLLAMA_TYPES}system": (Role.SETTINGS, *_RAW),
    f"{OLLAMA_TYPES}license": (Role.DOCS, *_RAW),
}
GO_TEMPLATE = f"{OLLAMA_TYPES}template"
"""A chat template of Ollama, which is none that anything else reads."""
_USES = {
    f"{OLLAMA_TYPES}projector": Use.PROJECTOR,
    f"{OLLAMA_TYPES}adapter": Use.ADAPTER,
    f"{OLLAMA_TYPES}draft": Use.DRAFT,
    "application/vnd.docker.ai.mmproj": Use.PROJECTOR,
    "application/vnd.docker.ai.chat.template.jinja": Use.CHAT_TEMPLATE,
}
# The names of files that no annotation names.
_FILE_NAMES = {
    "application/vnd.cncf.model.weight.v1.gguf": ("model", ".gguf"),
    "application/vnd.cncf.model.weight.v1.safetensors": ("model", ".safetensors"),
    "application/vnd.docker.ai.gguf.v3": ("model", ".gguf"),
    "application/vnd.docker.ai.safetensors": ("model", ".safetensors"),
    "application/vnd.docker.ai.mmproj": ("mmproj", ".gguf"),
    "application/vnd.docker.ai.chat.template.jinja": ("chat_template", ".jinja"),
    f"{OLLAMA_TYPES}model": ("model", ".gguf"),
    f"{OLLAMA_TYPES}projector": ("mmproj", ".gguf"),
    f"{OLLAMA_TYPES}adapter": ("adapter", ".gguf"),
    f"{OLLAMA_TYPES}draft": ("draft", ".gguf"),
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
    | {"application/vnd.kitops.modelkit.mcpb.v1.raw": (Role.MCP_SERVER, *_RAW)}
    | _DOCKER_TYPES
    | _OLLAMA_TYPES
)
"""Each layer media type of every family: its role, archive and compression."""

_FILE_PATHS = ("org.cncf.model.filepath", "org.cnai.model.filepath")
# What others than packers of models name a file by (OCI image spec, "Pre-Defined Annotation Keys").
_TITLE = "org.opencontainers.image.title"
_SUBTYPE = "ml.kitops.modelkit.layer-subtype"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its blob, what it is for, how it is packed.

    `path` is the file or directory in it, as the manifest or the Kitfile states; None where neither does.
    `root` is the directory of the kit, "" for its top, that paths in a tar are relative to. `diff_id` is the
    digest of the uncompressed bytes, where the kit states one. `use` is what its media type says it is for.
    """

    descriptor: Descriptor
    role: Role
    archive: Archive
    compression: Compression
    path: str | None
    root: str = ""
    diff_id: Digest | None = None
    use: Use | None = None

    @property
    def safe_path(self) -> str | None:
        """`path`, "" where it is all of the kit; None where it is unsafe."""
        try:
            return safe_path(self.path or "")
        except UnsafeArchive:
            return None

    @classmethod
    def of(cls, descriptor: Descriptor) -> "Layer":
        """Return the layer of a descriptor; a media type that is not known makes it Role.OTHER."""
        media_type = descriptor.media_type
        role, archive, compression = LAYER_TYPES.get(media_type, (Role.OTHER, *_RAW))
        if role is Role.CODE and descriptor.annotations.get(_SUBTYPE) == "prompt":
            role = Role.PROMPT
        paths = (descriptor.annotations.get(key) for key in _FILE_PATHS)
        path = next(filter(None, paths), None)
        return cls(descriptor, role, archive, compression, path, use=_USES.get(media_type))


def with_file_names(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Return the layers with a path for each single file that has none yet: its title, or a usual name.

    Several files of a kind that only have usual names are parts of one: model-00001-of-00002.gguf.
    """
    nameless: dict[str, list[int]] = {}
    named = list(layers)
    for position, layer in enumerate(layers):
        if layer.archive is not Archive.RAW or layer.path:
            continue
        if title := layer.descriptor.annotations.get(_TITLE):
            named[position] = replace(layer, path=title)
        elif layer.descriptor.media_type in _FILE_NAMES:
            nameless.setdefault(layer.descriptor.media_type, []).append(position)
    for media_type, positions in nameless.items():
        stem, suffix = _FILE_NAMES[media_type]
        for number, position in enumerate(positions, 1):
            part = f"-{number:05d}-of-{len(positions):05d}" if len(positions) > 1 else ""
            named[position] = replace(layers[position], path=f"{stem}{part}{suffix}")
    return tuple(named)

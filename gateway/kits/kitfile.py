"""The Kitfile: what the maker of a kit says about it.

A ModelKit carries it as its config blob. A ModelPack made by kit carries it as an annotation; any other
ModelPack has a model-spec config, from which the same model is filled as far as it goes.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from gateway.errors import InvalidKitfile
from gateway.kits.layer import Role
from gateway.kits.manifest import Format, Manifest
from gateway.oci.documents import DigestField, describe_errors, read_json
from gateway.oci.reference import is_kit_reference

MAX_CONFIG = 4 * 1024 * 1024
"""The most bytes that a config blob may have."""
_KITFILE = "ml.kitops.modelkit.kitfile"


class _Part(BaseModel):
    # Others write Kitfiles, and newer ones: unknown members are left alone, and 1.0 is read as "1.0".
    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        coerce_numbers_to_str=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )


def _present(value: Any) -> Any:
    return () if value is None else value


def _object(value: Any) -> Any:
    return {} if value is None else value


class Entry(_Part):
    """Something packed as a layer.

    `path` is relative to the kit; `digest` is of the layer's blob and `diff_id` of its uncompressed bytes,
    both None in kits from before KitOps 0.5. What has a `remote_path` is elsewhere, and no layer.
    """

    name: str | None = None
    path: str | None = None
    description: str | None = None
    license: str | None = None
    digest: DigestField | None = None
    diff_id: DigestField | None = Field(alias="diffId", default=None)
    remote_path: str | None = Field(alias="remotePath", default=None)


class ModelPart(Entry):
    """A part of the model that is packed on its own, such as a tokenizer."""

    type: str | None = None


Entries = Annotated[tuple[Entry, ...], BeforeValidator(_present)]


class Model(Entry):
    """The model: `framework` and `format` are free text, hints at best; `parameters` is any JSON."""

    framework: str | None = None
    format: str | None = None
    version: str | None = None
    parts: Annotated[tuple[ModelPart, ...], BeforeValidator(_present)] = ()
    parameters: JsonValue = None


class Package(_Part):
    """The kit as a whole."""

    name: str | None = None
    version: str | None = None
    description: str | None = None
    license: str | None = None
    authors: Annotated[tuple[str, ...], BeforeValidator(_present)] = ()


class Kitfile(_Part):
    """A Kitfile; every member is optional, as in KitOps."""

    manifest_version: str | None = Field(alias="manifestVersion", default=None)
    package: Annotated[Package, BeforeValidator(_object)] = Package()
    model: Model | None = None
    code: Entries = ()
    datasets: Entries = ()
    docs: Entries = ()
    prompts: Entries = ()
    mcp_servers: Entries = Field(alias="mcpServers", default=())
    layer_diff_ids: tuple[DigestField, ...] = Field(default=(), exclude=True)
    """The digest of each layer's uncompressed bytes, where a ModelPack's config stands in for a Kitfile."""

    def entries(self) -> Iterator[tuple[str, Role, Entry]]:
        """Yield everything that is a layer, with where it is said, in the order in which kit packs it."""
        if self.model is not None:
            if (self.model.path or self.model.digest) and self.parent is None:
                yield "model", Role.MODEL, self.model
            yield from _listed("model.parts", Role.PART, self.model.parts)
        yield from _listed("code", Role.CODE, self.code)
        yield from _listed("datasets", Role.DATASET, self.datasets)
        yield from _listed("docs", Role.DOCS, self.docs)
        yield from _listed("prompts", Role.PROMPT, self.prompts)
        yield from _listed("mcpServers", Role.MCP_SERVER, self.mcp_servers)

    @property
    def parent(self) -> str | None:
        """The reference of the kit whose model this one uses, if `model.path` is one.

        kit takes a path for a reference when it has a ":" or "@" and parses as one; a model with a digest
        has a layer, and so a path.
        """
        if self.model is None or self.model.digest is not None:
            return None
        path = self.model.path or ""
        return path if is_kit_reference(path) else None


def _listed(where: str, role: Role, entries: Sequence[Entry]) -> Iterator[tuple[str, Role, Entry]]:
    for position, entry in enumerate(entries):
        if not entry.remote_path:
            yield f"{where}.{position}", role, entry


class _Descriptor(_Part):
    name: str | None = None
    version: str | None = None
    title: str | None = None
    description: str | None = None
    authors: Annotated[tuple[str, ...], BeforeValidator(_present)] = ()
    licenses: Annotated[tuple[str, ...], BeforeValidator(_present)] = ()


class _Config(_Part):
    format: str | None = None


class _ModelFiles(_Part):
    # "diff_ids" up to model-spec 0.0.6.
    diff_ids: Annotated[tuple[DigestField, ...], BeforeValidator(_present)] = Field(
        validation_alias=AliasChoices("diffIds", "diff_ids"), default=()
    )


class _ModelPack(_Part):
    """A ModelPack's config (CNCF model-spec, "Model Artifact Configuration")."""

    descriptor: Annotated[_Descriptor, BeforeValidator(_object)] = _Descriptor()
    config: Annotated[_Config, BeforeValidator(_object)] = _Config()
    files: Annotated[_ModelFiles, BeforeValidator(_object)] = Field(alias="modelfs", default=_ModelFiles())

    def kitfile(self) -> Kitfile:
        about = self.descriptor
        kitfile = Kitfile(
            package=Package(
                name=about.name,
                version=about.version,
                description=about.description or about.title,
                license=", ".join(about.licenses) or None,
                authors=about.authors,
            ),
            model=Model(name=about.name, version=about.version, format=self.config.format),
        )
        return kitfile.model_copy(update={"layer_diff_ids": self.files.diff_ids})


def read_kitfile(manifest: Manifest, config: bytes, origin: str) -> Kitfile:
    """Read a kit's Kitfile from its config blob or annotation; `origin` is named in errors.

    Raises InvalidKitfile.
    """
    annotation = manifest.annotations.get(_KITFILE)
    try:
        if manifest.format is Format.MODELKIT:
            return Kitfile.model_validate(read_json(config))
        if annotation is not None:
            return Kitfile.model_validate(read_json(annotation.encode()))
        return _ModelPack.model_validate(read_json(config)).kitfile()
    except ValidationError as error:
        raise InvalidKitfile(
            f"{origin}: its Kitfile is broken: {describe_errors(error)}; pack the kit again"
        ) from error
    except ValueError as error:
        raise InvalidKitfile(f"{origin}: its Kitfile cannot be read: {error}; pack the kit again") from error

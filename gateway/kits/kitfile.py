"""The Kitfile: what the maker of a kit says about it.

A ModelKit carries it as its config blob. A ModelPack made by kit carries it as an annotation; any other
ModelPack has a model-spec config, from which the same model is filled as far as it goes.
"""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from gateway.errors import InvalidKitfile, InvalidReference
from gateway.kits.manifest import Format, Manifest, Role
from gateway.oci.documents import DigestField, faults, read_json
from gateway.oci.reference import parse_reference

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


class Entry(_Part):
    """Something packed as a layer.

    `path` is relative to the kit; `digest` is of the layer's blob and `diff_id` of its uncompressed bytes,
    both None in kits from before KitOps 0.5.
    """

    name: str | None = None
    path: str | None = None
    description: str | None = None
    license: str | None = None
    digest: DigestField | None = None
    diff_id: DigestField | None = Field(alias="diffId", default=None)


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
    package: Package = Package()
    model: Model | None = None
    code: Entries = ()
    datasets: Entries = ()
    docs: Entries = ()
    prompts: Entries = ()

    def entries(self) -> Iterator[tuple[Role, Entry]]:
        """Yield everything that may be a layer, in the order in which kit packs it."""
        if self.model is not None:
            if self.model.path and self.parent is None:
                yield Role.MODEL, self.model
            yield from ((Role.PART, part) for part in self.model.parts)
        yield from ((Role.CODE, entry) for entry in self.code)
        yield from ((Role.DATASET, entry) for entry in self.datasets)
        yield from ((Role.DOCS, entry) for entry in self.docs)
        yield from ((Role.CODE, entry) for entry in self.prompts)

    @property
    def parent(self) -> str | None:
        """The reference of the kit whose model this one uses, if `model.path` is one.

        kit takes a path for a reference when it has a ":" or "@" and parses as one.
        """
        path = (self.model and self.model.path) or ""
        if ":" not in path and "@" not in path:
            return None
        try:
            parse_reference(path)
        except InvalidReference:
            return None
        return path


class _Descriptor(_Part):
    name: str | None = None
    version: str | None = None
    title: str | None = None
    description: str | None = None
    authors: Annotated[tuple[str, ...], BeforeValidator(_present)] = ()
    licenses: Annotated[tuple[str, ...], BeforeValidator(_present)] = ()


class _Config(_Part):
    format: str | None = None


class _ModelPack(_Part):
    """A ModelPack's config (CNCF model-spec, "Model Artifact Configuration")."""

    descriptor: _Descriptor = _Descriptor()
    config: _Config = _Config()

    def kitfile(self) -> Kitfile:
        about = self.descriptor
        return Kitfile(
            package=Package(
                name=about.name,
                version=about.version,
                description=about.description or about.title,
                license=", ".join(about.licenses) or None,
                authors=about.authors,
            ),
            model=Model(name=about.name, version=about.version, format=self.config.format),
        )


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
            f"{origin}: its Kitfile is broken: {faults(error)}; pack the kit again"
        ) from error
    except ValueError as error:
        raise InvalidKitfile(f"{origin}: its Kitfile cannot be read: {error}; pack the kit again") from error

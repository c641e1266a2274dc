"""Kitfiles, read from what each format has: the config blob, an annotation, or a config of another form.

In a ModelKit the Kitfile is the config blob, in a ModelPack made by kit an annotation. Configs of other forms
are turned into a Kitfile as far as possible: model-spec's, and those of Docker Model Runner and of Ollama.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import AliasChoices, BeforeValidator, Field, JsonValue, ValidationError

from gateway.errors import InvalidKitfile
from gateway.kits.kitfile import (
    SYSTEM_PROMPTS,
    Kitfile,
    Lenient,
    Model,
    Package,
    null_as_empty,
    null_as_object,
)
from gateway.kits.layer import OLLAMA_TYPES
from gateway.kits.manifest import Format, Manifest
from gateway.oci.documents import DigestField, describe_errors, read_json

MAX_CONFIG = 4 * 1024 * 1024
"""The most bytes that a config blob may have."""
_KITFILE = "ml.kitops.modelkit.kitfile"


class _Descriptor(Lenient):
    name: str | None = None
    version: str | None = None
    title: str | None = None
    description: str | None = None
    authors: Annotated[tuple[str, ...], BeforeValidator(null_as_empty)] = ()
    licenses: Annotated[tuple[str, ...], BeforeValidator(null_as_empty)] = ()


class _Config(Lenient):
    format: str | None = None


class _ModelFiles(Lenient):
    # Called "diff_ids" up to model-spec 0.0.6.
    diff_ids: Annotated[tuple[DigestField, ...], BeforeValidator(null_as_empty)] = Field(
        validation_alias=AliasChoices("diffIds", "diff_ids"), default=()
    )


class _ModelPack(Lenient):
    """A ModelPack's config (CNCF model-spec, "Model Artifact Configuration")."""

    descriptor: Annotated[_Descriptor, BeforeValidator(null_as_object)] = _Descriptor()
    config: Annotated[_Config, BeforeValidator(null_as_object)] = _Config()
    files: Annotated[_ModelFiles, BeforeValidator(null_as_object)] = Field(
        alias="modelfs", default=_ModelFiles()
    )

    def kitfile(self) -> Kitfile:
        descriptor = self.descriptor
        kitfile = Kitfile(
            package=Package(
                name=descriptor.name,
                version=descriptor.version,
                description=descriptor.description or descriptor.title,
                license=", ".join(descriptor.licenses) or None,
                authors=descriptor.authors,
            ),
            model=Model(name=descriptor.name, version=descriptor.version, format=self.config.format),
        )
        return kitfile.model_copy(update={"layer_diff_ids": self.files.diff_ids})


class _DockerConfig(Lenient):
    format: str | None = None
    context_size: int | None = None


class _DockerModel(Lenient):
    """The config of a Docker model, v0.1 and v0.2 (Docker Model Runner, pkg/distribution/types)."""

    config: Annotated[_DockerConfig, BeforeValidator(null_as_object)] = _DockerConfig()

    def kitfile(self) -> Kitfile:
        context = self.config.context_size
        parameters: JsonValue = None if context is None else {"context_length": context}
        return Kitfile(model=Model(format=self.config.format, parameters=parameters))


class _OllamaModel(Lenient):
    """The config of an Ollama model (ollama, server/images.go)."""

    model_format: str | None = None

    def kitfile(self, settings: Mapping[str, bytes]) -> Kitfile:
        """Return the Kitfile; `settings` are the bytes of layers, by media type."""
        parameters = read_json(settings.get(f"{OLLAMA_TYPES}params", b"{}"))
        if not isinstance(parameters, dict):
            raise ValueError("has parameters that are no object")  # noqa: TRY004 - reported like others
        if system := settings.get(f"{OLLAMA_TYPES}system"):
            parameters = {**parameters, SYSTEM_PROMPTS[0]: system.decode()}
        return Kitfile(model=Model(format=self.model_format, parameters=parameters or None))


def read_kitfile(
    manifest: Manifest, config: bytes, origin: str, settings: Mapping[str, bytes] = MappingProxyType({})
) -> Kitfile:
    """Parse a kit's Kitfile from its config blob or annotation; `origin` is named in errors.

    `settings` are the bytes of its layers of Role.SETTINGS, by media type. Raises InvalidKitfile.
    """
    annotation = manifest.annotations.get(_KITFILE)
    try:
        if manifest.format is Format.MODELKIT:
            return Kitfile.model_validate(read_json(config))
        if annotation is not None:
            return Kitfile.model_validate(read_json(annotation.encode()))
        if manifest.format is Format.DOCKER:
            return _DockerModel.model_validate(read_json(config)).kitfile()
        if manifest.format is Format.OLLAMA:
            return _OllamaModel.model_validate(read_json(config)).kitfile(settings)
        return _ModelPack.model_validate(read_json(config)).kitfile()
    except ValidationError as error:
        raise InvalidKitfile(
            f"{origin}: its Kitfile is broken: {describe_errors(error)}; pack the kit again"
        ) from error
    except ValueError as error:
        raise InvalidKitfile(f"{origin}: its Kitfile cannot be read: {error}; pack the kit again") from error

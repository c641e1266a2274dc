"""The Kitfile: the description of a kit by its author.

How it is read, and made of the configs of other formats, is in `dialects`.
"""

import posixpath
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from gateway.kits.layer import Role
from gateway.kits.uses import normal_word
from gateway.oci.documents import DigestField
from gateway.oci.reference import is_kit_reference

SYSTEM_PROMPTS = ("system_prompt", "system")
"""What Kitfiles call the first message of each chat, as a parameter or a prompt."""


class Lenient(BaseModel):
    """What others write: unknown members are ignored, and 1.0 is read as "1.0"."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        coerce_numbers_to_str=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )


def null_as_empty(value: Any) -> Any:
    """Return an empty list for null."""
    return () if value is None else value


def null_as_object(value: Any) -> Any:
    """Return an empty object for null."""
    return {} if value is None else value


class Entry(Lenient):
    """An entry that is packed as a layer.

    `path` is relative to the kit. `digest` is that of the layer's blob and `diff_id` that of its uncompressed
    bytes, both None in kits from before KitOps 0.5. An entry with a `remote_path` is not packed.
    """

    name: str | None = None
    path: str | None = None
    description: str | None = None
    license: str | None = None
    digest: DigestField | None = None
    diff_id: DigestField | None = Field(alias="diffId", default=None)
    remote_path: str | None = Field(alias="remotePath", default=None)


class ModelPart(Entry):
    """A part of the model that is a layer of its own, such as a tokenizer."""

    type: str | None = None


Entries = Annotated[tuple[Entry, ...], BeforeValidator(null_as_empty)]


class Model(Entry):
    """The model; `framework` and `format` are free text, mere hints; `parameters` is any JSON."""

    framework: str | None = None
    format: str | None = None
    version: str | None = None
    parts: Annotated[tuple[ModelPart, ...], BeforeValidator(null_as_empty)] = ()
    parameters: JsonValue = None

    def parameter(self, name: str) -> Any:
        """Return a member of `parameters`; None where they have none of that name, or are no object."""
        return self.parameters.get(name) if isinstance(self.parameters, dict) else None


class Package(Lenient):
    """The kit as a whole."""

    name: str | None = None
    version: str | None = None
    description: str | None = None
    license: str | None = None
    authors: Annotated[tuple[str, ...], BeforeValidator(null_as_empty)] = ()


class Kitfile(Lenient):
    """A Kitfile; every member is optional, as in KitOps."""

    manifest_version: str | None = Field(alias="manifestVersion", default=None)
    package: Annotated[Package, BeforeValidator(null_as_object)] = Package()
    model: Model | None = None
    code: Entries = ()
    datasets: Entries = ()
    docs: Entries = ()
    prompts: Entries = ()
    mcp_servers: Entries = Field(alias="mcpServers", default=())
    layer_diff_ids: tuple[DigestField, ...] = Field(default=(), exclude=True)
    """The digest of each layer's uncompressed bytes, where this was a ModelPack's config."""

    def entries(self) -> Iterator[tuple[str, Role, Entry]]:
        """Yield the entries that are layers, with field and role, in the order in which kit packs them."""
        if self.model is not None:
            if (self.model.path or self.model.digest) and self.parent is None:
                yield "model", Role.MODEL, self.model
            yield from _list_entries("model.parts", Role.PART, self.model.parts)
        yield from _list_entries("code", Role.CODE, self.code)
        yield from _list_entries("datasets", Role.DATASET, self.datasets)
        yield from _list_entries("docs", Role.DOCS, self.docs)
        yield from _list_entries("prompts", Role.PROMPT, self.prompts)
        yield from _list_entries("mcpServers", Role.MCP_SERVER, self.mcp_servers)

    @property
    def system_prompt(self) -> Entry | None:
        """The prompt that is the first message of each chat: the one that is called "system", or its file."""
        for entry in self.prompts:
            stem = posixpath.splitext(posixpath.basename(entry.path or ""))[0]
            if any(normal_word(word) in SYSTEM_PROMPTS for word in (entry.name, stem) if word):
                return entry
        return None

    @property
    def parent(self) -> str | None:
        """The reference of the kit whose model this one uses, where `model.path` is a reference.

        A path with a ":" or "@" that parses as a reference is one, as in kit; but a model with a digest is a
        layer of this kit.
        """
        if self.model is None or self.model.digest is not None:
            return None
        path = self.model.path or ""
        return path if is_kit_reference(path) else None


def _list_entries(field: str, role: Role, entries: Sequence[Entry]) -> Iterator[tuple[str, Role, Entry]]:
    for position, entry in enumerate(entries):
        if not entry.remote_path:
            yield f"{field}.{position}", role, entry

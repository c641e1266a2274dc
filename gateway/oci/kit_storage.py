"""The local storage of the kit command line as a Source.

    HOME/storage/oci-layout, index.json    an OCI image layout of everything; no names in it
    HOME/storage/NAME-index.json           the manifests of one repository
    HOME/storage/NAME-tags.json            its tags, each with a descriptor
    HOME/storage/indexes/NAME-tags.json    the tags of its indexes (KitOps 1.17), whose manifests are above

A tag may name a kit and an index too: a reference with a variant means the index, any other the kit. NAME is
"REGISTRY/REPOSITORY" in URL-safe base64. kit locks nothing and may write at any time.
"""

import base64
from contextlib import AbstractContextManager
from itertools import chain, islice
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from gateway.errors import NotFound, RegistryError
from gateway.oci.content import BlobStream, Descriptor
from gateway.oci.documents import DescriptorDocument, read_json
from gateway.oci.layout import NAMES_SHOWN
from gateway.oci.layout_content import MAX_ENTRIES, LayoutContent
from gateway.oci.layout_files import DirectoryFiles
from gateway.oci.options import kit_home
from gateway.oci.reference import LOCAL, Digest, LocalReference
from gateway.wording import listed

_TAGS = "-tags.json"
_INDEXES = "indexes"
_MAX_FILES_SEARCHED = 1000
_tags: TypeAdapter[dict[str, DescriptorDocument]] = TypeAdapter(
    Annotated[dict[str, DescriptorDocument], Field(max_length=MAX_ENTRIES)]
)


class KitStorageSource:
    """A reference in kit's storage below `home`, by default kit's own directory.

    Raises NotFound, or RegistryError for a storage that cannot be read.
    """

    def __init__(self, reference: LocalReference, home: Path | None) -> None:
        self.reference = reference
        self._storage = (home or kit_home()) / "storage"
        self._location = f"kit's local storage {self._storage}"
        self._content = LayoutContent(
            DirectoryFiles(self._storage), str(reference), self._location, "pack or pull it again with kit"
        )

    def resolve(self) -> Descriptor:
        """Find the tag in the repository's tags; a digest needs only its blob, as its tag may have moved."""
        if self.reference.digest is not None:
            indexes = self._tags(self._tags_file(f"{_INDEXES}/")).values()
            return self._content.describe(self.reference.digest, [*self._content.index(), *indexes])
        descriptor = self.resolve_tag(self.reference.label)
        if descriptor is None:
            raise self._not_found_error()
        return descriptor

    def manifest(self, descriptor: Descriptor) -> bytes:
        """Read a manifest and verify it."""
        return self._content.manifest(descriptor)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> AbstractContextManager[BlobStream]:
        """Open a blob at an offset."""
        return self._content.blob(descriptor, offset)

    def resolve_tag(self, tag: str) -> Descriptor | None:
        """Return the manifest that another tag of the same repository points to."""
        directories = ("", f"{_INDEXES}/") if self.reference.variant is None else (f"{_INDEXES}/", "")
        for directory in directories:
            entry = self._tags(self._tags_file(directory)).get(tag)
            if entry is not None:
                return entry.descriptor()
        return None

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the manifests of the whole storage whose subject is this one."""
        return self._content.referrers(digest)

    def _tags_file(self, directory: str) -> str:
        repository = f"{self.reference.registry}/{self.reference.repository}"
        return f"{directory}{base64.urlsafe_b64encode(repository.encode()).decode()}{_TAGS}"

    def _tags(self, file: str) -> dict[str, DescriptorDocument]:
        try:
            return _tags.validate_python(read_json(self._content.document(file)))
        except NotFound:
            return {}
        except ValueError as error:
            raise self._content.unusable_error(f"{file}: {error}") from error

    def _not_found_error(self) -> NotFound:
        reference = self.reference
        problem = f"{reference}: {self._location} has no {reference.name}:{reference.label}"
        if (self._storage / reference.registry / reference.repository / "index.json").is_file():
            return NotFound(
                f"{problem} but in the form of kit before 0.3; run `kit list` of a newer kit, "
                "which converts it"
            )
        if not self._storage.is_dir():
            return NotFound(
                f"{problem}, as it does not exist; set $KITOPS_HOME to kit's directory, or, for a kit in a "
                "registry, write HOST/REPOSITORY:TAG"
            )
        return NotFound(
            f"{problem}; it has {listed(self._names(), NAMES_SHOWN)}; for a kit in a registry, "
            "write HOST/REPOSITORY:TAG"
        )

    def _names(self) -> list[str]:
        """Return what the storage has, as kit shows it: first this repository, then the others."""
        names: set[tuple[bool, str]] = set()
        paths = chain(*(self._storage.glob(f"{directory}*{_TAGS}") for directory in ("", f"{_INDEXES}/")))
        for path in islice(paths, _MAX_FILES_SEARCHED):
            try:
                repository = base64.urlsafe_b64decode(path.name.removesuffix(_TAGS)).decode()
                tags = self._tags(str(path.relative_to(self._storage)))
            except (ValueError, RegistryError):
                continue
            name = repository.removeprefix(f"{LOCAL}/")
            names |= {(name != self.reference.name, f"{name}:{tag}") for tag in tags}
        return [name for _, name in sorted(names)]

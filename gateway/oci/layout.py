"""An OCI image layout, as a directory or a tar archive, as a Source (OCI image spec, "Image Layout").

A reference NAME:TAG means the first entry of index.json whose name is

    NAME:TAG    as it is written, with a registry's host if the entry has one
    NAME        where TAG is "latest"
    TAG         as oras and skopeo write it in a layout for one repository; NAME may then be any
"""

from contextlib import AbstractContextManager

from gateway.errors import NotFound, RegistryError
from gateway.oci.content import REF_NAME, BlobStream, Descriptor
from gateway.oci.documents import DescriptorDocument
from gateway.oci.layout_content import LayoutContent
from gateway.oci.layout_files import LayoutFiles
from gateway.oci.reference import Digest, LayoutReference
from gateway.wording import listed

NAMES_SHOWN = 20
"""So many names that are there are told where one is not."""


class LayoutSource:
    """A reference in a layout. Raises NotFound, or RegistryError where there is no layout."""

    def __init__(self, reference: LayoutReference) -> None:
        self.reference = reference
        self._label = reference.written
        self._content = LayoutContent(
            LayoutFiles(reference.path, self._label),
            self._label,
            str(reference.path),
            "export it again",
        )

    def resolve(self) -> Descriptor:
        """Find the name in index.json; a digest needs only its blob, as its name may have moved."""
        entries = self._content.index()
        if self.reference.digest is not None:
            return self._content.describe(self.reference.digest, entries)
        tag = self.reference.label
        descriptor = self._find(entries, tag)
        if descriptor is None:
            wanted = self.reference.name if tag == "latest" else f"{self.reference.name}:{tag}"
            there = listed(_names(entries), NAMES_SHOWN)
            raise NotFound(f"{self._label}: {self.reference.path} has no {wanted}; it has {there}")
        return descriptor

    def manifest(self, descriptor: Descriptor) -> bytes:
        """Read a manifest and verify it."""
        return self._content.manifest(descriptor)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> AbstractContextManager[BlobStream]:
        """Open a blob at an offset."""
        return self._content.blob(descriptor, offset)

    def resolve_tag(self, tag: str) -> Descriptor | None:
        """Return the manifest of another tag of the same name, by the rule above."""
        return self._find(self._content.index(), tag)

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the manifests of index.json whose subject is this one."""
        return self._content.referrers(digest)

    def _find(self, entries: list[DescriptorDocument], tag: str) -> Descriptor | None:
        name = self.reference.name
        for candidate in (f"{name}:{tag}", name if tag == "latest" else None, tag):
            matches = {entry.digest: entry for entry in entries if candidate and _name(entry) == candidate}
            if len(matches) > 1:
                raise RegistryError(
                    f"{self._label}: {self.reference.path} has the name {candidate} twice; use a digest"
                )
            if matches:
                return next(iter(matches.values())).descriptor()
        return None


def _names(entries: list[DescriptorDocument]) -> list[str]:
    """Return the names of the entries, and then the digests of those without a name."""
    named = sorted(name for entry in entries if (name := _name(entry)))
    return named + [f"@{entry.digest}" for entry in entries if not _name(entry)]


def _name(entry: DescriptorDocument) -> str | None:
    return (entry.annotations or {}).get(REF_NAME)

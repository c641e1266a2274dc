"""An OCI image layout, as a directory or a tar archive, as a Source (OCI image spec, "Image Layout").

A reference NAME:TAG means the entry of index.json that is called, first match first,

    NAME:TAG    as it is written, with a registry's host if the entry has one
    NAME        where TAG is "latest"
    TAG         as oras and skopeo write it, in a layout for one repository; NAME is then free
"""

from contextlib import AbstractContextManager

from gateway.errors import NotFound, RegistryError
from gateway.oci.content import REF_NAME, BlobStream, Descriptor
from gateway.oci.documents import DescriptorDocument
from gateway.oci.layout_content import Blobs
from gateway.oci.layout_files import LayoutFiles
from gateway.oci.reference import Digest, LayoutReference

_NAMES_SHOWN = 20


class LayoutSource:
    """A reference's layout. Raises NotFound, or RegistryError for what is no layout."""

    def __init__(self, reference: LayoutReference) -> None:
        self.reference = reference
        self._blobs = Blobs(
            LayoutFiles(reference.path, str(reference)),
            str(reference),
            str(reference.path),
            "export it again",
        )

    def resolve(self) -> Descriptor:
        """Find the name in index.json; a digest needs only its blob, as its name may have moved on."""
        entries = self._blobs.index()
        if self.reference.digest is not None:
            return self._blobs.named(self.reference.digest, entries)
        tag = self.reference.label
        found = self._find(entries, tag)
        if found is None:
            raise NotFound(
                f"{self.reference}: {self.reference.path} has no {self.reference.name}:{tag}; "
                f"it has {listed(_names(entries))}"
            )
        return found

    def manifest(self, descriptor: Descriptor) -> bytes:
        """Read a manifest, and verify it."""
        return self._blobs.manifest(descriptor)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> AbstractContextManager[BlobStream]:
        """Read a blob from an offset on."""
        return self._blobs.blob(descriptor, offset)

    def tagged(self, tag: str) -> Descriptor | None:
        """Return what another tag of the same name means, by the same rule."""
        return self._find(self._blobs.index(), tag)

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the manifests of index.json that have this one as their subject."""
        return self._blobs.referrers(digest)

    def _find(self, entries: list[DescriptorDocument], tag: str) -> Descriptor | None:
        name = self.reference.name
        for wanted in (f"{name}:{tag}", name if tag == "latest" else None, tag):
            found = {entry.digest: entry for entry in entries if wanted and _name(entry) == wanted}
            if len(found) > 1:
                raise RegistryError(
                    f"{self.reference}: {self.reference.path} has the name {wanted} twice; use a digest"
                )
            if found:
                return next(iter(found.values())).descriptor()
        return None


def listed(names: list[str]) -> str:
    """Write names for an error, the first twenty of them."""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return (", ".join(names[:_NAMES_SHOWN]) or "nothing") + more


def _names(entries: list[DescriptorDocument]) -> list[str]:
    """What is there, for people: names, and then the digests of what has none."""
    named = sorted(name for entry in entries if (name := _name(entry)))
    return named + [f"@{entry.digest}" for entry in entries if not _name(entry)]


def _name(entry: DescriptorDocument) -> str | None:
    return (entry.annotations or {}).get(REF_NAME)

"""The index, manifests and blobs of an OCI image layout (OCI image spec, "Image Layout")."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.errors import DigestMismatch, NotFound, RegistryError, RegistryUnavailable, SizeMismatch
from gateway.oci.content import (
    MAX_MANIFEST,
    MAX_REFERRERS,
    OCI_INDEX,
    OCI_MANIFEST,
    BlobStream,
    Descriptor,
)
from gateway.oci.documents import DescriptorDocument, describe_errors, read_json
from gateway.oci.layout_files import Extent, Files
from gateway.oci.reference import Digest

MAX_ENTRIES = 10_000
"""How many manifests an index or a list of tags may have at most."""
_MAX_DOCUMENT = 4 * 1024 * 1024  # bytes
_MAX_SEARCHED = 64 * 1024 * 1024  # bytes of manifests read to find referrers


class _Layout(BaseModel):
    version: str = Field(alias="imageLayoutVersion", pattern=r"^1\.")


class _Index(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    manifests: list[DescriptorDocument] = Field(max_length=MAX_ENTRIES)


class _Referrer(BaseModel):
    """The members of a manifest that make it a referrer (OCI image spec, "Image Manifest")."""

    subject: DescriptorDocument | None = None
    artifact_type: str | None = Field(alias="artifactType", default=None)
    config: DescriptorDocument | None = None
    annotations: dict[str, str] | None = None


class LayoutContent:
    """The content of one layout.

    Each error names `label` (the reference that is read) and `location` (where the layout is), and ends with
    `advice` (what to do).
    """

    def __init__(self, files: Files, label: str, location: str, advice: str) -> None:
        self._files = files
        self._label = label
        self._location = location
        self._advice = advice

    def index(self) -> list[DescriptorDocument]:
        """Return the entries of index.json. Raises NotFound, or RegistryError where this is no layout."""
        try:
            _Layout.model_validate(read_json(self.document("oci-layout")))
            return _Index.model_validate(read_json(self.document("index.json"))).manifests
        except ValueError as error:
            raise self.unusable_error(error) from error

    def document(self, name: str) -> bytes:
        """Read a file of at most 4 MiB. Raises NotFound where it is missing, and RegistryError."""
        try:
            with self._files.open(name) as extent:
                if extent.size > _MAX_DOCUMENT:
                    raise self.unusable_error(f"{name} has {extent.size} bytes; 4 MiB are allowed")
                return extent.read()
        except OSError as error:
            reason = f"is no OCI image layout: {name}: {error.strerror or error}"
            if not os.path.lexists(self._location):
                reason = "does not exist"
            raise _error_type(error)(f"{self._label}: {self._location} {reason}") from error

    def unusable_error(self, reason: object) -> RegistryError:
        """Return the error for a layout whose documents cannot be used."""
        reason = describe_errors(reason) if isinstance(reason, ValidationError) else reason
        return RegistryError(
            f"{self._label}: {self._location} is no usable OCI image layout ({reason}); {self._advice}"
        )

    def describe(self, digest: Digest, entries: list[DescriptorDocument]) -> Descriptor:
        """Return the descriptor of a manifest; `entries` may state its media type. Raises NotFound."""
        media_type = next((entry.media_type for entry in entries if entry.digest == digest), OCI_MANIFEST)
        with self._open(digest) as extent:
            return Descriptor(media_type, digest, extent.size)

    def manifest(self, descriptor: Descriptor) -> bytes:
        """Read a manifest, and verify it. Raises NotFound, SizeMismatch, DigestMismatch."""
        with self._open(descriptor.digest) as extent:
            if extent.size != descriptor.size or extent.size > MAX_MANIFEST:
                raise SizeMismatch(
                    f"{self._label}: manifest {descriptor.digest} should have {descriptor.size} bytes, "
                    f"at most 4 MiB, and has {extent.size}; {self._advice}"
                )
            data = b"".join(self._chunks(extent, 0))
        if Digest.of(data) != descriptor.digest:
            raise DigestMismatch(
                f"{self._label}: the manifest stored as {descriptor.digest} has the digest "
                f"{Digest.of(data)}; {self._advice}"
            )
        return data

    @contextmanager
    def blob(self, descriptor: Descriptor, offset: int) -> Iterator[BlobStream]:
        """Open a blob at an offset. Entering raises NotFound; the stream raises RegistryUnavailable."""
        with self._open(descriptor.digest) as extent:
            yield BlobStream(offset, self._chunks(extent, offset))

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the manifests of index.json whose subject is this one, as a registry would.

        Entries whose manifest is missing are skipped. Raises RegistryError where there is too much to
        search, and DigestMismatch or SizeMismatch for a damaged manifest.
        """
        referrers: list[Descriptor] = []
        searched = 0
        for entry in {entry.digest: entry for entry in self.index()}.values():
            if entry.media_type not in (OCI_MANIFEST, OCI_INDEX) or entry.size > MAX_MANIFEST:
                continue
            searched += entry.size
            if searched > _MAX_SEARCHED:
                raise self.unusable_error(f"it has more than {_MAX_SEARCHED} bytes of manifests to search")
            referrer = self._referrer(entry, digest)
            if referrer is not None:
                referrers.append(referrer)
            if len(referrers) == MAX_REFERRERS:
                break
        return tuple(referrers)

    def _referrer(self, entry: DescriptorDocument, digest: Digest) -> Descriptor | None:
        try:
            manifest = _Referrer.model_validate(read_json(self.manifest(entry.descriptor())))
        except (NotFound, ValueError):
            return None
        if manifest.subject is None or manifest.subject.digest != digest:
            return None
        artifact_type = manifest.artifact_type or (manifest.config.media_type if manifest.config else None)
        return Descriptor(
            entry.media_type, entry.digest, entry.size, manifest.annotations or {}, artifact_type
        )

    def _chunks(self, extent: Extent, offset: int) -> Iterator[bytes]:
        try:
            yield from extent.chunks(offset)
        except OSError as error:
            raise RegistryUnavailable(f"{self._label}: reading {self._location} failed: {error}") from error

    def _open(self, digest: Digest) -> Extent:
        try:
            return self._files.open(f"blobs/{digest.algorithm}/{digest.hex}")
        except OSError as error:
            raise _error_type(error)(
                f"{self._label}: {self._location} lacks blob {digest} ({error.strerror or error}); "
                f"{self._advice}"
            ) from error


def _error_type(error: OSError) -> type[RegistryError]:
    return NotFound if isinstance(error, FileNotFoundError | NotADirectoryError) else RegistryError

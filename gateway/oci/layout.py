"""An OCI image layout directory as a Source (OCI image spec, "Image Layout")."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, Field

from gateway.errors import DigestMismatch, NotFound, RegistryError, RegistryUnavailable, SizeMismatch
from gateway.oci.content import CHUNK, MAX_MANIFEST, OCI_MANIFEST, BlobStream, Descriptor
from gateway.oci.documents import DescriptorDocument, read_json
from gateway.oci.reference import Digest, LayoutReference

_REF_NAME = "org.opencontainers.image.ref.name"
_NAMES_SHOWN = 20


class _Layout(BaseModel):
    version: str = Field(alias="imageLayoutVersion", pattern=r"^1\.")


class _Index(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    manifests: list[DescriptorDocument]


class LayoutSource:
    """A reference's layout directory. Raises NotFound, or RegistryError for what is no layout."""

    def __init__(self, reference: LayoutReference) -> None:
        self.reference = reference
        self._directory = reference.directory

    def resolve(self) -> Descriptor:
        """Find the name in index.json; a digest needs only its blob, as its name may have moved on."""
        try:
            _Layout.model_validate(read_json(self._read("oci-layout")))
            index = _Index.model_validate(read_json(self._read("index.json")))
        except ValueError as error:
            raise RegistryError(
                f"{self.reference}: {self._directory} is no usable OCI image layout ({error}); "
                "export it again"
            ) from error
        digest = self.reference.digest
        if digest is not None:
            types = (entry.media_type for entry in index.manifests if entry.digest == digest)
            return Descriptor(next(types, OCI_MANIFEST), digest, self._size(digest))
        name = f"{self.reference.name}:{self.reference.tag}"
        found = {entry.digest: entry for entry in index.manifests if _name(entry) == name}
        if len(found) > 1:
            raise RegistryError(
                f"{self.reference}: {self._directory} has the name {name} twice; use a digest"
            )
        if not found:
            names = sorted(filter(None, map(_name, index.manifests)))
            more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
            raise NotFound(
                f"{self.reference}: {self._directory} has no {name}; "
                f"it has {', '.join(names[:_NAMES_SHOWN]) or 'no names'}{more}"
            )
        return next(iter(found.values())).descriptor()

    def manifest(self, descriptor: Descriptor) -> bytes:
        """Read a manifest, and verify it."""
        with self._open(descriptor.digest) as file:
            data = file.read(min(descriptor.size, MAX_MANIFEST) + 1)
        if len(data) != descriptor.size:
            raise SizeMismatch(
                f"{self.reference}: manifest {descriptor.digest} was to have {descriptor.size} bytes, "
                "at most 4 MiB, and has another size; export the layout again"
            )
        if Digest.of(data) != descriptor.digest:
            raise DigestMismatch(
                f"{self.reference}: the manifest stored as {descriptor.digest} has the digest "
                f"{Digest.of(data)}; export the layout again"
            )
        return data

    @contextmanager
    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[BlobStream]:
        """Read a blob from an offset on."""
        with self._open(descriptor.digest) as file:
            file.seek(offset)
            yield BlobStream(offset, self._chunks(file))

    def tagged(self, tag: str) -> Descriptor | None:
        """Return what another tag of the same repository names."""
        raise NotImplementedError

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the manifests that have this one as their subject."""
        raise NotImplementedError

    def _chunks(self, file: BinaryIO) -> Iterator[bytes]:
        try:
            while chunk := file.read(CHUNK):
                yield chunk
        except OSError as error:
            raise RegistryUnavailable(
                f"{self.reference}: reading {self._directory} failed: {error}"
            ) from error

    def _path(self, digest: Digest) -> Path:
        return self._directory / "blobs" / digest.algorithm / digest.hex

    def _size(self, digest: Digest) -> int:
        with self._open(digest) as file:
            return file.seek(0, 2)

    def _open(self, digest: Digest) -> BinaryIO:
        try:
            return self._path(digest).open("rb")
        except OSError as error:
            raise NotFound(
                f"{self.reference}: {self._directory} lacks blob {digest} ({error.strerror}); export it again"
            ) from error

    def _read(self, name: str) -> bytes:
        try:
            return (self._directory / name).read_bytes()
        except OSError as error:
            raise NotFound(
                f"{self.reference}: {self._directory} is no OCI image layout: {name}: {error.strerror}"
            ) from error


def _name(entry: DescriptorDocument) -> str | None:
    return (entry.annotations or {}).get(_REF_NAME)

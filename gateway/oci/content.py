"""Descriptors of content, and the interface of every source that has it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from gateway.oci.reference import Digest, Reference

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
# The annotation that names a manifest in a layout's index (OCI image spec, "Pre-Defined Annotation Keys").
REF_NAME = "org.opencontainers.image.ref.name"
# Registries should take manifests of up to 4 MiB (OCI distribution spec); real ones are far smaller.
MAX_MANIFEST = 4 * 1024 * 1024
CHUNK = 1024 * 1024
# More than any kit has signatures; bounds the work that a registry can cause.
MAX_REFERRERS = 64


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The type, digest and size in bytes of some content (OCI image spec, "Descriptors")."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    artifact_type: str | None = None


@dataclass(frozen=True, slots=True)
class BlobStream:
    """Bytes of a blob from `start` on: the offset requested, or 0 where the source cannot skip.

    A reader that finds wrong bytes calls `reject`, which returns True where the source can get the blob from
    another place: then reading it once more, from offset 0, may help.
    """

    start: int
    chunks: Iterator[bytes]
    reject: Callable[[], bool] = lambda: False


class Source(Protocol):
    """Where the content of one reference comes from; several threads may use one at the same time."""

    @property
    def reference(self) -> Reference:
        """The reference that the source was opened for; errors name it."""

    def resolve(self) -> Descriptor:
        """Return the descriptor of the manifest that the reference names now.

        Raises NotFound, Unauthorized, RegistryUnavailable.
        """

    def manifest(self, descriptor: Descriptor) -> bytes:
        """Return a whole manifest of at most 4 MiB, its size and digest verified.

        Raises DigestMismatch and SizeMismatch, and what `resolve` raises.
        """

    def blob(self, descriptor: Descriptor, offset: int = 0) -> AbstractContextManager[BlobStream]:
        """Open a blob at a byte offset; the stream is not verified, and may be longer than it should.

        Entering raises what `resolve` raises; a stream that breaks raises RegistryUnavailable.
        """

    def resolve_tag(self, tag: str) -> Descriptor | None:
        """Return the manifest that another tag of the same repository points to; None where there is none.

        Raises Unauthorized, RegistryUnavailable.
        """

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the manifests whose `subject` is this one (OCI distribution spec, "Listing Referrers").

        At most MAX_REFERRERS, in the order of the source. Raises Unauthorized, RegistryUnavailable.
        """

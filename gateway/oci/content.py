"""Content by descriptor, and the one interface behind which every place that has content stands."""

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
# Registries should take manifests of up to 4 MiB (OCI distribution spec); nothing honest is larger.
MAX_MANIFEST = 4 * 1024 * 1024
CHUNK = 1024 * 1024
# Nobody signs one kit so often; a registry that says so is not to keep us busy.
MAX_REFERRERS = 64


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What some content is and how it is verified; `size` in bytes (OCI image spec, "Descriptors")."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    artifact_type: str | None = None


@dataclass(frozen=True, slots=True)
class BlobStream:
    """Bytes of a blob from `start` on: the offset asked for, or 0 where the source cannot skip.

    Who finds that the blob is not what it should be calls `reject`, which returns whether the source has
    it from elsewhere, too: then it is worth another try, from offset 0.
    """

    start: int
    chunks: Iterator[bytes]
    reject: Callable[[], bool] = lambda: False


class Source(Protocol):
    """Where one reference's content can be had; several threads may use one at the same time."""

    @property
    def reference(self) -> Reference:
        """The reference this was opened for; errors name it."""

    def resolve(self) -> Descriptor:
        """Return the descriptor of the manifest that the reference names now.

        Raises NotFound, Unauthorized, RegistryUnavailable.
        """

    def manifest(self, descriptor: Descriptor) -> bytes:
        """Return a whole manifest of at most 4 MiB, its size and digest verified.

        Raises DigestMismatch and SizeMismatch, and what `resolve` raises.
        """

    def blob(self, descriptor: Descriptor, offset: int = 0) -> AbstractContextManager[BlobStream]:
        """Open a blob at a byte offset; not verified here, and cut at no size.

        Entering raises what `resolve` raises; a stream that breaks raises RegistryUnavailable.
        """

    def tagged(self, tag: str) -> Descriptor | None:
        """Return the manifest that another tag of the same repository names; None where there is none.

        Raises Unauthorized, RegistryUnavailable.
        """

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the manifests whose `subject` is this one (OCI distribution spec, "Listing Referrers").

        At most MAX_REFERRERS, in the source's order; none where the source knows of none. Raises
        Unauthorized, RegistryUnavailable.
        """

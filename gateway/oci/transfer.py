"""One blob on its way from a source into a file: verified, and continued where a stream breaks off."""

import hashlib
from collections.abc import Callable
from typing import BinaryIO

from gateway.errors import ContentError, DigestMismatch, RegistryUnavailable, SizeMismatch
from gateway.oci.content import CHUNK, BlobStream, Descriptor, Source
from gateway.oci.reference import Digest

_CUTS = 3  # broken streams in a row that brought next to nothing
_PROGRESS = 64 * 1024  # bytes that are more than that

Arrived = Callable[[int], None]
"""Told the number of bytes of each piece that arrives from a source; what it raises ends the transfer."""


class Arriving:
    """A blob's bytes so far: in a file, counted and hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hasher = hashlib.sha256()
        self.size = 0
        file.seek(0)
        while chunk := file.read(CHUNK):
            self._hasher.update(chunk)
            self.size += len(chunk)

    def is_whole(self, descriptor: Descriptor, source: Source) -> bool:
        """Tell whether all is here; raises DigestMismatch when it is, and is not what it should be."""
        if self.size < descriptor.size:
            return False
        found = Digest("sha256", self._hasher.hexdigest())
        if found != descriptor.digest or self.size > descriptor.size:
            raise DigestMismatch(
                f"{source.reference}: the bytes sent for blob {descriptor.digest} have the digest {found}; "
                "push the kit again"
            )
        return True

    def write(self, chunk: bytes) -> None:
        """Add what arrived. Raises OSError."""
        written = self._file.write(chunk)
        self._hasher.update(chunk)
        self.size += len(chunk)
        # An unbuffered file may take less than all, as when the disk fills up.
        while written < len(chunk):
            written += self._file.write(memoryview(chunk)[written:])

    def restart(self) -> None:
        """Forget all that arrived."""
        self._file.seek(0)
        self._file.truncate()
        self._hasher = hashlib.sha256()
        self.size = 0


def receive(descriptor: Descriptor, source: Source, arriving: Arriving, arrived: Arrived) -> None:
    """Read a blob to its end and verify it, over as many streams as it takes while each brings something.

    Wrong bytes are read again from the beginning where there is hope: the source has them elsewhere, too, or
    some were left by an earlier transfer. Raises DigestMismatch, SizeMismatch, RegistryUnavailable, OSError,
    and what the source or `arrived` raises.
    """
    what = f"{source.reference}: blob {descriptor.digest} of {descriptor.size} bytes"
    resumed = arriving.size > 0
    reject: Callable[[], bool] = bool
    cuts = 0
    while True:
        try:
            if arriving.is_whole(descriptor, source):
                return
            before = arriving.size
            with source.blob(descriptor, before) as stream:
                reject = stream.reject
                broken = _take(stream, descriptor, arriving, arrived, what)
            if broken is not None:
                cuts = 0 if arriving.size - before >= _PROGRESS else cuts + 1
                if cuts == _CUTS:
                    raise RegistryUnavailable(
                        f"{what} broke off {cuts} times at byte {arriving.size}, which are kept; "
                        f"try again ({broken})"
                    ) from broken
            elif arriving.size < descriptor.size:
                raise SizeMismatch(f"{what} ended after {arriving.size}; push the kit again")
        except ContentError:
            if not reject() and not resumed:
                raise
            resumed = False
            arriving.restart()


def _take(
    stream: BlobStream, descriptor: Descriptor, arriving: Arriving, arrived: Arrived, what: str
) -> RegistryUnavailable | None:
    """Read a stream to its end; returns what broke it off."""
    if stream.start != arriving.size:
        arriving.restart()
    try:
        for chunk in stream.chunks:
            if arriving.size + len(chunk) > descriptor.size:
                raise SizeMismatch(f"{what} is sent with more; push the kit again")
            arriving.write(chunk)
            arrived(len(chunk))
    except RegistryUnavailable as error:
        return error
    return None

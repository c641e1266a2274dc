"""The transfer of one blob from a source into a file: verified, and resumed where a stream breaks off."""

import hashlib
from collections.abc import Callable
from typing import BinaryIO

from gateway.errors import ContentError, DigestMismatch, RegistryUnavailable, SizeMismatch
from gateway.oci.content import CHUNK, BlobStream, Descriptor, Source
from gateway.oci.reference import Digest

_MAX_BREAKS = 3  # streams in a row that broke off without progress
_PROGRESS = 64 * 1024  # bytes of a stream that count as progress

OnReceived = Callable[[int], None]
"""Called with the number of bytes of each chunk from a source; what it raises ends the transfer."""


class PartialBlob:
    """The bytes of a blob that have arrived so far, in a file; counted and hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hasher = hashlib.sha256()
        self.size = 0
        file.seek(0)
        while chunk := file.read(CHUNK):
            self._hasher.update(chunk)
            self.size += len(chunk)

    def is_whole(self, descriptor: Descriptor, source: Source) -> bool:
        """Tell whether all bytes have arrived. Raises DigestMismatch when they have, and are wrong."""
        if self.size < descriptor.size:
            return False
        digest = Digest("sha256", self._hasher.hexdigest())
        if digest != descriptor.digest or self.size > descriptor.size:
            raise DigestMismatch(
                f"{source.reference}: the bytes sent for blob {descriptor.digest} have the digest {digest}; "
                "push the kit again"
            )
        return True

    def write(self, chunk: bytes) -> None:
        """Append a chunk. Raises OSError."""
        written = self._file.write(chunk)
        self._hasher.update(chunk)
        self.size += len(chunk)
        # An unbuffered file may write less than all, as when the disk fills up.
        while written < len(chunk):
            written += self._file.write(memoryview(chunk)[written:])

    def restart(self) -> None:
        """Remove everything that has arrived."""
        self._file.seek(0)
        self._file.truncate()
        self._hasher = hashlib.sha256()
        self.size = 0


def receive(descriptor: Descriptor, source: Source, partial: PartialBlob, on_received: OnReceived) -> None:
    """Read a blob to its end and verify it, over as many streams as it takes while there is progress.

    Wrong bytes are read again from the beginning where the source can get them from another place, or where
    some are from an earlier transfer. Raises DigestMismatch, SizeMismatch, RegistryUnavailable, OSError, and
    what the source or `on_received` raises.
    """
    label = f"{source.reference}: blob {descriptor.digest} of {descriptor.size} bytes"
    resumed = partial.size > 0
    reject: Callable[[], bool] = bool
    breaks = 0
    while True:
        try:
            if partial.is_whole(descriptor, source):
                return
            before = partial.size
            with source.blob(descriptor, before) as stream:
                reject = stream.reject
                break_error = _append(stream, descriptor, partial, on_received, label)
            if break_error is not None:
                breaks = 0 if partial.size - before >= _PROGRESS else breaks + 1
                if breaks == _MAX_BREAKS:
                    raise RegistryUnavailable(
                        f"{label} broke off {breaks} times, after {partial.size} bytes, which are kept; "
                        f"try again ({break_error})"
                    ) from break_error
            elif partial.size < descriptor.size:
                raise SizeMismatch(f"{label} ended after {partial.size} bytes; push the kit again")
        except ContentError:
            if not reject() and not resumed:
                raise
            resumed = False
            partial.restart()


def _append(
    stream: BlobStream, descriptor: Descriptor, partial: PartialBlob, on_received: OnReceived, label: str
) -> RegistryUnavailable | None:
    """Read a stream to its end; return the error that broke it off."""
    if stream.start != partial.size:
        partial.restart()
    try:
        for chunk in stream.chunks:
            if partial.size + len(chunk) > descriptor.size:
                raise SizeMismatch(f"{label} is sent with more bytes; push the kit again")
            partial.write(chunk)
            on_received(len(chunk))
    except RegistryUnavailable as error:
        return error
    return None

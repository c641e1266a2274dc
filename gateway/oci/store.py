"""The content-addressed store of one node, shared by all its processes.

blobs/sha256/HEX    whole, verified content, mode 0444; a file is here only if it was both
ingest/HEX          what has arrived of a blob so far
locks/NAME          file locks, one for each digest or kit being worked on
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import filelock

from gateway.errors import ContentError, DigestMismatch, RegistryUnavailable, SizeMismatch, StoreError
from gateway.oci.content import CHUNK, Descriptor, Source
from gateway.oci.files import sync_directory
from gateway.oci.reference import Digest

_CUTS = 3  # broken streams in a row that brought nothing
_LOCK_WAIT = 3600.0  # seconds that another process may take for one blob or kit

Arrived = Callable[[int], None]
"""Told the number of bytes of each piece that arrives from a source."""


class Store:
    """Blobs under `root`. Raises StoreError when that cannot be made or written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._ingest = root / "ingest"
        self._locks = root / "locks"
        with self.writing():
            for directory in (self._blobs, self._ingest, self._locks):
                directory.mkdir(parents=True, exist_ok=True)

    def path(self, digest: Digest) -> Path:
        """Return where a blob is, or would be."""
        return self._blobs / digest.hex

    def has(self, digest: Digest) -> bool:
        """Tell whether a blob is here; its bytes are not looked at."""
        return self.path(digest).is_file()

    def read(self, digest: Digest) -> bytes | None:
        """Return a small blob, verified; None when it is not here. A damaged one is removed."""
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError:
            return None
        if Digest.of(data) == digest:
            return data
        self.discard(digest)
        return None

    def put(self, data: bytes) -> Digest:
        """Keep some bytes, such as a manifest, as a blob."""
        digest = Digest.of(data)
        with self.lock(digest.hex), self.writing(len(data)):
            if not self.has(digest):
                partial = self._ingest / digest.hex
                with partial.open("wb") as file:
                    file.write(data)
                    self._commit(file, digest)
        return digest

    def fetch(self, descriptor: Descriptor, source: Source, arrived: Arrived = lambda _: None) -> Path:
        """Return the path of a blob, fetched from the source if it is not here.

        A blob that another process is fetching is waited for. What is left of an interrupted fetch is
        continued. Raises DigestMismatch or SizeMismatch for wrong bytes (they are removed),
        RegistryUnavailable when the stream broke three times without a byte (they are kept), StoreError,
        and what the source raises.
        """
        with self.lock(descriptor.digest.hex):
            path = self.path(descriptor.digest)
            if self.has(descriptor.digest) and path.stat().st_size != descriptor.size:
                self.discard(descriptor.digest)
            if not self.has(descriptor.digest):
                self._download(descriptor, source, arrived)
            return path

    def sound(self, digest: Digest) -> bool:
        """Read a blob through; a damaged one is removed, and False is returned for it."""
        hasher = hashlib.sha256()
        try:
            with self.path(digest).open("rb") as file:
                while chunk := file.read(CHUNK):
                    hasher.update(chunk)
        except FileNotFoundError:
            return False
        if hasher.hexdigest() == digest.hex:
            return True
        self.discard(digest)
        return False

    def discard(self, digest: Digest) -> None:
        """Remove a blob if it is here."""
        with self.writing():
            self.path(digest).unlink(missing_ok=True)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Keep every other process and thread of this node out of the same name."""
        lock = filelock.FileLock(self._locks / f"{name}.lock", timeout=_LOCK_WAIT)
        with self.writing():
            try:
                lock.acquire()
            except filelock.Timeout as error:
                raise StoreError(
                    f"{lock.lock_file} has been held for an hour; end the process that holds it"
                ) from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def writing(self, needed: int = 0) -> Iterator[None]:
        """Turn the operating system's faults into StoreError; `needed` bytes are to be written."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full(needed) from error
            raise StoreError(
                f"the store {self.root} cannot be used: {error}; check its disk and owner"
            ) from error

    def _download(self, descriptor: Descriptor, source: Source, arrived: Arrived) -> None:
        path = self._ingest / descriptor.digest.hex
        with self.writing(descriptor.size), path.open("a+b") as file:
            arriving = _Arriving(file)
            try:
                self._check_space(descriptor.size - arriving.size)
                _receive(descriptor, source, arriving, arrived)
                if arriving.digest != descriptor.digest:
                    raise DigestMismatch(
                        f"{source.reference}: the bytes sent for blob {descriptor.digest} have the digest "
                        f"{arriving.digest}; push the kit again"
                    )
            except (ContentError, StoreError, OSError):
                path.unlink(missing_ok=True)
                raise
            self._commit(file, descriptor.digest)

    def _commit(self, file: BinaryIO, digest: Digest) -> None:
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o444)
        Path(file.name).replace(self.path(digest))
        sync_directory(self._blobs)

    def _check_space(self, needed: int) -> None:
        if shutil.disk_usage(self.root).free < needed:
            raise self._full(needed)

    def _full(self, needed: int) -> StoreError:
        free = shutil.disk_usage(self.root).free
        return StoreError(
            f"the store {self.root} is full: {needed} bytes are needed and {free} are free; make room there"
        )


class _Arriving:
    """A blob's bytes so far: in a file, counted and hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hasher = hashlib.sha256()
        self.size = 0
        file.seek(0)
        while chunk := file.read(CHUNK):
            self._hasher.update(chunk)
            self.size += len(chunk)

    @property
    def digest(self) -> Digest:
        return Digest("sha256", self._hasher.hexdigest())

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._hasher.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._hasher = hashlib.sha256()
        self.size = 0


def _receive(descriptor: Descriptor, source: Source, arriving: _Arriving, arrived: Arrived) -> None:
    """Read a blob to its end, over as many streams as it takes while each brings something."""
    what = f"{source.reference}: blob {descriptor.digest} of {descriptor.size} bytes"
    if arriving.size > descriptor.size:
        arriving.restart()
    cuts = 0
    while arriving.size < descriptor.size:
        before = arriving.size
        with source.blob(descriptor, before) as stream:
            if stream.start != before:
                arriving.restart()
            try:
                for chunk in stream.chunks:
                    if arriving.size + len(chunk) > descriptor.size:
                        raise SizeMismatch(f"{what} is sent with more; push the kit again")
                    arriving.write(chunk)
                    arrived(len(chunk))
            except RegistryUnavailable as error:
                cuts = 0 if arriving.size > before else cuts + 1
                if cuts == _CUTS:
                    raise RegistryUnavailable(
                        f"{what} broke off {cuts} times at byte {arriving.size}, which are kept; "
                        f"try again ({error})"
                    ) from error
            else:
                if arriving.size < descriptor.size:
                    raise SizeMismatch(f"{what} ended after {arriving.size}; push the kit again")

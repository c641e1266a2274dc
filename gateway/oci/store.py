"""The content-addressed store of one node, shared by all its processes.

oci-layout, index.json   the store is an OCI image layout; the index names what is wanted of it
blobs/sha256/HEX         whole, verified content, mode 0444; a file is here only if it was both
ingest/HEX               what has arrived of a blob so far
locks/NAME               file locks, one for each digest or kit being worked on
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import filelock

from gateway.errors import (
    ContentError,
    InvalidReference,
    SizeMismatch,
    StoreError,
)
from gateway.oci.content import MAX_MANIFEST, OCI_INDEX, REF_NAME, Descriptor, Source
from gateway.oci.files import replace_file
from gateway.oci.reference import Digest
from gateway.oci.transfer import Arrived, Arriving, receive

LOCK_WAIT = 24 * 3600.0
"""Seconds that another process may take for one blob or kit: more than a pull does."""


class Store:
    """Blobs under `root`. Raises StoreError when that cannot be made or written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._ingest = root / "ingest"
        self.locks = root / "locks"
        with self.writing():
            for directory in (self._blobs, self._ingest, self.locks):
                directory.mkdir(parents=True, exist_ok=True)
            if not (root / "index.json").exists():
                with self.lock("index"):
                    if not (root / "index.json").exists():
                        self.name(())

    def path(self, digest: Digest) -> Path:
        """Return where a blob is, or would be."""
        return self._blobs / digest.hex

    def has(self, digest: Digest) -> bool:
        """Tell whether a blob is here; its bytes are not looked at."""
        return self.path(digest).is_file()

    def blobs(self) -> dict[Digest, int]:
        """Return every blob that is here, with its size in bytes."""
        with self.writing():
            return _sizes(self._blobs)

    def read(self, digest: Digest) -> bytes | None:
        """Return a document, verified; None when it is not here, or is too large for one.

        A damaged one is removed.
        """
        with self.writing():
            try:
                with self.path(digest).open("rb") as file:
                    data = file.read(MAX_MANIFEST + 1)
            except FileNotFoundError:
                return None
        if len(data) > MAX_MANIFEST:
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
                with self._partial(digest).open("wb") as file:
                    file.write(data)
                    self._commit(file, digest)
        return digest

    def fetch(
        self, descriptor: Descriptor, source: Source, arrived: Arrived = lambda _: None
    ) -> tuple[BinaryIO, bool]:
        """Return a blob, open for reading, and whether it was fetched, and so verified, just now.

        A blob that is here already is not looked at. One that another process is fetching is waited for.
        What is left of an interrupted fetch is continued. Raises DigestMismatch or SizeMismatch for wrong
        bytes (they are removed) or a wrong promise, RegistryUnavailable when three streams broke that had
        brought next to nothing (it is kept), StoreError, and what the source or `arrived` raises.
        """
        with self.lock(descriptor.digest.hex), self.writing(descriptor.size):
            here = self._opened(descriptor, source)
            if here is not None:
                return here, False
            return self._download(descriptor, source, arrived), True

    def sound(self, digest: Digest) -> bool:
        """Read a blob through; a damaged one is removed, and False is returned for it."""
        with self.writing():
            try:
                with self.path(digest).open("rb") as file:
                    whole = hashlib.file_digest(file, "sha256").hexdigest() == digest.hex
            except FileNotFoundError:
                return False
        if not whole:
            self.discard(digest)
        return whole

    def discard(self, digest: Digest) -> None:
        """Remove a blob if it is here."""
        with self.writing():
            self.path(digest).unlink(missing_ok=True)

    def discard_partial(self, digest: Digest) -> None:
        """Remove what has arrived of a blob, unless someone is at it."""
        with self.writing():
            lock = filelock.FileLock(self.locks / f"{digest.hex}.lock", blocking=False)
            try:
                with lock:
                    (self._ingest / digest.hex).unlink(missing_ok=True)
            except filelock.Timeout:
                return

    def partials(self) -> dict[Digest, int]:
        """Return the blobs that have arrived in part, with the bytes there are."""
        with self.writing():
            return _sizes(self._ingest)

    def name(self, named: Iterable[tuple[Descriptor, str | None]]) -> None:
        """Write the layout's index: manifests with their names (OCI image spec, "Image Layout")."""
        manifests = [
            {
                "mediaType": descriptor.media_type,
                "digest": str(descriptor.digest),
                "size": descriptor.size,
                **({"annotations": {REF_NAME: name}} if name else {}),
            }
            for descriptor, name in named
        ]
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
        with self.writing():
            replace_file(self.root / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            replace_file(self.root / "index.json", json.dumps(index, indent=1).encode())

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Keep every other process and thread of this node out of the same name."""
        lock = filelock.FileLock(self.locks / f"{name}.lock", timeout=LOCK_WAIT)
        with self.writing():
            try:
                lock.acquire()
            except filelock.Timeout as error:
                raise StoreError(
                    f"{lock.lock_file} has been held for a day; end the process that holds it"
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
                raise self.full(needed) from error
            raise StoreError(
                f"the store {self.root} cannot be used: {error}; check its disk and owner"
            ) from error

    @property
    def free(self) -> int:
        """Bytes that can still be written."""
        with self.writing():
            return shutil.disk_usage(self.root).free

    def full(self, needed: int) -> StoreError:
        """Return the error that says so."""
        return StoreError(
            f"the store {self.root} is full: {needed} bytes are needed and {self.free} are free; make room "
            "there, or with `kitserve cache prune`"
        )

    def _opened(self, descriptor: Descriptor, source: Source) -> BinaryIO | None:
        """Open a blob if it is here; one of another size than promised is removed only if it is damaged."""
        try:
            file = self.path(descriptor.digest).open("rb")
        except FileNotFoundError:
            return None
        size = os.fstat(file.fileno()).st_size
        if size == descriptor.size:
            return file
        file.close()
        if self.sound(descriptor.digest):
            raise SizeMismatch(
                f"{source.reference}: {descriptor.size} bytes are promised of blob {descriptor.digest}, "
                f"which has {size}; push the kit again"
            )
        return None

    def _partial(self, digest: Digest) -> Path:
        """Return the file that a blob arrives in; a process that died as it was whole left it read-only."""
        path = self._ingest / digest.hex
        with suppress(FileNotFoundError):
            path.chmod(0o644)
        return path

    def _download(self, descriptor: Descriptor, source: Source, arrived: Arrived) -> BinaryIO:
        path = self._partial(descriptor.digest)
        with path.open("a+b", buffering=0) as file:
            arriving = Arriving(file)
            try:
                if self.free < descriptor.size - arriving.size:
                    raise self.full(descriptor.size - arriving.size)
                receive(descriptor, source, arriving, arrived)
            except (ContentError, StoreError, OSError):
                path.unlink(missing_ok=True)
                raise
            # Opened before anyone else sees it: whoever removes the blob takes nothing from the reader.
            opened = path.open("rb")
            self._commit(file, descriptor.digest)
            return opened

    def _commit(self, file: BinaryIO, digest: Digest) -> None:
        # Not forced to disk: a blob that a power cut spoilt is found by whoever reads it, as each verifies.
        file.flush()
        os.fchmod(file.fileno(), 0o444)
        Path(file.name).replace(self.path(digest))


def _sizes(directory: Path) -> dict[Digest, int]:
    """Return the files of a directory that are named as digests, with their sizes."""
    found = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            # Another process may have removed it since it was listed; and not every name is ours.
            with suppress(FileNotFoundError, InvalidReference):
                found[Digest("sha256", entry.name)] = entry.stat().st_size
    return found

"""The content-addressed store of one node, shared by all its processes.

oci-layout, index.json   the store is an OCI image layout; its index lists the kits of the node
blobs/sha256/HEX         whole, verified content, mode 0444; nothing else is ever put here
ingest/HEX               the part of a blob that has arrived so far
locks/NAME               file locks, one for each digest or kit that is worked on
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
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
from gateway.oci.leases import lock_holder
from gateway.oci.reference import Digest
from gateway.oci.transfer import OnReceived, PartialBlob, receive

LOCK_WAIT = 24 * 3600.0
"""Seconds that another process may hold the lock on a blob or kit: more than any pull takes."""
_SILENT_WAIT = 3.0
"""Seconds after which it is told what is waited for."""

log = logging.getLogger(__name__)


class Store:
    """The store under `root`. Raises StoreError where its disk fails.

    `on_wait` is told what is waited for, where another process holds a lock for long.
    """

    def __init__(self, root: Path, on_wait: Callable[[str], None] = lambda _: None) -> None:
        self.root = root
        self._on_wait = on_wait
        self._blobs = root / "blobs" / "sha256"
        self._ingest = root / "ingest"
        self.locks = root / "locks"
        with self.disk_errors():
            for directory in (self._blobs, self._ingest, self.locks):
                directory.mkdir(parents=True, exist_ok=True)
            if not (root / "index.json").exists():
                with self.lock("index"):
                    if not (root / "index.json").exists():
                        self.write_index(())

    def path(self, digest: Digest) -> Path:
        """Return the path of a blob, whether it is here or not."""
        return self._blobs / digest.hex

    def has(self, digest: Digest) -> bool:
        """Tell whether a blob is here; its bytes are not read."""
        return self.path(digest).is_file()

    def blobs(self) -> dict[Digest, int]:
        """Return every blob that is here, with its size in bytes."""
        with self.disk_errors():
            return _sizes(self._blobs)

    def read(self, digest: Digest) -> bytes | None:
        """Return a document, such as a manifest, verified; None where it is not here, or larger than 4 MiB.

        A damaged one is removed.
        """
        with self.disk_errors():
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
        """Store bytes, such as a manifest, as a blob, and return their digest."""
        digest = Digest.of(data)
        with self.lock(digest.hex), self.disk_errors(len(data)):
            if not self.has(digest):
                with self._partial(digest).open("wb") as file:
                    file.write(data)
                    self._commit(file, digest)
        return digest

    def fetch(
        self, descriptor: Descriptor, source: Source, on_received: OnReceived = lambda _: None
    ) -> tuple[BinaryIO, bool]:
        """Return a blob, open for reading, and whether it was fetched, and so verified, just now.

        A blob that is here already is not read. Where another process is fetching the blob, this waits for
        it. An interrupted fetch is resumed. Raises DigestMismatch or SizeMismatch for wrong bytes (which are
        removed) or a wrong descriptor, RegistryUnavailable after three streams that broke off without
        progress (their bytes are kept), StoreError, and what the source or `on_received` raises.
        """
        with self.lock(descriptor.digest.hex), self.disk_errors(descriptor.size):
            file = self._open(descriptor, source)
            if file is not None:
                return file, False
            return self._download(descriptor, source, on_received), True

    def verify(self, digest: Digest) -> bool:
        """Read a whole blob and tell whether it has its digest; a damaged one is removed."""
        with self.disk_errors():
            try:
                with self.path(digest).open("rb") as file:
                    is_intact = hashlib.file_digest(file, "sha256").hexdigest() == digest.hex
            except FileNotFoundError:
                return False
        if not is_intact:
            self.discard(digest)
        return is_intact

    def discard(self, digest: Digest) -> None:
        """Remove a blob if it is here."""
        with self.disk_errors():
            self.path(digest).unlink(missing_ok=True)

    def discard_partial(self, digest: Digest) -> None:
        """Remove what has arrived of a blob, unless it is being fetched."""
        with self.disk_errors():
            lock = filelock.FileLock(self.locks / f"{digest.hex}.lock", blocking=False)
            try:
                with lock:
                    (self._ingest / digest.hex).unlink(missing_ok=True)
            except filelock.Timeout:
                return

    def partials(self) -> dict[Digest, int]:
        """Return the blobs that have arrived in part, with the bytes that have arrived."""
        with self.disk_errors():
            return _sizes(self._ingest)

    def write_index(self, entries: Iterable[tuple[Descriptor, str | None]]) -> None:
        """Write the layout's index: manifests with their names (OCI image spec, "Image Layout")."""
        manifests = [
            {
                "mediaType": descriptor.media_type,
                "digest": str(descriptor.digest),
                "size": descriptor.size,
                **({"annotations": {REF_NAME: name}} if name else {}),
            }
            for descriptor, name in entries
        ]
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
        with self.disk_errors():
            replace_file(self.root / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            replace_file(self.root / "index.json", json.dumps(index, indent=1).encode())

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock of this name: one process and thread of the node at a time."""
        lock = filelock.FileLock(self.locks / f"{name}.lock")
        with self.disk_errors():
            try:
                self._acquire(lock)
            except filelock.Timeout as error:
                raise StoreError(
                    f"{lock.lock_file} has been held for a day; end the process that holds it"
                ) from error
        try:
            yield
        finally:
            lock.release()

    def _acquire(self, lock: filelock.BaseFileLock) -> None:
        with suppress(filelock.Timeout):
            lock.acquire(timeout=min(_SILENT_WAIT, LOCK_WAIT))
            return
        holder = lock_holder(Path(lock.lock_file))
        held_by = f"process {holder}" if holder else "another process"
        log.info("store.waiting", extra={"lock": lock.lock_file, "held_by": held_by})
        self._on_wait(f"waits for {held_by}, which holds {lock.lock_file}")
        lock.acquire(timeout=LOCK_WAIT)

    @contextmanager
    def disk_errors(self, needed: int = 0) -> Iterator[None]:
        """Raise OSErrors of the block as StoreError; `needed` is the bytes that it writes."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self.full_error(needed) from error
            raise StoreError(
                f"the store {self.root} cannot be used: {error}; check its disk and owner"
            ) from error

    @property
    def free(self) -> int:
        """The bytes that the disk has free."""
        with self.disk_errors():
            return shutil.disk_usage(self.root).free

    def full_error(self, needed: int) -> StoreError:
        """Return the error for a disk that lacks room for `needed` bytes."""
        return StoreError(
            f"the store {self.root} is full: {needed} bytes are needed and {self.free} are free; make room "
            "there, or with `kitserve cache prune`"
        )

    def _open(self, descriptor: Descriptor, source: Source) -> BinaryIO | None:
        """Open a blob if it is here; one whose size differs from the descriptor's is verified first."""
        try:
            file = self.path(descriptor.digest).open("rb")
        except FileNotFoundError:
            return None
        size = os.fstat(file.fileno()).st_size
        if size == descriptor.size:
            return file
        file.close()
        if self.verify(descriptor.digest):
            raise SizeMismatch(
                f"{source.reference}: blob {descriptor.digest} should have {descriptor.size} bytes and has "
                f"{size}; push the kit again"
            )
        return None

    def _partial(self, digest: Digest) -> Path:
        """Return the file that a blob arrives in; a process that died in `_commit` left it read-only."""
        path = self._ingest / digest.hex
        with suppress(FileNotFoundError):
            path.chmod(0o644)
        return path

    def _download(self, descriptor: Descriptor, source: Source, on_received: OnReceived) -> BinaryIO:
        path = self._partial(descriptor.digest)
        with path.open("a+b", buffering=0) as file:
            partial = PartialBlob(file)
            try:
                if self.free < descriptor.size - partial.size:
                    raise self.full_error(descriptor.size - partial.size)
                receive(descriptor, source, partial, on_received)
            except (ContentError, StoreError, OSError):
                path.unlink(missing_ok=True)
                raise
            # Opened before others can see it, so that removing the blob does not affect this reader.
            blob = path.open("rb")
            self._commit(file, descriptor.digest)
            return blob

    def _commit(self, file: BinaryIO, digest: Digest) -> None:
        # Not synced to disk: every reader verifies a blob, and so finds one that a power cut damaged.
        file.flush()
        os.fchmod(file.fileno(), 0o444)
        Path(file.name).replace(self.path(digest))


def _sizes(directory: Path) -> dict[Digest, int]:
    """Return the files of a directory whose names are digests, with their sizes."""
    sizes = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            # Another process may have removed the file, and other names are ignored.
            with suppress(FileNotFoundError, InvalidReference):
                sizes[Digest("sha256", entry.name)] = entry.stat().st_size
    return sizes

"""A new directory that the layers of one kit are unpacked into, by several threads at a time.

Every path is opened part by part, relative to the parent's file descriptor and without following links: a
directory that another process replaces by a link cannot redirect a write. No existing file is opened for
writing.
"""

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from gateway.errors import StoreError, UnsafeArchive
from gateway.kits.paths import folded
from gateway.kits.streams import MAX_RATIO, RATIO_FLOOR
from gateway.oci.content import CHUNK

MAX_TREE = 2 * 1024**4
"""How many bytes a kit may unpack to, by default."""
MAX_ENTRIES = 100_000
"""How many files and directories a kit may have, by default."""

_COPY_STEP = 256 * 1024**2  # bytes that are copied in one call, so that signals are handled in between
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
# The errors of copy_file_range where a file system or kernel does not support it (copy_file_range(2)).
_NO_COPYING = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
# The errors of link(2) where a file system does not support it, or another user owns the file; and EXDEV of
# `_link` for a file that is unlinked.
_NO_LINKING = {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS}
_CHANGED = {errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.EEXIST}


@dataclass(frozen=True, slots=True)
class UnpackedFile:
    """A file of the tree: its path with "/", its size in bytes, and its sha256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(slots=True)
class LayerWrites:
    """What one layer has written into a tree so far, so that it can be undone.

    `paths` are the files and directories that it created; `directories` those that it has entries for.
    """

    stored: int
    written: int = 0
    paths: list[str] = field(default_factory=list)
    files: list[UnpackedFile] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)


class Tree:
    """A directory created for one kit; `origin` is named in errors.

    `expected` is the size of all layers in bytes, so that the limit of what they may unpack to does not
    depend on their order; without it, the layers begun so far count. `max_bytes` and `max_entries` limit what
    the kit may unpack to. Nothing is synced to disk: after another boot of the machine, the files must be
    verified.
    """

    def __init__(
        self,
        root: Path,
        origin: str,
        *,
        expected: int = 0,
        max_bytes: int = MAX_TREE,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self.root = root
        self.origin = origin
        self._expected = expected
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._files: dict[str, UnpackedFile] = {}
        self._names: dict[str, str] = {}
        self._directories = {""}
        self._stored = self._written = 0
        # Guards the fields above; held while a path is created or removed, so that they match the disk.
        self._lock = threading.Lock()
        root.mkdir(mode=0o755)
        self._identity = _identity(root.lstat())

    @property
    def files(self) -> list[UnpackedFile]:
        """The files of all layers that are unpacked, in the order in which the layers were finished."""
        with self._lock:
            return list(self._files.values())

    @contextmanager
    def layer(self, stored: int) -> Iterator[LayerWrites]:
        """Write a layer of `stored` bytes, in one thread; when the block raises, nothing of it stays."""
        writes = LayerWrites(stored)
        with self._lock:
            self._stored += stored
        try:
            yield writes
        except BaseException:
            with self._lock:
                self._undo(writes)
            raise
        with self._lock:
            self._files.update((file.path, file) for file in writes.files)

    def add_directory(self, writes: LayerWrites, path: str) -> None:
        """Create a directory and its parents; one that exists is left as it is."""
        with self._lock:
            self._make_directory(writes, path)
        writes.directories.append(path)

    def add_file(
        self,
        writes: LayerWrites,
        path: str,
        chunks: Iterable[bytes],
        size: int = 0,
        sha256: Callable[[], str] | None = None,
    ) -> None:
        """Write a new file; `size` is its size in bytes where that is known beforehand.

        `sha256` returns its digest in hex once it is written, where the caller computes that anyway.
        """
        hasher = hashlib.sha256()
        with self._new_file(writes, path, size) as file:
            written = 0
            for chunk in chunks:
                self._count(writes, path, len(chunk), file)
                if sha256 is None:
                    hasher.update(chunk)
                _write(file, chunk)
                written += len(chunk)
        writes.files.append(UnpackedFile(path, written, sha256() if sha256 else hasher.hexdigest()))

    def link_file(self, writes: LayerWrites, path: str, source: BinaryIO, size: int, sha256: str) -> None:
        """Link a whole, read-only file of the same store, so that its bytes are on disk once.

        It is copied where links are not supported.
        """
        try:
            with self._lock:
                parent, _, name = path.rpartition("/")
                self._make_directory(writes, parent)
                self._check_name(path)
                self._check_limit(path, size)
                with self._open_directory(parent) as directory:
                    _link(source, name, directory)
                self._record(writes, path)
                self._written += size
                writes.written += size
        except OSError as error:
            if error.errno not in _NO_LINKING:
                raise
            self.copy_file(writes, path, source, size, sha256)
        else:
            writes.files.append(UnpackedFile(path, size, sha256))

    def copy_file(self, writes: LayerWrites, path: str, source: BinaryIO, size: int, sha256: str) -> None:
        """Copy a whole file of known size and digest, within the kernel where that is supported."""
        with self._new_file(writes, path, size) as file:
            self._count(writes, path, size, file)
            _copy(source, file, size)
        writes.files.append(UnpackedFile(path, size, sha256))

    def make_read_only(self) -> None:
        """Make all of it read-only. Raises StoreError where something else was put into it."""
        paths, directories = set(), set()
        for name, _, files, handle in os.fwalk(self.root, topdown=False):
            path = os.path.relpath(name, self.root).removeprefix(".")
            directories.add(path)
            for file in files:
                if stat.S_ISREG(os.lstat(file, dir_fd=handle).st_mode):
                    paths.add(f"{path}/{file}".removeprefix("/"))
            os.utime(handle, (0, 0))
            os.fchmod(handle, 0o555)
        with self._lock:
            if unexpected := (paths ^ self._files.keys()) | (directories ^ self._directories):
                raise self._changed_error(min(unexpected))

    @contextmanager
    def _new_file(self, writes: LayerWrites, path: str, size: int) -> Iterator[int]:
        with self._lock:
            parent, _, name = path.rpartition("/")
            self._make_directory(writes, parent)
            self._check_name(path)
            with self._open_directory(parent) as directory:
                file = os.open(name, _NEW_FILE, 0o444, dir_fd=directory)
            self._record(writes, path)
        try:
            os.fchmod(file, 0o444)
            self._check_space(path, size, file)
            yield file
            os.utime(file, (0, 0))
        finally:
            os.close(file)

    def _make_directory(self, writes: LayerWrites, path: str) -> None:
        if path in self._directories:
            return
        parent, _, name = path.rpartition("/")
        self._make_directory(writes, parent)
        self._check_name(path)
        with self._open_directory(parent) as directory:
            os.mkdir(name, 0o755, dir_fd=directory)
        self._directories.add(path)
        self._record(writes, path)

    def _check_name(self, path: str) -> None:
        if not path:
            raise UnsafeArchive("a file has no name")
        if other := self._names.get(folded(path)):
            raise UnsafeArchive(f"{path!r} collides with {other!r}")
        if len(self._names) == self._max_entries:
            raise UnsafeArchive(f"the kit has more than {self._max_entries} files and directories")

    def _record(self, writes: LayerWrites, path: str) -> None:
        self._names[folded(path)] = path
        writes.paths.append(path)

    def _count(self, writes: LayerWrites, path: str, size: int, file: int) -> None:
        with self._lock:
            self._check_space(path, size, file)
            self._written += size
        writes.written += size

    def _check_limit(self, path: str, size: int) -> None:
        limit = min(self._max_bytes, max(self._expected * MAX_RATIO, self._stored * MAX_RATIO, RATIO_FLOOR))
        if self._written + size > limit:
            raise UnsafeArchive(
                f"{path!r} takes the kit beyond {limit} bytes, the most that it may unpack to"
            )

    def _check_space(self, path: str, size: int, file: int) -> None:
        self._check_limit(path, size)
        disk = os.fstatvfs(file)
        if size > (free := disk.f_bavail * disk.f_frsize):
            raise StoreError(
                f"{self.origin}: {path!r} needs {size} bytes and {free} are free in {self.root}; "
                "make room there"
            )

    def _undo(self, writes: LayerWrites) -> None:
        self._stored -= writes.stored
        self._written -= writes.written
        for path in reversed(writes.paths):
            parent, _, name = path.rpartition("/")
            try:
                with self._open_directory(parent) as directory:
                    (os.rmdir if path in self._directories else os.unlink)(name, dir_fd=directory)
            except OSError as error:
                # A directory that this layer created may hold files of another one.
                if error.errno == errno.ENOTEMPTY:
                    continue
                raise
            self._directories.discard(path)
            del self._names[folded(path)]

    @contextmanager
    def _open_directory(self, path: str) -> Iterator[int]:
        """Open a directory of the tree, part by part, and yield its file descriptor."""
        handle = -1
        try:
            handle = os.open(self.root, _DIRECTORY)
            if _identity(os.fstat(handle)) != self._identity:
                raise self._changed_error("")
            for part in path.split("/") if path else ():
                inner = os.open(part, _DIRECTORY, dir_fd=handle)
                os.close(handle)
                handle = inner
            yield handle
        except OSError as error:
            if error.errno in _CHANGED:
                raise self._changed_error(path) from error
            raise
        finally:
            if handle >= 0:
                os.close(handle)

    def _changed_error(self, path: str) -> StoreError:
        return StoreError(
            f"{self.origin}: {str(self.root / path)!r} was changed by another process while the kit was "
            "unpacked; keep others out of the store"
        )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _write(file: int, data: bytes) -> None:
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(file, remaining) :]


def _link(source: BinaryIO, name: str, directory: int) -> None:
    if not os.fstat(source.fileno()).st_nlink:
        raise OSError(errno.EXDEV, "the file is unlinked")
    os.link(f"/proc/self/fd/{source.fileno()}", name, dst_dir_fd=directory, follow_symlinks=True)


def _copy(source: BinaryIO, file: int, size: int) -> None:
    copied = 0
    try:
        while copied < size:
            step = os.copy_file_range(source.fileno(), file, min(size - copied, _COPY_STEP), copied)
            if not step:
                raise StoreError(f"{source.name!r} became shorter than {size} bytes while it was copied")
            copied += step
    except OSError as error:
        if error.errno not in _NO_COPYING or copied:
            raise
        source.seek(0)
        while chunk := source.read(CHUNK):
            _write(file, chunk)

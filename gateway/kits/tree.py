"""A fresh directory that the layers of one kit are unpacked into, by several threads at a time if need be.

Every name is opened below its directory's handle and followed nowhere, so that a directory which another
process swaps for a link leads no write astray. Nothing that is there is ever opened for writing.
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
"""The most bytes that a kit may unpack to, unless its Tree says otherwise."""
MAX_ENTRIES = 100_000
"""The most files and directories that it may have, unless its Tree says otherwise."""

_STEP = 256 * 1024**2  # bytes that are copied at a time, so that a signal is heard
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
# What copy_file_range says where a file system or kernel cannot do it (copy_file_range(2)).
_NO_COPYING = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
# What link(2) says where a file system cannot do it, or another user has the file; and a file without a name.
_NO_LINKING = {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS}
_CHANGED = {errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.EEXIST}


@dataclass(frozen=True, slots=True)
class UnpackedFile:
    """A file of the tree: its path with "/", its bytes, and their sha256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(slots=True)
class Writes:
    """What one layer has put into a tree so far, so that it can be taken out again.

    `names` are those that it made; `directories` those that it has entries for, made by it or not.
    """

    stored: int
    written: int = 0
    names: list[str] = field(default_factory=list)
    files: list[UnpackedFile] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)


class Tree:
    """A directory made for one kit; `origin` is named in errors.

    `expected` is how many bytes of layers will come, so that what they may unpack to does not hang on their
    order; without it, the layers begun so far count. `max_bytes` and `max_entries` are what the kit may
    unpack to. Nothing is forced to disk: whoever opens a tree after a crash of the machine reads it through.
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
        # Guards all of these, and is held while a name is made or removed: what they say is there is there.
        self._lock = threading.Lock()
        root.mkdir(mode=0o755)
        self._identity = _identity(root.lstat())

    @property
    def files(self) -> list[UnpackedFile]:
        """The files of the layers that are unpacked, layer after layer as they were finished."""
        with self._lock:
            return list(self._files.values())

    @contextmanager
    def layer(self, stored: int) -> Iterator[Writes]:
        """Write a layer of `stored` bytes by one thread; when the block raises, nothing of it stays."""
        writes = Writes(stored)
        with self._lock:
            self._stored += stored
        try:
            yield writes
        except BaseException:
            with self._lock:
                self._take_back(writes)
            raise
        with self._lock:
            self._files.update((file.path, file) for file in writes.files)

    def add_directory(self, writes: Writes, path: str) -> None:
        """Make a directory and those above it; one that is there is left alone."""
        with self._lock:
            self._make(writes, path)
        writes.directories.append(path)

    def add_file(
        self,
        writes: Writes,
        path: str,
        chunks: Iterable[bytes],
        size: int = 0,
        sha256: Callable[[], str] | None = None,
    ) -> None:
        """Write a file that is not there yet; `size` is what is known of its bytes beforehand.

        `sha256` tells its digest in hex once all is written, where someone else knows it anyway.
        """
        hasher = hashlib.sha256()
        with self._fresh(writes, path, size) as file:
            written = 0
            for chunk in chunks:
                self._grow(writes, path, len(chunk), file)
                if sha256 is None:
                    hasher.update(chunk)
                _write(file, chunk)
                written += len(chunk)
        writes.files.append(UnpackedFile(path, written, sha256() if sha256 else hasher.hexdigest()))

    def link_file(self, writes: Writes, path: str, source: BinaryIO, size: int, sha256: str) -> None:
        """Give a whole, read-only file of the same store a second name here; copied where that cannot be.

        Nothing is written twice then: kits that share a layer share its files.
        """
        try:
            with self._lock:
                parent, _, name = path.rpartition("/")
                self._make(writes, parent)
                self._check_name(path)
                self._check_limit(path, size)
                with self._opened(parent) as directory:
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

    def copy_file(self, writes: Writes, path: str, source: BinaryIO, size: int, sha256: str) -> None:
        """Write a file that is a whole file elsewhere, of known size and digest, within the kernel."""
        with self._fresh(writes, path, size) as file:
            self._grow(writes, path, size, file)
            _copy(source, file, size)
        writes.files.append(UnpackedFile(path, size, sha256))

    def seal(self) -> None:
        """Make all of it unwritable; raises StoreError for what is not ours."""
        found, directories = set(), set()
        for name, _, files, handle in os.fwalk(self.root, topdown=False):
            path = os.path.relpath(name, self.root).removeprefix(".")
            directories.add(path)
            for file in files:
                if stat.S_ISREG(os.lstat(file, dir_fd=handle).st_mode):
                    found.add(f"{path}/{file}".removeprefix("/"))
            os.utime(handle, (0, 0))
            os.fchmod(handle, 0o555)
        with self._lock:
            if strange := (found ^ self._files.keys()) | (directories ^ self._directories):
                raise self._changed(min(strange))

    @contextmanager
    def _fresh(self, writes: Writes, path: str, size: int) -> Iterator[int]:
        with self._lock:
            parent, _, name = path.rpartition("/")
            self._make(writes, parent)
            self._check_name(path)
            with self._opened(parent) as directory:
                file = os.open(name, _FRESH, 0o444, dir_fd=directory)
            self._record(writes, path)
        try:
            os.fchmod(file, 0o444)
            self._check_room(path, size, file)
            yield file
            os.utime(file, (0, 0))
        finally:
            os.close(file)

    def _make(self, writes: Writes, path: str) -> None:
        if path in self._directories:
            return
        parent, _, name = path.rpartition("/")
        self._make(writes, parent)
        self._check_name(path)
        with self._opened(parent) as directory:
            os.mkdir(name, 0o755, dir_fd=directory)
        self._directories.add(path)
        self._record(writes, path)

    def _check_name(self, path: str) -> None:
        if not path:
            raise UnsafeArchive("a file has no name")
        if taken := self._names.get(folded(path)):
            raise UnsafeArchive(f"{path!r} comes after {taken!r}, which takes its place")
        if len(self._names) == self._max_entries:
            raise UnsafeArchive(f"the kit has more than {self._max_entries} files and directories")

    def _record(self, writes: Writes, path: str) -> None:
        self._names[folded(path)] = path
        writes.names.append(path)

    def _grow(self, writes: Writes, path: str, size: int, file: int) -> None:
        with self._lock:
            self._check_room(path, size, file)
            self._written += size
        writes.written += size

    def _check_limit(self, path: str, size: int) -> None:
        limit = min(self._max_bytes, max(self._expected * MAX_RATIO, self._stored * MAX_RATIO, RATIO_FLOOR))
        if self._written + size > limit:
            raise UnsafeArchive(
                f"{path!r} takes the kit beyond {limit} bytes, the most that it may unpack to"
            )

    def _check_room(self, path: str, size: int, file: int) -> None:
        self._check_limit(path, size)
        disk = os.fstatvfs(file)
        if size > (free := disk.f_bavail * disk.f_frsize):
            raise StoreError(
                f"{self.origin}: {path!r} needs {size} bytes and {free} are free in {self.root}; "
                "make room there"
            )

    def _take_back(self, writes: Writes) -> None:
        self._stored -= writes.stored
        self._written -= writes.written
        for path in reversed(writes.names):
            parent, _, name = path.rpartition("/")
            try:
                with self._opened(parent) as directory:
                    (os.rmdir if path in self._directories else os.unlink)(name, dir_fd=directory)
            except OSError as error:
                # Another layer's files may be in a directory that this one made.
                if error.errno == errno.ENOTEMPTY:
                    continue
                raise
            self._directories.discard(path)
            del self._names[folded(path)]

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        """Open a directory of the tree, part by part."""
        handle = -1
        try:
            handle = os.open(self.root, _DIRECTORY)
            if _identity(os.fstat(handle)) != self._identity:
                raise self._changed("")
            for part in path.split("/") if path else ():
                inner = os.open(part, _DIRECTORY, dir_fd=handle)
                os.close(handle)
                handle = inner
            yield handle
        except OSError as error:
            if error.errno in _CHANGED:
                raise self._changed(path) from error
            raise
        finally:
            if handle >= 0:
                os.close(handle)

    def _changed(self, path: str) -> StoreError:
        return StoreError(
            f"{self.origin}: {str(self.root / path)!r} was changed by another process while the kit was "
            "unpacked; keep others out of the store"
        )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _link(source: BinaryIO, name: str, directory: int) -> None:
    if not os.fstat(source.fileno()).st_nlink:
        raise OSError(errno.EXDEV, "the file has no name any more")
    os.link(f"/proc/self/fd/{source.fileno()}", name, dst_dir_fd=directory, follow_symlinks=True)


def _copy(source: BinaryIO, file: int, size: int) -> None:
    copied = 0
    try:
        while copied < size:
            step = os.copy_file_range(source.fileno(), file, min(size - copied, _STEP), copied)
            if not step:
                raise StoreError(f"{source.name!r} became shorter than {size} bytes while it was copied")
            copied += step
    except OSError as error:
        if error.errno not in _NO_COPYING or copied:
            raise
        source.seek(0)
        while chunk := source.read(CHUNK):
            _write(file, chunk)

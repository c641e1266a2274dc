"""The files of an OCI image layout on disk: in a directory, or in a tar archive, which is read in place."""

import errno
import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Protocol, Self

from gateway.errors import RegistryError, UnsafeArchive
from gateway.files import compression_of, open_regular
from gateway.oci.content import CHUNK
from gateway.oci.tar import read_tar

_MAX_MEMBERS = 100_000
# The files of a layout (OCI image spec, "Image Layout Specification"); tar writes "./" before them.
_MEMBER = re.compile(r"(?:\./)?(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Extent:
    """`size` bytes of an open file from the offset `start` on; closing the extent closes the file."""

    file: FileIO
    start: int
    size: int

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes from an offset on; fewer when the file shrinks. Raises OSError."""
        self.file.seek(self.start + offset)
        remaining = self.size - offset
        while remaining > 0 and (chunk := self.file.read(min(remaining, CHUNK))):
            remaining -= len(chunk)
            yield chunk

    def read(self) -> bytes:
        """Return all the bytes. Raises OSError."""
        return b"".join(self.chunks())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


class Files(Protocol):
    """Files by their names in a layout; several threads may use one."""

    def open(self, name: str) -> Extent:
        """Open a file, such as "index.json"; the caller closes it.

        Raises OSError where it is missing or no regular file, RegistryError for an unusable archive.
        """


class DirectoryFiles:
    """Regular files in a directory; links and special files are not opened."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, name: str) -> Extent:
        """Open a file. Raises OSError."""
        file = FileIO(open_regular(self._root / name, follows_link=False))
        return Extent(file, 0, os.fstat(file.fileno()).st_size)


class ArchiveFiles:
    """Members of an uncompressed tar archive, read in place; `label` is named in errors."""

    def __init__(self, path: Path, label: str) -> None:
        self._path = path
        self._label = label
        self._lock = threading.Lock()
        # The identity of the archive that was scanned last, and offset and size of its members.
        self._scan: tuple[tuple[int, ...], dict[str, tuple[int, int]]] = ((), {})

    def open(self, name: str) -> Extent:
        """Open a member. Raises OSError, and RegistryError for an archive that cannot be used."""
        path = Path(os.path.realpath(self._path))
        with ExitStack() as stack:
            file = stack.enter_context(FileIO(open_regular(path, follows_link=False)))
            extent = self._members(file).get(name)
            if extent is None:
                raise FileNotFoundError(errno.ENOENT, "not in the archive")
            stack.pop_all()
        return Extent(file, *extent)

    def _members(self, file: FileIO) -> dict[str, tuple[int, int]]:
        """Return offset and size of each member; scanned once, and again when the archive has changed."""
        status = os.fstat(file.fileno())
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        with self._lock:
            if self._scan[0] != identity:
                self._scan = identity, self._scan_archive(file)
            return self._scan[1]

    def _scan_archive(self, file: FileIO) -> dict[str, tuple[int, int]]:
        head = file.read(8)
        if compression := compression_of(head):
            raise RegistryError(
                f"{self._label}: {self._path} is compressed with {compression}; uncompress it"
            )
        file.seek(0)
        try:
            return _scan_members(file)
        except UnsafeArchive as error:
            raise RegistryError(
                f"{self._label}: {self._path} is no usable archive of a layout: {error}; export it again"
            ) from error


class LayoutFiles:
    """The files of a layout at a path that is a directory or a tar archive, as it is when one is opened."""

    def __init__(self, path: Path, label: str) -> None:
        self._path = path
        self._directory = DirectoryFiles(path)
        self._archive = ArchiveFiles(path, label)

    def open(self, name: str) -> Extent:
        """Open a file. Raises OSError, and RegistryError for an archive that cannot be used."""
        return (self._archive if self._path.is_file() else self._directory).open(name)


def _scan_members(file: FileIO) -> dict[str, tuple[int, int]]:
    """Return the offset and size of each member that belongs to a layout. Raises UnsafeArchive."""
    members: dict[str, tuple[int, int]] = {}
    entries = read_tar(file.read, lambda size: file.seek(size, os.SEEK_CUR))
    for number, (entry, _) in enumerate(entries):
        if number == _MAX_MEMBERS:
            raise UnsafeArchive(f"it has more than {_MAX_MEMBERS} entries")
        match = _MEMBER.fullmatch(entry.name)
        if match is None or entry.is_directory:
            continue
        if match[1] in members:
            raise UnsafeArchive(f"it has {match[1]} twice")
        members[match[1]] = (file.tell(), entry.size)
    return members

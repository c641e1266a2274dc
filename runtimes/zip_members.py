"""Bounds for zips whose members a library unpacks into memory or a directory."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from runtimes.errors import LoadError, UnsafeFormat
from runtimes.formats import zip_names

DAMAGE = (OSError, ValueError, LookupError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged zip raises; NotImplementedError, for a method of compression, is among these."""

# How much larger than the file its content may be; those who write these files do not compress by default.
_MAX_RATIO = 20
_SLACK_BYTES = 64 * 1024 * 1024


def check_members(path: Path, archive: zipfile.ZipFile, names: Sequence[str]) -> None:
    """Check the members of the zip at `path`.

    Raises:
        UnsafeFormat: for one that would be unpacked outside of the archive's directory.
        LoadError: for two of one name, or where they are far larger than the file.
    """
    if len(set(names)) < len(names):
        raise LoadError(f"{path} has several members of one name; save the model again")
    for name in names:
        if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
            raise UnsafeFormat(
                f"{path} has the member {name[:80]!r}, which is outside of it; save the model again"
            )
    if sum(member.file_size for member in archive.infolist()) > limit(path):
        raise LoadError(f"{path} is {_MAX_RATIO} times as large when it is unpacked; save the model again")


def read_json(path: Path, name: str, max_bytes: int) -> Any:
    """Read the JSON member `name` of the zip at `path`, once all its members are checked.

    Raises:
        UnsafeFormat: as for `check_members`.
        LoadError: as for `check_members`, or where the member has more than `max_bytes`.
        DAMAGE: any of these, where the zip or the JSON cannot be read.
    """
    with path.open("rb") as file:
        names = zip_names(file)
        with zipfile.ZipFile(file) as archive:
            check_members(path, archive, names)
            if archive.getinfo(name).file_size > max_bytes:
                raise LoadError(f"{path} has a {name} of over {max_bytes >> 20} MiB; save the model again")
            return json.loads(archive.read(name))


def limit(path: Path) -> int:
    """Return how many bytes the file at `path` may hold when it is unpacked."""
    return path.stat().st_size * _MAX_RATIO + _SLACK_BYTES

"""The files beside an ONNX file that hold its tensors: where they may be, and whether they are there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from runtimes.errors import LoadError
from runtimes.formats import Format, identify
from runtimes.refusals import DAMAGED


@dataclass(frozen=True, slots=True)
class External:
    """Tensor data in another file: a path relative to the model's directory; offset and length in bytes."""

    location: str
    offset: int = 0
    length: int = 0


def check_external(path: Path, externals: Iterable[External]) -> None:
    """Raise LoadError unless all external data of `path` is in regular files below its directory."""
    for external in externals:
        location = external.location
        if not _is_below(location):
            raise LoadError(f"{path} keeps weights in {location!r}; they must be below its own directory")
        target = path.parent / location
        if not _is_regular(target, path):
            raise LoadError(
                f"{path} keeps weights in {location!r}, which is no regular file beside it; pack it, too"
            )
        if min(external.offset, external.length) < 0:
            raise LoadError(f"{path} keeps weights in {location!r} at a negative offset; export it again")
        if external.offset + external.length > target.stat().st_size:
            if identify(target) is Format.LFS_POINTER:
                raise LoadError(f"{path} keeps weights in {location!r}, which {DAMAGED[Format.LFS_POINTER]}")
            raise LoadError(f"{path} keeps weights in {location!r}, which is too short; pack it again")


def present(path: Path, locations: Iterable[str]) -> list[Path]:
    """Return the files at these locations of the model at `path` that are there, and may be read."""
    below = filter(_is_below, locations)
    return [target for location in below if _is_regular(target := path.parent / location, path)]


def _is_below(location: str) -> bool:
    """Whether a location is a path below a directory, as it is written."""
    name = PurePosixPath(location)
    is_odd = name.is_absolute() or ".." in name.parts or "\\" in location or "\0" in location
    return bool(location) and not is_odd


def _is_regular(target: Path, model: Path) -> bool:
    """Whether there is a regular file, below the directory of the model also where links lead."""
    try:
        if target.is_symlink() or not target.is_file():
            return False
    except OSError:
        # Its name is too long.
        return False
    return target.resolve().is_relative_to(model.parent.resolve())

"""Paths in kits, which others chose, checked before anything on disk is touched.

An unsafe path is refused, never repaired; only a leading "./" and a directory's trailing "/", which tar and
Kitfiles commonly have, are dropped. Names that only Windows forbids (a trailing dot or space, "aux") are
allowed. Two paths that some file systems take for the same are refused, with the help of `folded`.
"""

import unicodedata

from gateway.errors import UnsafeArchive

_MAX_PART = 255  # bytes, as in most file systems
_MAX_PATH = 1024  # bytes
_MAX_DEPTH = 32
# Control characters, surrogates, unassigned ones, and format characters, which reorder or hide text.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})


def safe_path(name: str) -> str:
    """Return the relative path, with "/" between its parts; "" for the root. Raises UnsafeArchive."""
    path = name.removesuffix("/") if name != "/" else name
    path = "" if path == "." else path.removeprefix("./")
    if not path:
        return path
    if len(path) > _MAX_PATH or len(path.encode("utf-8", "surrogatepass")) > _MAX_PATH:
        raise UnsafeArchive(f"{name[:80]!r}… is longer than {_MAX_PATH} bytes")
    parts = path.split("/")
    if path.startswith("/"):
        raise UnsafeArchive(f"{name!r} is an absolute path")
    if "\\" in path or any(unicodedata.category(character) in _UNPRINTABLE for character in path):
        raise UnsafeArchive(f"{name!r} has a backslash or a character that cannot be seen")
    if any(part in ("", ".", "..") for part in parts):
        raise UnsafeArchive(f"{name!r} has an empty, '.' or '..' part")
    if len(parts) > _MAX_DEPTH:
        raise UnsafeArchive(f"{name[:80]!r}… has more than {_MAX_DEPTH} levels")
    if any(len(part.encode()) > _MAX_PART for part in parts):
        raise UnsafeArchive(f"{name[:80]!r}… has a part longer than {_MAX_PART} bytes")
    return path


def folded(path: str) -> str:
    """Return a form that is equal for paths which some file systems take for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())

"""File names that others chose, checked before anything on disk is touched.

A name is refused, never repaired, but for a leading "./" and a directory's trailing "/", which tar and
Kitfiles write by habit. Names that only Windows refuses (a trailing dot or space, "aux") are taken: the
trees are Kitserve's own, on systems that have them. Two that some file system takes for one are refused.
"""

import unicodedata

from gateway.errors import UnsafeArchive

_MAX_PART = 255  # bytes, as in most file systems
_MAX_PATH = 1024  # bytes
_MAX_DEPTH = 32
# Controls, surrogates, unassigned, and the format characters that reorder or hide text.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})


def safe_path(name: str) -> str:
    """Return a relative path with "/" between its parts; "" is the root itself. Raises UnsafeArchive."""
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
    """Return what two names share that some file systems would take for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())

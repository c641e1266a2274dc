"""What a body is: by its Content-Type, or by its first bytes where that says nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, auto

from runtimes.errors import InputError


class Media(Enum):
    """The forms in which a call may come."""

    JSON = auto()
    CSV = auto()
    IMAGE = auto()
    NPY = auto()
    NPZ = auto()


class UnknownMedia(InputError):
    """A body is of a type that is not read."""


CONTENT_TYPES: Mapping[Media, tuple[str, ...]] = {
    Media.JSON: ("application/json",),
    Media.CSV: ("text/csv",),
    Media.IMAGE: ("image/png", "image/jpeg"),
    Media.NPY: ("application/x-npy",),
    Media.NPZ: ("application/x-npz",),
}
"""The names of each form, the ones to recommend."""
_OTHER_NAMES: Mapping[str, Media] = {
    "text/json": Media.JSON,
    "application/csv": Media.CSV,
    "image/jpg": Media.IMAGE,
    "application/x-image": Media.IMAGE,
    "application/zip": Media.NPZ,
}
_BY_TYPE: Mapping[str, Media] = {
    **{name: media for media, names in CONTENT_TYPES.items() for name in names},
    **_OTHER_NAMES,
}
# What says nothing; curl sends the second of them with `-d` and `--data-binary`.
_UNSTATED = ("", "application/x-www-form-urlencoded", "application/octet-stream")
_BEGINNINGS: tuple[tuple[bytes, Media], ...] = (
    (b"\x93NUMPY", Media.NPY),
    (b"PK\x03\x04", Media.NPZ),
    (b"\x89PNG\r\n", Media.IMAGE),
    (b"\xff\xd8\xff", Media.IMAGE),
)
_WHITE = b" \t\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CHARSET = re.compile(r';\s*charset="?([A-Za-z0-9_.-]{1,40})"?', re.IGNORECASE)


def media_of(content_type: str, beginning: bytes) -> Media:
    """Return the form of a body that begins so.

    Raises:
        UnknownMedia: for a type that is none of these.
    """
    name = content_type.partition(";")[0].strip().lower()
    media = _BY_TYPE.get(name)
    if media is not None:
        return media
    if name.endswith("+json"):
        return Media.JSON
    if name not in _UNSTATED and name != "text/plain":
        names = ", ".join(name for names in CONTENT_TYPES.values() for name in names)
        raise UnknownMedia(f"a body of the type {name!r} is not read here; send one of {names}")
    for magic, other in _BEGINNINGS:
        if beginning.startswith(magic):
            return other
    text = beginning.removeprefix(_BYTE_ORDER_MARK).lstrip(_WHITE)
    return Media.JSON if text[:1] in (b"", b"{", b"[") else Media.CSV


def charset_of(content_type: str) -> str:
    """Return the encoding that a Content-Type states, in lower case; "" where it states none."""
    match = _CHARSET.search(content_type)
    return match[1].lower() if match else ""

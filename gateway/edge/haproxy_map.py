"""The format of HAProxy's map files: one entry a line, its key, a space, its value. Pure.

HAProxy reads a line into a buffer, so a line that is longer becomes two entries. It knows no escapes, so a
line break in a value begins another entry. Nothing is written that would be read as something else.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.errors import EdgeError

ENTRY_BYTES = 8192
"""The most that an entry may have; the buffer is twice as large while HAProxy reads its configuration."""


def check_entries(owner: str, entries: Mapping[str, str]) -> None:
    """Check that each entry is one line of a map file, and one entry of it.

    Raises:
        EdgeError: names `owner`, whose entries they are, the key, and what is wrong.
    """
    for key, value in entries.items():
        if fault := _fault(key, value):
            raise EdgeError(f"{owner} cannot be routed: the entry {key[:200]!r} of HAProxy's map {fault}")


def write_entries(entries: Mapping[str, str]) -> list[str]:
    """Return the lines of a map file.

    Raises:
        EdgeError: when one of them would be read as another entry, or as several.
    """
    check_entries("what the edge knows", entries)
    return [f"{key} {value}\n" for key, value in entries.items()]


def read_entries(text: str) -> dict[str, str]:
    """Return the entries of a map file."""
    lines = (line.partition(" ") for line in text.split("\n"))
    return {key: value for key, separator, value in lines if separator}


def _fault(key: str, value: str) -> str:
    """Return what is wrong with an entry, or ""."""
    if not key or not key.isprintable() or " " in key or key.startswith("#"):
        return "has a key that is no word"
    if not value or value != value.strip() or not value.isprintable():
        return "has a value that is no line of text"
    if (size := len(f"{key} {value}".encode())) > ENTRY_BYTES:
        return f"has {size} bytes; {ENTRY_BYTES} are allowed"
    return ""

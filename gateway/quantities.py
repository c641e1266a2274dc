"""Bytes of memory as people read them."""

from __future__ import annotations

_GIB, _MIB = 1024**3, 1024**2


def size(number: int | None) -> str:
    """Return a number of bytes: "3.0 GiB", "512 MiB"; None is one that nobody knows."""
    if number is None:
        return "an unknown part"
    return f"{number / _GIB:.1f} GiB" if number >= _GIB else f"{number / _MIB:.0f} MiB"

"""Memory that was freed: the C library keeps much of it for itself, until it is asked to give it back."""

from __future__ import annotations

import ctypes
from contextlib import suppress

LARGE_BYTES = 32 * 1024 * 1024
"""After bodies of so many bytes at a time it is worth the milliseconds that it takes."""


def give_back_memory() -> None:
    """Give the kernel what is free of the heap; nothing happens where the C library is not glibc."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)

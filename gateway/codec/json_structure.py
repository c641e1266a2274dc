"""What a text in JSON is made of, counted before objects are made of it: `[],[],…` takes 30 times its size.

Brackets, commas and quotes within strings are counted too, so a text is taken for more than it is, never for
less. Counting takes a millisecond a megabyte at most, and lets other threads run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtimes.errors import InputError

MAX_OBJECT_BYTES = 512 * 1024 * 1024
"""The most that the objects of one body may take."""
SMALL_BYTES = 4 * 1024 * 1024
"""No text that is shorter takes more than `MAX_OBJECT_BYTES`."""

# Bytes that each part takes as an object of Python, with what the parser has of it meanwhile.
_LIST, _OBJECT, _ELEMENT, _QUOTE = 256, 216, 32, 28
# What an element takes where numbers become no objects, see `large_json`.
_NUMBER = 16
# So much is compared at a time, as the result takes as much again.
_STRETCH_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Structure:
    """How often each part is in a text."""

    lists: int
    objects: int
    commas: int
    quotes: int

    @property
    def object_bytes(self) -> int:
        """About what it takes as objects, at most."""
        return self.lists * _LIST + self._other_bytes + self.commas * _ELEMENT

    @property
    def array_bytes(self) -> int:
        """About what it takes where its lists become arrays."""
        return self._other_bytes + self.commas * _NUMBER

    @property
    def _other_bytes(self) -> int:
        return self.objects * _OBJECT + self.quotes * _QUOTE


def structure_of(text: bytes | memoryview) -> Structure:
    """Count the parts of a text."""
    characters = np.frombuffer(text, np.uint8)
    counts = [0, 0, 0, 0]
    for start in range(0, len(characters), _STRETCH_BYTES):
        stretch = characters[start : start + _STRETCH_BYTES]
        for index, sign in enumerate(b'[{,"'):
            counts[index] += int(np.count_nonzero(stretch == sign))
    return Structure(*counts)


def check_objects(size: int, limit: int = MAX_OBJECT_BYTES) -> None:
    """Raise InputError where the objects of a text would take more than `limit` bytes."""
    if size > limit:
        raise InputError(
            f"the body has too many values: about {size >> 20} MiB as objects, and {limit >> 20} MiB are "
            "the most; send fewer, or send raw tensors"
        )

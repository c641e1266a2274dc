"""The bytes of a body, in the pieces in which they came."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Pieces = list[bytes | memoryview]

# Each piece of a body is an object of some 60 bytes, and a client may send one byte in each.
_SMALL_PIECE = 2048


def add_piece(pieces: list[bytes | memoryview], piece: bytes | memoryview) -> None:
    """Put a piece of a body behind the others; small ones become one."""
    if pieces and len(piece) < _SMALL_PIECE and len(pieces[-1]) < _SMALL_PIECE:
        pieces[-1] = b"".join((pieces[-1], piece))
    else:
        pieces.append(piece)


class BodyReader:
    """The bytes of a body, in the pieces in which they came, read once from front to back."""

    __slots__ = ("_offset", "_piece", "_pieces", "left")

    def __init__(self, pieces: Sequence[bytes | memoryview]) -> None:
        self._pieces = pieces
        self._piece = 0
        self._offset = 0
        self.left = sum(map(len, pieces))

    def take(self, size: int) -> memoryview:
        """Return the next `size` bytes, as many as there must be: a view, or a copy of several pieces."""
        self.left -= size
        part = self._next(size)
        if len(part) == size:
            return part
        # numpy's memory is aligned for every datatype, a bytearray's need not be
        whole = np.empty(size, np.uint8).data
        done = 0
        while True:
            whole[done : done + len(part)] = part
            done += len(part)
            if done == size:
                return whole
            part = self._next(size - done)

    def _next(self, limit: int) -> memoryview:
        """Return the next bytes that lie together: `limit`, or as many as are left of a piece."""
        if limit == 0:
            return memoryview(b"")
        while self._offset == len(self._pieces[self._piece]):
            self._piece, self._offset = self._piece + 1, 0
        part = memoryview(self._pieces[self._piece])[self._offset : self._offset + limit]
        self._offset += len(part)
        return part

"""Messages on the wire: one byte that says whether it is compressed, four for its length, then the message.

Specification: grpc, doc/PROTOCOL-HTTP2.md, `Length-Prefixed-Message`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from gateway.wire.body import Pieces, add_piece
from gateway.wire.codings import BodyTooLarge, UnknownCoding
from gateway.wire.texts import COMPRESSED_MESSAGE
from runtimes.errors import InputError

PREFIX_BYTES = 5
_PREFIX = struct.Struct(">BI")


def framed(message: Sequence[bytes | memoryview]) -> bytes:
    """Return a message, given in parts, as it goes on the wire; each byte is copied once."""
    return b"".join((_PREFIX.pack(0, sum(map(len, message))), *message))


def single_message(pieces: Sequence[bytes | memoryview]) -> Pieces:
    """Return the only message of a call's body, in pieces.

    Raises:
        UnknownCoding: when it is compressed.
        InputError: when the body is anything but one message.
    """
    if not pieces or len(pieces[0]) < PREFIX_BYTES:
        pieces = [b"".join(pieces)]
    first = pieces[0]
    if len(first) < PREFIX_BYTES:
        raise InputError(f"the body is no gRPC message: it has {len(first)} bytes")
    flag, size = _PREFIX.unpack_from(first)
    _check(flag)
    following = sum(map(len, pieces)) - PREFIX_BYTES
    if size != following:
        raise InputError(
            f"the body must be one message: its prefix tells of {size} bytes, {following} follow"
        )
    return [first[PREFIX_BYTES:], *pieces[1:]]


class Unframer:
    """Takes the messages, of at most `limit` bytes each, out of a stream of pieces."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: Pieces = []
        self._available = 0
        self._size = -1

    @property
    def is_between(self) -> bool:
        """Whether all that came belongs to whole messages."""
        return self._size < 0 and self._available == 0

    @property
    def pending(self) -> int:
        """How many bytes the message has that is not whole yet, as far as that is known."""
        return max(self._available, self._size)

    def feed(self, piece: bytes | memoryview) -> list[Pieces]:
        """Return the messages that are whole with this piece.

        Raises:
            UnknownCoding: when one is compressed.
            BodyTooLarge: when one is too large.
        """
        add_piece(self._pieces, piece)
        self._available += len(piece)
        messages: list[Pieces] = []
        while True:
            if self._size < 0:
                if self._available < PREFIX_BYTES:
                    return messages
                flag, self._size = _PREFIX.unpack(b"".join(self._take(PREFIX_BYTES)))
                _check(flag)
                if self._size > self._limit:
                    raise BodyTooLarge(f"a message is larger than {self._limit} bytes")
            if self._available < self._size:
                return messages
            messages.append(self._take(self._size))
            self._size = -1

    def _take(self, size: int) -> Pieces:
        """Return the next `size` bytes, which must be there."""
        self._available -= size
        taken: Pieces = []
        while size:
            piece = self._pieces[0]
            if len(piece) <= size:
                taken.append(self._pieces.pop(0))
                size -= len(piece)
            else:
                view = memoryview(piece)
                taken.append(view[:size])
                self._pieces[0] = view[size:]
                size = 0
        return taken


def _check(flag: int) -> None:
    if flag:
        raise UnknownCoding(COMPRESSED_MESSAGE)

"""Compressed bodies: what `Content-Encoding` and `Accept-Encoding` say, by zlib and within bounds."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from runtimes.errors import InputError

# zlib's `wbits`: a gzip member; a zlib stream, which HTTP calls deflate (RFC 9110, 8.4.1)
_FORMATS: Mapping[str, int] = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_FAST = 1
MAX_RATIO = 200
"""How many bytes of content each byte of a compressed body may have, beyond the first `_FREE_BYTES`."""
_FREE_BYTES = 4 * 1024 * 1024
_STEP_BYTES = 1024 * 1024
# So much is given to zlib at a time: after each step it copies what it has not read yet.
_SLICE_BYTES = 64 * 1024
# A smaller answer fits one packet as it is.
_MIN_BYTES = 1400


class BodyTooLarge(InputError):
    """A body has more bytes than are taken."""


class UnknownCoding(InputError):
    """A body is compressed in a way that is not supported."""


def decompress(
    pieces: Sequence[bytes | memoryview],
    coding: str,
    limit: int,
    reserve: Callable[[int], None] = lambda _size: None,
) -> list[bytes | memoryview]:
    """Return a compressed body's content, never holding more than `limit` bytes of it.

    `reserve` is called with the size of the content before there is so much of it; what it raises ends this.

    Raises:
        UnknownCoding: for anything but one of gzip, deflate and identity.
        BodyTooLarge: when the content has more than `limit` bytes, or more than `MAX_RATIO` for each byte.
        InputError: when the body is not what `coding` says, ends early, or goes on after its end.
    """
    coding = coding.strip().lower()
    if coding == "identity":
        return list(pieces)
    if coding not in _FORMATS:
        raise UnknownCoding(f"Content-Encoding {coding!r} is none of gzip, deflate and identity")
    reader = zlib.decompressobj(_FORMATS[coding])
    content: list[bytes | memoryview] = []
    received = sum(map(len, pieces))
    allowed = min(limit, max(_FREE_BYTES, received * MAX_RATIO))
    size = 0
    try:
        for rest in _slices(pieces):
            while True:
                reserve(received + min(size + _STEP_BYTES, allowed))
                # with one byte more than there is room for, a body of just the limit is not too large
                step = min(_STEP_BYTES, allowed - size + 1)
                part = reader.decompress(rest, step)
                content.append(part)
                size += len(part)
                if size > limit:
                    raise BodyTooLarge(f"the body is larger than {limit} bytes once decompressed")
                if is_inflated(received, size):
                    raise BodyTooLarge(
                        f"the body is more than {MAX_RATIO} times as large once decompressed; send it plain"
                    )
                rest = reader.unconsumed_tail
                if reader.eof or (not rest and len(part) < step):
                    break  # a full step may leave some of the content in the reader
            if reader.unused_data:
                break
    except zlib.error as error:
        raise InputError(f"the body is not {coding}, as Content-Encoding says: {error}") from None
    if not reader.eof:
        raise InputError(f"the body ends before its {coding} stream does")
    if reader.unused_data:
        raise InputError(f"the body goes on after the end of its {coding} stream")
    return content


def _slices(pieces: Sequence[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    for piece in pieces:
        for start in range(0, len(piece), _SLICE_BYTES):
            yield memoryview(piece)[start : start + _SLICE_BYTES]


def is_inflated(received: int, size: int) -> bool:
    """Whether `received` bytes became more than they may, see `MAX_RATIO`."""
    return size > max(_FREE_BYTES, received * MAX_RATIO)


def chosen_coding(accepted: str) -> str:
    """Return the coding for an answer: what `Accept-Encoding` names, if that is one coding; else "".

    HTTP libraries name several by default; one alone is a caller's own wish.
    """
    name, _, weight = accepted.strip().lower().partition(";")
    is_refused = weight.replace(" ", "").rstrip("0.") == "q="
    return "" if is_refused or name.strip() not in ("gzip", "deflate") else name.strip()


def compress(body: bytes, coding: str) -> bytes | None:
    """Return the body compressed, None where that is not worth it."""
    if len(body) < _MIN_BYTES:
        return None
    writer = zlib.compressobj(_FAST, zlib.DEFLATED, _FORMATS[coding])
    return writer.compress(body) + writer.flush()

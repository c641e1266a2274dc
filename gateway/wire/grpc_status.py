"""gRPC's status codes, and how an answer carries one (grpc, doc/PROTOCOL-HTTP2.md and doc/statuscodes.md).

Inside Kitserve an error has one status, HTTP's; the code is what it means to a gRPC client.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class Code(IntEnum):
    """The codes that Kitserve answers with."""

    OK = 0
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


CODES: Mapping[int, Code] = {
    200: Code.OK,
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    408: Code.DEADLINE_EXCEEDED,
    413: Code.RESOURCE_EXHAUSTED,
    415: Code.UNIMPLEMENTED,
    421: Code.UNAVAILABLE,
    422: Code.INVALID_ARGUMENT,
    425: Code.UNAVAILABLE,
    429: Code.RESOURCE_EXHAUSTED,
    431: Code.RESOURCE_EXHAUSTED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
    507: Code.RESOURCE_EXHAUSTED,
}
"""The one table from HTTP statuses to codes."""

_PLAIN = frozenset(range(0x20, 0x7F)) - {ord("%")}


def message_value(text: str) -> bytes:
    """Return a message as the field `grpc-message` carries it: percent-encoded where it is no plain ASCII."""
    raw = text.encode("utf-8", "replace")
    if _PLAIN.issuperset(raw):
        return raw
    return b"".join(b"%c" % byte if byte in _PLAIN else b"%%%02X" % byte for byte in raw)


def code_of(status: int) -> Code:
    """Return the code that an HTTP status means."""
    return CODES.get(status, Code.UNKNOWN)


def trailers(status: int, text: str = "") -> list[tuple[bytes, bytes]]:
    """Return what ends an answer whose body has begun; `status` is HTTP's."""
    headers = [(b"grpc-status", b"%d" % code_of(status))]
    return [*headers, (b"grpc-message", message_value(text))] if text else headers

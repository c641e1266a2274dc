"""HTTP/2 by hand, for clients that no library would be: many streams that are opened and left (RFC 9113)."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Sequence

HEADERS, SETTINGS = 1, 4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_END_STREAM, _END_HEADERS = 1, 4
_MAX_CONCURRENT_STREAMS = 3


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _field(name: bytes, value: bytes) -> bytes:
    """A header that is neither indexed nor compressed (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def request(stream: int, path: str, headers: Sequence[tuple[str, str]] = (), has_body: bool = False) -> bytes:
    """Return the HEADERS frame of a POST; one that has a body stays open."""
    fields = [
        (":method", "POST"),
        (":path", path),
        (":scheme", "http"),
        (":authority", "localhost"),
        *headers,
    ]
    block = b"".join(_field(name.encode(), value.encode()) for name, value in fields)
    return frame(HEADERS, _END_HEADERS | (0 if has_body else _END_STREAM), stream, block)


def connect(port: int, source: str) -> socket.socket:
    """Return a TCP connection from another loopback address."""
    connection = socket.socket()
    connection.settimeout(5)
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.bind((source, 0))
        connection.connect(("127.0.0.1", port))
    except BaseException:
        connection.close()
        raise
    return connection


def open_streams(port: int, source: str, requests: Sequence[bytes]) -> socket.socket | None:
    """Open a connection with these requests; None where it is refused."""
    try:
        connection = connect(port, source)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        connection.sendall(_PREFACE + frame(SETTINGS, 0, 0) + b"".join(requests))
    return connection


def frames(connection: socket.socket, seconds: float = 0.3) -> Iterator[tuple[int, int, bytes]]:
    """Yield kind, stream and payload of what comes until nothing comes for a while."""
    connection.settimeout(seconds)
    data = b""
    with contextlib.suppress(OSError):
        while piece := connection.recv(65536):
            data += piece
    while len(data) >= 9:
        length = int.from_bytes(data[:3])
        yield data[3], int.from_bytes(data[5:9]), data[9 : 9 + length]
        data = data[9 + length :]


def max_concurrent_streams(payload: bytes) -> int | None:
    """Return the setting of that name in a SETTINGS frame."""
    settings = dict(struct.iter_unpack(">HI", payload))
    return settings.get(_MAX_CONCURRENT_STREAMS)

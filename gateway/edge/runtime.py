"""What HAProxy's runtime and master sockets are told, and answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gateway.errors import EdgeError

_ANSWER_SECONDS = 10
# A command and what it carries must fit a buffer (tune.bufsize, less what HAProxy reserves).
_PORTION_BYTES = 16384


def map_lines(entries: Mapping[str, str]) -> list[str]:
    """A map as HAProxy reads it."""
    return [f"{key} {value}\n" for key, value in entries.items()]


def portions(texts: Sequence[str]) -> Iterator[list[str]]:
    """The same texts in order, so many at a time as HAProxy's buffer holds."""
    portion: list[str] = []
    size = 0
    for text in texts:
        if portion and size + len(text) > _PORTION_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(text)
        size += len(text)
    if portion:
        yield portion


def ask(path: Path, command: str) -> str:
    """Send one command line to an HAProxy socket and return its whole answer."""
    answer = bytearray()
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.connect(str(path))
            connection.sendall(command.encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
    except OSError as error:
        raise EdgeError(f"HAProxy does not answer at {path}: {error}") from error
    return answer.decode(errors="replace")

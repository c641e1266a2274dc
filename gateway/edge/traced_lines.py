"""Which lines of HAProxy's access log are of traced calls: they go to the gateway, which makes spans of them.

While calls are traced, HAProxy logs each traced one, whatever `access_log` says, and each line ends with
what a span is made of (`templates/access_log.cfg.j2`). Here the lines become what `access_log` asks for.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from gateway.logs.limits import Logged
from gateway.wire.unix_sockets import short_path

SPAN = b',"span":"'
"""What comes before the member that is not for the log."""
LEVELS: Mapping[Logged, str] = {"all": "info", "errors": "warning", "off": "debug"}
"""The level that lines have, by what `access_log` was when HAProxy wrote them."""
_LOGGED: Mapping[bytes, Logged] = {level.encode(): logged for logged, level in LEVELS.items()}
_LEVEL = re.compile(rb'"level":"(\w+)"')
# How the span begins of a call that is not traced: one with no trace at all, and one with its caller's.
_NONE = (b"-", b"/")
_STATUS = re.compile(rb'"status":(-?\d+)')
_FIRST_ERROR = 500
# As HAProxy has it: no retry; and that the call's end was its own, or ours.
_NO_RETRY = b'"retries":"0"'
_AS_MEANT = re.compile(rb'"end":"[-L]')
_MESSAGE_BYTES = 64 * 1024
_BUFFER_BYTES = 1024 * 1024
_PAUSE_SECONDS = 1.0


class TracedLines:
    """Hands on the lines of traced calls, and returns those that are to be logged.

    `logged` is what `access_log` is at the start; it may change later, which the lines tell by their level.
    """

    def __init__(self, logged: Logged, send: Callable[[list[bytes]], None]) -> None:
        self._logged = logged
        self._send = send

    def take(self, lines: list[bytes]) -> list[bytes]:
        """Take lines of HAProxy's; returns those for the log, as they are there."""
        traced: list[bytes] = []
        shown: list[bytes] = []
        for line in lines:
            head, mark, span = line.rpartition(SPAN)
            if mark and (level := _LEVEL.search(line)):
                self._logged = _LOGGED.get(level[1], self._logged)
            is_traced = bool(mark) and not span.startswith(_NONE)
            if is_traced:
                traced.append(line)
            if self._logged == "off" or (self._logged == "errors" and is_traced and not _is_error(line)):
                continue
            shown.append(head + b"}" if mark else line)
        if traced:
            self._send(traced)
        return shown


class TraceSender:
    """Sends lines to the gateway's socket, and waits for nothing: what it does not take at once is dropped.

    Each message is the number of lines that were dropped before it, a line end, and whole lines.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._connection: socket.socket | None = None
        self._tried = -_PAUSE_SECONDS
        self._dropped = 0

    def send(self, lines: list[bytes]) -> None:
        """Send lines, or drop them."""
        portion: list[bytes] = []
        size = 0
        for line in lines:
            if size + len(line) > _MESSAGE_BYTES:
                self._send(portion)
                portion, size = [], 0
            portion.append(line)
            size += len(line) + 1
        self._send(portion)

    def close(self) -> None:
        """Send no more."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(self, lines: list[bytes]) -> None:
        connection = self._connection or self._connect()
        if connection is None:
            self._dropped += len(lines)
            return
        try:
            connection.send(b"\n".join([b"%d" % self._dropped, *lines]))
        except BlockingIOError:
            self._dropped += len(lines)
        except OSError:
            # The gateway has ended; another one listens soon.
            self._dropped += len(lines)
            self.close()
        else:
            self._dropped = 0

    def _connect(self) -> socket.socket | None:
        now = self._clock()
        if now - self._tried < _PAUSE_SECONDS:
            return None
        self._tried = now
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with suppress(OSError):
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            with short_path(self._path) as path:
                connection.connect(path)
            self._connection = connection
            return connection
        connection.close()
        return None


def _is_error(line: bytes) -> bool:
    """Tell whether a line is one that is logged where errors are."""
    status = _STATUS.search(line)
    is_failure = status is not None and int(status[1]) >= _FIRST_ERROR
    return is_failure or _NO_RETRY not in line or _AS_MEANT.search(line) is None

"""Takes the edge's lines of traced calls from a Unix socket; `edge/traced_lines.py` has the messages."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gateway.wire.unix_sockets import short_path

_MESSAGE_BYTES = 256 * 1024
_TICK_SECONDS = 1.0

log = logging.getLogger(__name__)


class LineReceiver:
    """Listens until it is stopped; `take` is given whole lines, and how many were lost before them."""

    def __init__(self, path: Path, take: Callable[[list[bytes], int], None]) -> None:
        self._take = take
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path.unlink(missing_ok=True)
        with short_path(path) as short:
            self._listener.bind(short)
        path.chmod(0o600)
        self._listener.listen(4)
        # A gateway that is being stopped waits for no call.
        self._listener.settimeout(_TICK_SECONDS)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-traces", daemon=True)

    def start(self) -> None:
        """Start to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Listen no more."""
        self._stopping.set()
        self._thread.join(2 * _TICK_SECONDS)
        self._listener.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(OSError):  # nobody came, or who came is gone
                connection, _ = self._listener.accept()
                with connection:
                    connection.settimeout(_TICK_SECONDS)
                    self._read(connection)

    def _read(self, connection: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                message = connection.recv(_MESSAGE_BYTES)
            except TimeoutError:
                continue
            if not message:
                return
            lost, *lines = message.split(b"\n")
            try:
                self._take(lines, int(lost))
            except Exception:
                log.exception("traces.unread")

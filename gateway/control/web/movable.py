"""A web server on a TCP address that may change while it runs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from gateway.control.web.server import WebServer
from gateway.errors import ControlError
from gateway.wire.server import check_free, listen_fault, tcp_socket

_ANSWER_SECONDS = 1.0


class MovableServer:
    """One server at a time; `make` makes it for a socket that listens.

    Raises:
        OSError: when the first address cannot be listened on.
    """

    def __init__(self, make: Callable[[socket.socket], WebServer], host: str, port: int) -> None:
        self._make = make
        self._port = port
        self._server = make(tcp_socket(host, port))

    def start(self) -> None:
        """Start to answer."""
        self._server.start()

    async def check(self) -> None:
        """Raise RuntimeError when it does not answer."""
        await self._server.check()

    def stop(self) -> None:
        """Answer no more."""
        self._server.stop()

    def opened(self, host: str, port: int) -> WebServer:
        """Return a server that answers at another address, for `use`, or to be stopped again.

        Raises:
            ControlError: when that cannot be listened on; nothing has changed then.
        """
        try:
            if port != self._port:
                # It would be shared with a program of this user that listens in the same way.
                check_free(host, port)
            server = self._make(tcp_socket(host, port))
        except OSError as error:
            raise ControlError(f"cannot listen on {host} port {port} ({listen_fault(error)})") from error
        server.start()
        return server

    def use(self, server: WebServer, port: int) -> None:
        """Have a server that was opened take the place of the one before, which ends a moment later.

        The call that asks for this may have come in there, and gets its answer.
        """
        before, self._server, self._port = self._server, server, port
        timer = threading.Timer(_ANSWER_SECONDS, before.stop)
        timer.daemon = True
        timer.start()

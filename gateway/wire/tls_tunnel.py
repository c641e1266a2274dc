"""A connection over TLS that looks like a plain socket, for what passes bytes on as they are."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import cast

from gateway.wire.worker_tls import WORKER_NAME


async def open_tunnel(address: tuple[str, int], context: ssl.SSLContext) -> socket.socket:
    """Connect to a worker; return a socket for what the worker is to read, and for what it writes.

    The connection ends with the socket, and once the worker has closed, the socket has ended, too.

    Raises:
        OSError: when nobody listens there, or no worker of this start.
    """
    loop = asyncio.get_running_loop()
    near, far = _End(), _End()
    near.other, far.other = far, near
    outside, inside = socket.socketpair()
    try:
        outside.setblocking(False)
        # First: a worker may write before it is asked.
        await loop.create_connection(lambda: near, sock=inside)
        await loop.create_connection(lambda: far, *address, ssl=context, server_hostname=WORKER_NAME)
    except BaseException:
        outside.close()
        inside.close()
        near.close()
        raise
    return outside


class _End(asyncio.Protocol):
    """One end of a tunnel: what comes here is written at the other end, as fast as that goes."""

    def __init__(self) -> None:
        self.other = self
        self._transport = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.other.write(data)

    def pause_writing(self) -> None:
        self.other.pause(True)

    def resume_writing(self) -> None:
        self.other.pause(False)

    def connection_lost(self, _error: Exception | None) -> None:
        self.other.close()

    def write(self, data: bytes) -> None:
        """Write bytes; after the connection's end, nothing."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def pause(self, is_paused: bool) -> None:
        """Read no more, or read on."""
        if not self._transport.is_closing():
            (self._transport.pause_reading if is_paused else self._transport.resume_reading)()

    def close(self) -> None:
        """Close once all is written."""
        if self._transport is not None:
            self._transport.close()

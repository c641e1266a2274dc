"""A client's connection before it is one: TLS is agreed on first."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Coroutine
from typing import Any, cast

from gateway.wire.connection import Connection
from gateway.wire.flow import Shared
from gateway.wire.limits import STREAM_SECONDS

# Nobody holds a connection for longer without having agreed.
_HANDSHAKE_SECONDS = 10.0

log = logging.getLogger(__name__)


class TlsOpening(asyncio.Protocol):
    """Agrees on TLS with a client, then has a `Connection` go on in its place.

    A server of asyncio's that is given a context does the same, but does not tell what is beneath TLS, which
    `FlowControl.write_at_once` needs, and why nothing was agreed on.
    """

    def __init__(self, shared: Shared, context: ssl.SSLContext) -> None:
        self._context = context
        self._connection = Connection(shared)
        self._transport = cast(asyncio.Transport, None)
        self._opening = cast(Coroutine[Any, Any, asyncio.Transport | None], None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._opening = asyncio.get_running_loop().start_tls(
            self._transport,
            self._connection,
            self._context,
            server_side=True,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            # What is still to be written when it closes goes at the client's pace. Who takes nothing at all
            # is cut off by the server, see `FlowControl.is_quiet_since`.
            ssl_shutdown_timeout=STREAM_SECONDS,
        )
        # Begun here and not by a task, which would begin later: what the client sends first would be lost.
        self._opening.send(None).add_done_callback(self._agreed)

    def _agreed(self, _waited_for: asyncio.Future[None]) -> None:
        """Go on once TLS is agreed on, or is not."""
        try:
            self._opening.send(None)
        except StopIteration as end:
            transport: asyncio.Transport = end.value
            if not transport.is_closing():
                self._connection.connection_made(transport, self._transport)
        except ssl.SSLError as error:
            # Such as HTTP in clear, or a caller that knows another authority.
            # Without the port: else none of many lines were like another, and could be counted with it.
            peer = self._transport.get_extra_info("peername") or ("unknown",)
            log.warning("tls.refused", extra={"peer": str(peer[0]), "reason": str(error.reason or error)})
        except OSError:
            # It hung up, as the gateway does that only tries whether anybody listens, or took too long.
            self._transport.abort()

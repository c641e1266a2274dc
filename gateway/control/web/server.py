"""An HTTP server in a thread, with an event loop of its own: uvicorn, for the admin API and the front."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from concurrent.futures import Future
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.wire.unix_sockets import peer_user

# Longer than the edge keeps an idle connection, so that the edge is always the side that closes.
_KEEP_ALIVE_SECONDS = 180
_START_SECONDS = 10
PEER = "kitserve.peer"
"""In the scope of a request over a Unix socket: the number of the user at the other end."""


CERTIFICATE = "kitserve.certificate"
"""In the scope of a request over TLS: the client's certificate, which was verified, as `ssl` tells of it."""
ABORT = "kitserve.abort"
"""In the scope of each request: what ends its connection at once, with all that was not sent yet."""


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which asks the kernel and TLS who is at the other end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._add({ABORT: transport.abort})
        connected = transport.get_extra_info("socket")
        if connected.family == socket.AF_UNIX:
            self._add({PEER: peer_user(connected)})
        elif certificate := transport.get_extra_info("peercert"):
            self._add({CERTIFICATE: certificate})

    def _add(self, peer: dict[str, Any]) -> None:
        """Add to the scope of each request on this connection."""
        app = self.app

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, **peer}, receive, send)

        self.app = with_peer


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ended = asyncio.Event()

    def install_signal_handlers(self) -> None:
        """Leave signals to the process: this server lives in a thread."""

    async def main_loop(self) -> None:
        """Wait for the end; uvicorn's own looks for it ten times a second, and writes dates."""
        await self.on_tick(0)
        await self.ended.wait()


class WebServer:
    """Serves one ASGI app until it is stopped, on sockets that are bound; `address` is that of the first."""

    def __init__(self, app: Any, *sockets: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        self._sockets = sockets
        self.address: Any = sockets[0].getsockname()
        config = uvicorn.Config(
            app,
            http=_Protocol,
            loop="uvloop",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
        config.load()
        config.ssl = tls
        self._server = _Server(config)
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    def start(self) -> None:
        """Start to answer; returns once the event loop runs."""
        self._thread.start()
        self._loop.result(_START_SECONDS)

    async def check(self) -> None:
        """Wait until the server's event loop answers.

        Raises:
            RuntimeError: when the server's thread has ended.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the gateway's HTTP server has ended")
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop.result()))

    def stop(self, grace: float = 1.0) -> None:
        """Close the port and all connections, and end the thread."""
        self._server.should_exit = True
        if self._thread.is_alive():
            # The loop may be closed just now.
            with contextlib.suppress(RuntimeError):
                self._loop.result(_START_SECONDS).call_soon_threadsafe(self._server.ended.set)
        self._thread.join(grace)
        self._server.force_exit = True
        self._thread.join(grace)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop.set_result(asyncio.get_running_loop())
        await self._server.serve(sockets=list(self._sockets))

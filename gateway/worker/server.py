"""An HTTP server in a thread, with a loop of its own: uvicorn, for workers and for the admin API."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Longer than the edge keeps an idle connection, so that the edge is always the side that closes.
_KEEP_ALIVE_SECONDS = 180
_START_SECONDS = 10
_BACKLOG = 4096
_LARGE = 65536


class OneWriteTransport:
    """A transport that sends a response's head together with its body.

    uvicorn writes the head by itself. A worker that is killed between the two writes leaves a client
    with half an answer, which nobody can send again; and each write is a system call.
    """

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            if len(data) > _LARGE:
                # both in one system call without a copy of the body
                self._transport.writelines((head, data))
                return
            data = head + data
        elif data.startswith(b"HTTP/1.") and not data.startswith(b"100", 9):
            self._head = data
            return
        self._transport.write(data)

    def close(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Protocol(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        whole = OneWriteTransport(cast(asyncio.Transport, transport))
        super().connection_made(cast(asyncio.Transport, whole))


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """Leave signals to the process: this server lives in a thread."""


class HttpServer:
    """Serves one ASGI app until it is stopped, on `port` of `host`; 0 takes a free one.

    A response to HEAD must close its connection: its head is sent when the body comes or at the close.
    """

    def __init__(self, app: Any, host: str, port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self.host = host
        self.port: int = self._socket.getsockname()[1]
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
            backlog=_BACKLOG,
        )
        self._server = _Server(config)
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Start to answer; returns once the loop runs."""
        self._thread.start()
        self._loop.result(_START_SECONDS)

    async def check(self) -> None:
        """Ask the server's thread for a sign of life.

        Raises:
            RuntimeError: when its thread has ended.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the HTTP server has ended")
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop.result()))

    def stop(self, grace: float = 1.0) -> None:
        """Close the port and all connections, and end the thread."""
        self._server.should_exit = True
        self._thread.join(grace)
        self._server.force_exit = True
        self._thread.join(grace)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop.set_result(asyncio.get_running_loop())
        await self._server.serve(sockets=[self._socket])

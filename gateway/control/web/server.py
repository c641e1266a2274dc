"""An HTTP server in a thread, with an event loop of its own: uvicorn, for the admin API and the front."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import uvicorn

from gateway.wire.server import tcp_socket

# Longer than the edge keeps an idle connection, so that the edge is always the side that closes.
_KEEP_ALIVE_SECONDS = 180
_START_SECONDS = 10


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """Leave signals to the process: this server lives in a thread."""


class WebServer:
    """Serves one ASGI app until it is stopped, on `port` of `host`; 0 takes a free port."""

    def __init__(self, app: Any, host: str, port: int = 0) -> None:
        self._socket = tcp_socket(host, port)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            http="httptools",
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
        self._thread.join(grace)
        self._server.force_exit = True
        self._thread.join(grace)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop.set_result(asyncio.get_running_loop())
        await self._server.serve(sockets=[self._socket])

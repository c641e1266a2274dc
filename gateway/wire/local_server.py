"""A server of raw connections on a Unix socket, in a thread with an event loop, and how two of them are tied.

For what passes bytes on as they are; what answers HTTP itself is a handler of `HttpServer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from gateway.wire.server import local_socket

_RETRY_SECONDS = 0.2
_LINGER_SECONDS = 1.0
_PIECE_BYTES = 64 * 1024

log = logging.getLogger(__name__)


class LocalServer:
    """Gives each connection to `serve`, in a task of its own, until it is stopped.

    `serve` must not raise; `name` is the thread's, and begins the names of events.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        serve: Callable[[socket.socket], Coroutine[Any, Any, None]],
        backlog: int,
    ) -> None:
        self._path = path
        self._name = name
        self._serve = serve
        self._backlog = backlog
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many connections are being served."""
        return len(self._connections)

    @property
    def is_running(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Listen, in place of an earlier server.

        Raises:
            OSError: when the socket cannot be made.
        """
        self._listener = local_socket(str(self._path))
        self._listener.listen(self._backlog)
        self._listener.setblocking(False)
        self._thread.start()

    def stop(self) -> None:
        """Close all, and end the thread. Safe to call twice."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.create_task(self._accept())
        try:
            self.loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._listener.close()
            self.loop.close()

    async def _accept(self) -> None:
        while True:
            try:
                client, _ = await self.loop.sock_accept(self._listener)
            except OSError as error:
                # No more files may be open; some call ends soon.
                log.warning(f"{self._name}.refused", extra={"reason": str(error)})
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            client.setblocking(False)
            task = self.loop.create_task(self._serve(client))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)


async def tie(
    client: socket.socket,
    server: socket.socket,
    first: list[bytes],
    sent: Callable[[], None] = lambda: None,
) -> None:
    """Send pieces to the server, then copy bytes both ways until it has answered, or the client hung up.

    The pieces are taken out of the list as they are sent, as their memory is not needed any more; `sent` is
    called once all are.
    """
    loop = asyncio.get_running_loop()
    answer = loop.create_task(_copy(server, client))
    rest = loop.create_task(_send_and_copy(first, client, server, sent))
    try:
        await asyncio.wait((answer, rest), return_when=asyncio.FIRST_COMPLETED)
        # A server may answer without having read all, and close; the rest then has nowhere to go.
        if not answer.done() and not rest.result():
            await answer
        if answer.done():
            await finish(client)
    finally:
        for task in (answer, rest):
            task.cancel()
        await asyncio.gather(answer, rest, return_exceptions=True)


async def finish(client: socket.socket) -> None:
    """Read what is still sent: a socket that is closed with unread bytes may lose its answer."""
    client.shutdown(socket.SHUT_WR)
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while await loop.sock_recv(client, _PIECE_BYTES):
                pass


async def _send_and_copy(
    first: list[bytes], source: socket.socket, target: socket.socket, sent: Callable[[], None]
) -> bool:
    try:
        while first:
            await asyncio.get_running_loop().sock_sendall(target, first.pop(0))
    except OSError:
        return False
    sent()
    return await _copy(source, target)


async def _copy(source: socket.socket, target: socket.socket) -> bool:
    """Copy until one side ends; returns whether that is the source."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            piece = await loop.sock_recv(source, _PIECE_BYTES)
        except OSError:
            return True
        if not piece:
            return True
        try:
            await loop.sock_sendall(target, piece)
        except OSError:
            return False

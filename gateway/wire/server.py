"""The workers' HTTP/1.1 server: a loop of its own in a thread, and one `Connection` for each client."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import uvloop

from gateway.wire.budget import BodyBudget
from gateway.wire.connection import Connection
from gateway.wire.exchange import Handler
from gateway.wire.flow import Shared
from gateway.wire.heap import LARGE_BYTES, give_back_memory
from gateway.wire.limits import ARRIVING_BYTES
from gateway.wire.tls_connection import TlsOpening

_START_SECONDS = 10
_BACKLOG = 4096
_TICK_SECONDS = 5.0
# So many bodies are decompressed, or read away from the loop, at a time.
_ASIDE = 4
# Longer than the edge keeps an idle connection, so that the edge is always the side that closes.
_QUIET_TICKS = 36


class HttpServer:
    """Serves what `handler` answers until it is stopped, on `port` of `host`; 0 takes a free one.

    Where `host` is a path, the server is on a Unix socket there, and has no port. The bodies that it holds
    take at most `body_bytes`. With `tls` it speaks nothing else.
    """

    def __init__(
        self,
        handler: Handler,
        host: str,
        port: int = 0,
        *,
        body_bytes: int = ARRIVING_BYTES,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._socket = local_socket(host) if host.startswith("/") else tcp_socket(host, port)
        self.host = host
        self.port: int = 0 if host.startswith("/") else self._socket.getsockname()[1]
        self._tls = tls
        self._shared = Shared(handler, BodyBudget(body_bytes))
        self._grace = 0.0
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Start to answer; returns once the loop runs."""
        self._thread.start()
        self._loop.result(_START_SECONDS)

    async def check(self) -> None:
        """Check that the server's loop still runs.

        Raises:
            RuntimeError: when its thread has ended.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the HTTP server has ended")
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop.result()))

    @property
    def refused_bodies(self) -> int:
        """How many calls found no room for their bodies."""
        return self._shared.budget.refusals

    def write_at_once(self) -> None:
        """Have what is written from now on sent at once, as the loop stands still; from any thread."""
        for connection in list(self._shared.connections):
            connection.write_at_once()

    def stop(self, grace: float = 1.0) -> None:
        """Close the port, answer what is inside within `grace` seconds, close the rest, end the thread."""
        if self._thread.is_alive():
            self._grace = grace
            self._loop.result().call_soon_threadsafe(self._stopped.set)
            self._thread.join(grace + _START_SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(_ASIDE, "aside"))
        create = loop.create_unix_server if self._socket.family == socket.AF_UNIX else loop.create_server
        server = await create(self._protocol, sock=self._socket, backlog=_BACKLOG)
        self._loop.set_result(loop)
        while not self._stopped.is_set():
            try:
                await asyncio.wait_for(self._stopped.wait(), _TICK_SECONDS)
            except TimeoutError:
                self._tick()
        server.close()
        await self._finish()

    def _protocol(self) -> asyncio.BaseProtocol:
        """Return what takes a new connection."""
        return Connection(self._shared) if self._tls is None else TlsOpening(self._shared, self._tls)

    def _tick(self) -> None:
        """Close the connections whose client has been quiet for long, or sends a body too slowly.

        Once large bodies are gone, give back what they took.
        """
        shared, now = self._shared, time.monotonic()
        shared.tick += 1
        for connection in list(shared.connections):
            if connection.is_quiet_since(shared.tick - _QUIET_TICKS):
                connection.abort()
            else:
                connection.end_if_slow(now)
        if shared.budget.take_peak() > LARGE_BYTES:
            asyncio.get_running_loop().run_in_executor(None, give_back_memory)

    async def _finish(self) -> None:
        shared = self._shared
        shared.is_stopping = True
        for connection in list(shared.connections):
            connection.finish()
        end = asyncio.get_running_loop().time() + self._grace
        while shared.connections and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.01)
        for connection in list(shared.connections):
            connection.abort()
        await asyncio.sleep(0)


def tcp_socket(host: str, port: int) -> socket.socket:
    """Listen on `port` of `host`, an IPv4 or IPv6 address; 0 takes a free port.

    A port that `reserve_port` holds is taken too, unless its holder is another user.
    """
    return socket.create_server((host, port), family=_family(host), backlog=_BACKLOG, reuse_port=port != 0)


def reserve_port(host: str, port: int) -> socket.socket:
    """Hold a port without listening on it, so that no other program gets it before `tcp_socket` takes it.

    Linux gives the ports of net.ipv4.ip_local_port_range to outgoing connections as well, such as Ray's.

    Raises:
        OSError: when somebody has it.
    """
    check_free(host, port)
    return hold_port(host, port)


def check_free(host: str, port: int) -> None:
    """Raise OSError where somebody has a port, or it cannot be listened on."""
    # Without SO_REUSEPORT: it would be shared with somebody who listens with it.
    socket.create_server((host, port), family=_family(host)).close()


def listen_fault(error: OSError) -> str:
    """Return in a few words why a port cannot be listened on."""
    return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)


def hold_port(host: str, port: int) -> socket.socket:
    """Hold a port as `reserve_port` does, also where this user's `tcp_socket` listens on it already.

    Raises:
        OSError: when somebody else has it.
    """
    family = _family(host)
    holder = socket.socket(family, socket.SOCK_STREAM)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        holder.bind((host, port))
    except OSError:
        holder.close()
        raise
    return holder


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def local_socket(path: str) -> socket.socket:
    """Bind a Unix socket for this user alone, in place of one that a killed server left."""
    Path(path).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    Path(path).chmod(0o600)
    return listening

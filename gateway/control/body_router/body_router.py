"""Finds the model of a call whose body is longer than the edge's buffer, and gives the call back to it.

The edge reads `model` by itself where it comes early in the body, or where a header or the path names it.
Else it sends the call here. The whole body is read, and the edge is called again, on a socket of its own,
with a header that names the model. The two connections are then tied together: an answer is passed on as it
comes, and who hangs up is noticed on the other side.

A call cannot go round: the edge sends none here that came to it on that socket.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from pathlib import Path

from gateway.control.body_router.named_model import ModelNotNamed, named_model
from gateway.control.body_router.routed_call import RefusedCall, RoutedCall
from gateway.wire.budget import BodyBudget, BudgetFull, Reservation
from gateway.wire.limits import BODY_BYTES
from gateway.wire.local_server import LocalServer, finish, tie

MAX_CALLS = 400
"""How many calls may be here at a time, those whose answers are passed on among them."""
MAX_READ_CALLS = MAX_CALLS // 4
"""How many of them may be one caller's whose bodies are coming."""
HELD_BYTES = 4 * BODY_BYTES
"""How many bytes of bodies may be here at a time, until they go on."""
READ_SECONDS = 300.0
"""How long a body may take to come: 64 MB at 220 KB/s."""
_PIECE_BYTES = 256 * 1024
_AGAIN = (
    "too many large calls that do not name their model early; ask again, or send the header ModelKit-Model"
)

log = logging.getLogger(__name__)


class BodyRouter:
    """Listens for the edge on one Unix socket, in a thread of its own, and calls it on another."""

    def __init__(self, path: Path, edge: Path) -> None:
        self._edge = str(edge)
        self._server = LocalServer(path, "body_router", self._serve, MAX_CALLS)
        self._budget = BodyBudget(HELD_BYTES)
        # By caller, how many bodies are coming.
        self._reading: Counter[bytes] = Counter()

    def start(self) -> None:
        """Listen, in place of an earlier one.

        Raises:
            OSError: when the socket cannot be made.
        """
        self._server.start()

    def stop(self) -> None:
        """Close; what it passes on breaks off. Safe to call twice."""
        self._server.stop()

    async def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                await self._route(client)
            except OSError as error:
                log.debug("body_router.lost", extra={"reason": str(error)})
            except Exception:
                log.exception("body_router.failed")

    async def _route(self, client: socket.socket) -> None:
        """Pass one call on, or answer why not."""
        loop = asyncio.get_running_loop()
        # Where the model sleeps, the body waits here until a worker takes it.
        reservation = self._budget.reserve(0)
        try:
            request = await self._read_in_time(client, reservation)
            if request is None:
                return
            edge = socket.socket(socket.AF_UNIX)
            with edge:
                edge.setblocking(False)
                await loop.sock_connect(edge, self._edge)
                await tie(client, edge, request, reservation.release)
        except RefusedCall as refusal:
            reservation.release()
            await loop.sock_sendall(client, refusal.answer())
            await finish(client)
        finally:
            reservation.release()

    async def _read_in_time(self, client: socket.socket, reservation: Reservation) -> list[bytes] | None:
        """Return what `_read` does; a slow sender must not keep others out for ever."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await self._read(client, reservation)
        except TimeoutError:
            raise RefusedCall(408, "the request took too long to arrive") from None

    async def _read(self, client: socket.socket, reservation: Reservation) -> list[bytes] | None:
        """Return a call as the edge is to get it, head and body; None when its caller has hung up.

        Raises:
            RefusedCall: when it names no model, or is too large.
        """
        if self._server.connections > MAX_CALLS:
            raise RefusedCall(503, _AGAIN)
        loop, call = asyncio.get_running_loop(), RoutedCall()
        source: bytes | None = None
        try:
            while not call.is_complete:
                piece = await loop.sock_recv(client, _PIECE_BYTES)
                if not piece:
                    return None
                call.feed(piece)
                if source is None and call.has_head:
                    source = call.source
                    self._reading[source] += 1
                    if self._reading[source] > MAX_READ_CALLS:
                        raise RefusedCall(503, _AGAIN)
                reservation.resize(max(call.size, call.announced))
                if reservation.is_slow(call.size, time.monotonic()):
                    raise RefusedCall(408, "the body comes too slowly")
            body = call.take_body()
            model = await asyncio.to_thread(named_model, body)
        except ModelNotNamed as error:
            raise RefusedCall(400, str(error), None, "model") from None
        except BudgetFull:
            raise RefusedCall(503, _AGAIN) from None
        finally:
            if source is not None:
                self._reading[source] -= 1
                if not self._reading[source]:
                    del self._reading[source]
        return [call.head_for(model), body]

"""One client's connection: bytes become calls, handled in their order; answers go back the same way."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import httptools
import numpy as np

from gateway.wire.body import add_piece
from gateway.wire.exchange import Exchange, Handler
from gateway.wire.limits import HEAD_BYTES

# With so much missing of a body, the rest is read straight to where it stays.
_DIRECT_BYTES = 32768
# How long a client may go on to send before it reads why it should not.
_LINGER_SECONDS = 2.0
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_JSON = ((b"content-type", b"application/json"),)
_FAILED = b'{"error":"the server failed on this call; its log says why"}'

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Shared:
    """What all connections of a server have together; all of it belongs to the loop."""

    handler: Handler
    connections: set[Connection] = field(default_factory=set)
    scratch: memoryview = field(default_factory=lambda: memoryview(bytearray(HEAD_BYTES)))
    """Where bytes arrive; each read is taken out of it before the next."""
    tick: int = 0
    """Counts up; tells how long a connection has been quiet."""
    stopping: bool = False


class Connection(asyncio.BufferedProtocol):
    """Takes requests as they come, several at once too, and has them handled one after the other."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._handler = shared.handler
        self._scratch = shared.scratch
        self._transport = cast(asyncio.Transport, None)
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._between = 0
        """Bytes since the last that belonged to a body."""
        self._reading: Exchange | None = None
        """The call whose body is coming."""
        self._waiting: deque[Exchange] = deque()
        """Calls in their order; the first is being handled."""
        self._advancing = False
        self._direct: memoryview | None = None
        """The body that is being read to where it stays, filled up to `_filled`."""
        self._filled = 0
        self._upgrade = False
        self._deaf = False
        """What else comes is dropped."""
        self._held = False
        self._paused = False
        self.writable = True
        self.heard = shared.tick
        """When the client last did something."""
        self._unread = 0
        """How much of the answers the client had not taken at the last look."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._shared.connections.add(self)

    def get_buffer(self, _sizehint: int) -> memoryview:
        direct = self._direct
        return self._scratch if direct is None else direct[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._deaf:
            return
        self.heard = self._shared.tick
        if self._direct is not None:
            self._fill(nbytes)
        else:
            self._between += nbytes
            self._parse(self._scratch[:nbytes])
        if self._waiting:
            self._advance()

    def eof_received(self) -> None:
        """Take a client that ends its side for one that hung up, and let the transport close."""
        self._abandon()

    def connection_lost(self, _error: Exception | None) -> None:
        self._shared.connections.discard(self)
        self._abandon()

    def pause_writing(self) -> None:
        self.writable = False
        self._flow()

    def resume_writing(self) -> None:
        self.heard = self._shared.tick
        self.writable = True
        if self._waiting:
            first = self._waiting[0]
            if first.on_writable is not None:
                try:
                    first.on_writable()
                except Exception:
                    self._fail(first)
            self._advance()
        self._flow()

    # What the parser calls only takes notes.

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is not None:
            return  # a trailer
        name = name.lower()
        headers = self._headers
        value = value.rstrip(b" \t")
        headers[name] = value if name not in headers else headers[name] + b", " + value

    def on_headers_complete(self) -> None:
        parser, headers = self._parser, self._headers
        keep_alive = parser.should_keep_alive()
        # HTTP/1.0 is known by either; asking for the version costs more than both
        old = (not keep_alive or b"connection" in headers) and parser.get_http_version() == "1.0"
        method = parser.get_method().decode()
        exchange = Exchange(self, method, self._target.decode("latin-1"), headers, keep_alive, not old)
        self._target = b""
        self._headers = {}
        self._reading = exchange
        self._upgrade = parser.should_upgrade()
        self._waiting.append(exchange)
        coding = headers.get(b"transfer-encoding")
        if coding is not None and (old or coding.lower() != b"chunked"):
            self._refuse(400, "Transfer-Encoding must be chunked, and nothing else, in HTTP/1.1")

    def on_body(self, body: bytes) -> None:
        exchange = self._reading
        if exchange is not None:
            add_piece(exchange.body, body)
            exchange.size += len(body)
            self._between = 0

    def on_message_complete(self) -> None:
        if self._reading is not None and not self._upgrade:
            self._reading.complete = True
            self._reading = None
            self._between = 0

    # What exchanges call.

    def write(self, data: bytes | memoryview) -> None:
        self._transport.write(data)

    def writelines(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._transport.writelines(pieces)

    def answered(self, exchange: Exchange) -> None:
        """Go on after an answer's last byte."""
        exchange.on_abandoned = None
        self._held = False
        self._waiting.popleft()
        if not exchange.keep_alive or self._shared.stopping:
            self._close(exchange.complete)
        elif not self._advancing:
            self._advance()

    def hold(self, held: bool) -> None:
        """Read no more, or again, on behalf of the call that is being handled."""
        self._held = held
        self._flow()

    # What the server calls.

    def is_quiet_since(self, tick: int) -> bool:
        """Whether it has been the client's turn for longer than that, and it neither sent nor read."""
        unread = self._transport.get_write_buffer_size()
        if unread != self._unread:
            self._unread = unread
            self.heard = self._shared.tick
        if self.heard >= tick:
            return False
        if not self._waiting or not self.writable:
            return True
        return not self._waiting[0].complete and self._waiting[0].on_piece is None

    def finish(self) -> None:
        """Close as soon as the call that is being handled is answered."""
        if self._waiting:
            self._waiting[0].keep_alive = False
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    # Requests come in.

    def _parse(self, data: memoryview) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._pass_over_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if self._reading is None and self._waiting and not self._waiting[-1].keep_alive:
                self._deaf = True  # after a request with which the client said it would close
            else:
                self._refuse(400, f"this is not HTTP/1.1: {error}")
        else:
            if self._between > HEAD_BYTES:
                self._refuse(431, f"the head is larger than {HEAD_BYTES} bytes")

    def _pass_over_upgrade(self, rest: memoryview) -> None:
        """Read on in HTTP/1.1, as a server may that does not know the other protocol."""
        exchange, self._upgrade = self._reading, False
        if exchange is None or exchange.method == "CONNECT" or b"transfer-encoding" in exchange.headers:
            self._refuse(400, "the protocol cannot be changed with this request")
            return
        # The parser has left HTTP, so this is the connection's last call.
        exchange.keep_alive = False
        size = _announced(exchange)
        if size > self._handler.max_body:
            self._refuse(413, f"the body is larger than {self._handler.max_body} bytes")
            return
        exchange.body = [bytes(rest[:size])] if size else []
        exchange.size = min(len(rest), size)
        if exchange.size < size:
            self._read_directly(exchange, size)
        else:
            exchange.complete = True
            self._reading = None
            self._deaf = True

    def _read_directly(self, exchange: Exchange, size: int) -> None:
        """Have the rest of a body read straight to where it stays."""
        # numpy's memory is not touched before bytes come: a client that only announces them costs nothing
        self._direct = np.empty(size, np.uint8).data
        self._filled = exchange.size
        self._direct[: self._filled] = b"".join(exchange.body)

    def _fill(self, nbytes: int) -> None:
        """Note bytes that were read straight into a body."""
        exchange, body = self._reading, self._direct
        assert exchange is not None
        assert body is not None
        self._filled += nbytes
        if self._filled == len(body):
            exchange.body = [body]
            exchange.size = self._filled
            exchange.complete = True
            self._reading = self._direct = None
            self._between = 0
            self._parser = httptools.HttpRequestParser(self)  # the old one still waits for the body

    def _refuse(self, status: int, text: str) -> None:
        """Have the call that is being read refused in its turn, and hear nothing after it."""
        exchange, self._reading = self._reading, None
        if exchange is None:
            exchange = Exchange(self, "", "", {}, keep_alive=False, chunked=False)
            self._waiting.append(exchange)
        exchange.refusal = status, text
        exchange.complete = False
        self._deaf = True

    # Calls are handled.

    def _advance(self) -> None:
        """Hand on what is here of the first call, then of those after it, as far as each is answered."""
        if self._advancing:
            return
        self._advancing = True
        waiting = self._waiting
        while waiting and (self.writable or waiting[0].seen):
            exchange = waiting[0]
            try:
                self._handle(exchange)
            except Exception:
                self._fail(exchange)
            if not exchange.ended:
                break
        self._advancing = False
        if len(waiting) > 1 or self._paused:
            self._flow()

    def _handle(self, exchange: Exchange) -> None:
        """Hand on what is new of the call whose turn it is."""
        if exchange.refusal is None and not exchange.seen:
            exchange.seen = True
            self._handler.head(exchange)
            if exchange.ended:
                return
            asked = b"expect" in exchange.headers and not (exchange.complete or exchange.size)
        else:
            asked = False
        if exchange.on_piece is not None:
            if self._direct is None:
                self._hand_on(exchange)
        elif not exchange.handled:
            self._gather(exchange)
        if exchange.refusal is not None and not exchange.ended:
            if exchange.answered:
                self._transport.abort()
            else:
                exchange.seen = True
                self._handler.refuse(exchange, *exchange.refusal)
        elif asked and not exchange.answered:
            self._transport.write(_CONTINUE)

    def _gather(self, exchange: Exchange) -> None:
        """Have a call handled when its body is here, whole and not too large."""
        limit = self._handler.max_body
        size = exchange.size if exchange.complete else max(exchange.size, _announced(exchange))
        if size > limit:
            self._reading = exchange
            self._refuse(413, f"the body is larger than {limit} bytes")
        elif exchange.complete:
            exchange.handled = True
            self._handler.handle(exchange)
        elif size - exchange.size >= _DIRECT_BYTES and self._direct is None:
            self._read_directly(exchange, size)

    def _hand_on(self, exchange: Exchange) -> None:
        """Give a streamed body's pieces to who takes them."""
        pieces, exchange.body = exchange.body, []
        for piece in pieces:
            if exchange.on_piece is None:
                return
            exchange.on_piece(piece)
        if exchange.complete and not exchange.handled and exchange.on_end is not None:
            exchange.handled = True
            exchange.on_end()

    def _fail(self, exchange: Exchange) -> None:
        """Answer a call on which the handler failed, in an `except` clause."""
        log.exception("exchange.failed", extra={"method": exchange.method, "path": exchange.path})
        if exchange.answered:
            self._transport.abort()
        else:
            exchange.keep_alive = False
            exchange.respond(500, _JSON, _FAILED)

    # Connections end.

    def _abandon(self) -> None:
        """Tell the calls inside that their client hung up."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self._deaf = True
        for exchange in waiting:
            exchange.abandoned = True
            if exchange.on_abandoned is not None:
                exchange.on_abandoned()

    def _close(self, heard_out: bool) -> None:
        """Close behind an answer; a client that is still sending is let finish, to come to read it."""
        self._deaf = True
        self._waiting.clear()
        if heard_out:
            self._transport.close()
        else:
            self._direct = None
            self._transport.write_eof()
            self._flow()
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._transport.abort)

    def _flow(self) -> None:
        """Read on, or not: not while calls wait behind one another, nor while the client does not read."""
        pause = not self._deaf and (self._held or not self.writable or len(self._waiting) > 1)
        if pause != self._paused and not self._transport.is_closing():
            self._paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()


def _announced(exchange: Exchange) -> int:
    """How long the request says that its body is; 0 where it does not."""
    return int(exchange.headers.get(b"content-length", b"0"))

"""One client's connection: bytes become calls, handled in their order; answers go back the same way."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import httptools
import numpy as np

from gateway.wire.body import add_piece
from gateway.wire.budget import BudgetFull
from gateway.wire.exchange import Exchange
from gateway.wire.flow import FlowControl, Shared
from gateway.wire.limits import HEAD_BYTES

# With so much missing of a body, the rest is read straight to where it stays.
_DIRECT_BYTES = 32768
# So much of it is read at a time; with less, a body costs more of the CPU.
_SLICE_BYTES = 256 * 1024
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_JSON = ((b"content-type", b"application/json"),)
_FAILED = b'{"error":"the server failed on this call; its log says why"}'

log = logging.getLogger(__name__)


class Connection(FlowControl):
    """Takes requests as they come, several at once too, and has them handled one after the other.

    A call goes through these states; a refusal may come in any of them, and an answer from `seen` on:

        reading     its head or body is coming              `_reading`, the last of `_waiting`
        waiting     those before it are not answered yet    in `_waiting`
        seen        it is the first; the handler has        `is_seen`: `Handler.head` was called
                    seen its headers
        handled     the handler has its body                `is_handled`: `Handler.handle`, or `on_end`
        ended       its answer's last byte was given        `has_ended`, and out of `_waiting`

    A body comes in one of three ways:

        gathered    in the pieces that the parser finds; handled when it is whole
        direct      what is missing is long and of known length: the socket's bytes go straight to their
                    place, past the parser
        streamed    the handler set `on_piece` in `head`: it gets the pieces as they come

    The rules:

    1. What the parser calls only takes notes. Handlers are called from `_advance` alone, which is never
       entered twice: an answer that is given at once must not nest the next call in this one.
    2. Only the first call in `_waiting` is handled, so answers leave in the order of the requests.
    3. No more is read while a second call waits, nor much in one turn of the loop, see `FlowControl`.
    4. What cannot be read as a request becomes a call with a `refusal`, which is answered in its turn. The
       connection drops what still comes, and closes behind the answer.
    5. It closes behind an answer too if the client asked for it, or if the request's end is not here yet.
    6. A client that ends its side has hung up: its calls are abandoned, and nothing is answered.
    7. A handler that raises is answered for with 500; within an answer, the connection breaks off.
    """

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._handler = shared.handler
        self._scratch = shared.scratch
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._bytes_between = 0
        """How many bytes came since the last that belonged to a body."""
        self._reading: Exchange | None = None
        """The call whose body is coming."""
        self._direct: memoryview | None = None
        """The body that is being read to where it stays, filled up to `_filled`."""
        self._filled = 0
        self._is_upgrade = False
        self._is_advancing = False

    def get_buffer(self, _sizehint: int) -> memoryview:
        direct = self._direct
        return self._scratch if direct is None else direct[self._filled : self._filled + _SLICE_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        if nbytes >= HEAD_BYTES:
            self._note_long_read(nbytes)
        if self._is_dropping:
            return
        self._active_tick = self._shared.tick
        if self._direct is not None:
            self._fill(nbytes)
        else:
            self._bytes_between += nbytes
            self._parse(self._scratch[:nbytes])
        if self._waiting:
            self._advance()

    def eof_received(self) -> None:
        """Take a client that ends its side for one that hung up, and let the transport close."""
        self._abandon()

    def connection_lost(self, _error: Exception | None) -> None:
        self._shared.connections.discard(self)
        self._abandon()

    def resume_writing(self) -> None:
        self._active_tick = self._shared.tick
        self.is_writable = True
        if self._waiting:
            first = self._waiting[0]
            if first.on_writable is not None:
                try:
                    first.on_writable()
                except Exception:
                    self._fail(first)
            self._advance()
        self._flow()

    # What the parser calls.

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
        is_old = (not keep_alive or b"connection" in headers) and parser.get_http_version() == "1.0"
        method = parser.get_method().decode()
        exchange = Exchange(self, method, self._target.decode("latin-1"), headers, keep_alive, not is_old)
        self._target = b""
        self._headers = {}
        self._reading = exchange
        self._is_upgrade = parser.should_upgrade()
        self._waiting.append(exchange)
        coding = headers.get(b"transfer-encoding")
        if coding is not None and (is_old or coding.lower() != b"chunked"):
            self._refuse(400, "Transfer-Encoding must be chunked, and nothing else, in HTTP/1.1")

    def on_body(self, body: bytes) -> None:
        exchange = self._reading
        if exchange is not None:
            if exchange.body:
                add_piece(exchange.body, body)
            else:
                exchange.body.append(body)
            exchange.size += len(body)
            self._bytes_between = 0

    def on_message_complete(self) -> None:
        if self._reading is not None and not self._is_upgrade:
            self._reading.is_complete = True
            self._reading = None
            self._bytes_between = 0

    # What exchanges call.

    def write(self, data: bytes | memoryview) -> None:
        self._transport.write(data)

    def writelines(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._transport.writelines(pieces)

    def answered(self, exchange: Exchange) -> None:
        """Go on after an answer's last byte."""
        exchange.on_abandoned = None
        if exchange.reservation is not None:
            exchange.release()
        self._is_held = False
        self._waiting.popleft()
        if not exchange.keep_alive or self._shared.is_stopping:
            self._direct = None
            self._close(exchange.is_complete)
        elif not self._is_advancing:
            self._advance()

    # Requests come in.

    def _parse(self, data: memoryview) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._pass_over_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if self._reading is None and self._waiting and not self._waiting[-1].keep_alive:
                self._is_dropping = True  # after a request with which the client said it would close
            else:
                self._refuse(400, f"this is not HTTP/1.1: {error}")
        else:
            if self._bytes_between > HEAD_BYTES:
                self._refuse(431, f"the head is larger than {HEAD_BYTES} bytes")

    def _pass_over_upgrade(self, remainder: memoryview) -> None:
        """Read on in HTTP/1.1, as a server may that does not know the other protocol."""
        exchange, self._is_upgrade = self._reading, False
        if exchange is None or exchange.method == "CONNECT" or b"transfer-encoding" in exchange.headers:
            self._refuse(400, "the protocol cannot be changed with this request")
            return
        # The parser has left HTTP, so this is the connection's last call.
        exchange.keep_alive = False
        size = _announced_size(exchange)
        if size > self._handler.max_body:
            self._refuse(413, f"the body is larger than {self._handler.max_body} bytes")
            return
        exchange.body = [bytes(remainder[:size])] if size else []
        exchange.size = min(len(remainder), size)
        if exchange.size < size:
            if self._reserve(exchange, size):
                self._read_directly(exchange, size)
        else:
            exchange.is_complete = True
            self._reading = None
            self._is_dropping = True

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
            exchange.is_complete = True
            self._reading = self._direct = None
            self._bytes_between = 0
            self._parser = httptools.HttpRequestParser(self)  # the old one still waits for the body

    def _refuse(self, status: int, text: str) -> None:
        """Have the call that is being read refused in its turn, and drop all that comes after it."""
        exchange, self._reading = self._reading, None
        if exchange is None:
            exchange = Exchange(self, "", "", {}, keep_alive=False, may_chunk=False)
            self._waiting.append(exchange)
        exchange.refusal = status, text
        exchange.is_complete = False
        self._is_dropping = True

    def _reserve(self, exchange: Exchange, size: int) -> bool:
        """Reserve what a body takes; where there is no room, refuse the call and return False."""
        try:
            exchange.reserve(size)
        except BudgetFull as full:
            self._reading = exchange
            self._refuse(503, str(full))
            return False
        return True

    def end_if_slow(self, now: float) -> None:
        exchange = self._waiting[0] if self._waiting else None
        if exchange is None or exchange.reservation is None or exchange.is_complete:
            return
        received = exchange.size if self._direct is None else self._filled
        if self._is_paused and not self._is_resting:
            exchange.reservation.restart(received)
        elif exchange.reservation.is_slow(received, now):
            self._reading = exchange
            self._refuse(408, "the body comes too slowly")
            self._advance()

    # Calls are handled.

    def _advance(self) -> None:
        """Hand on what is here of the first call, then of those after it, as far as each is answered."""
        if self._is_advancing:
            return
        self._is_advancing = True
        waiting = self._waiting
        while waiting and (self.is_writable or waiting[0].is_seen):
            exchange = waiting[0]
            try:
                self._handle(exchange)
            except Exception:
                self._fail(exchange)
            if not exchange.has_ended:
                break
        self._is_advancing = False
        if len(waiting) > 1 or self._is_paused:
            self._flow()

    def _handle(self, exchange: Exchange) -> None:
        """Hand on what is new of the call whose turn it is."""
        expects_continue = False
        if exchange.refusal is None and not exchange.is_seen:
            exchange.is_seen = True
            self._handler.head(exchange)
            if exchange.has_ended:
                return
            expects_continue = b"expect" in exchange.headers and not (exchange.is_complete or exchange.size)
        if exchange.on_piece is not None:
            if self._direct is None:
                self._hand_on(exchange)
        elif not exchange.is_handled:
            self._gather(exchange)
        if exchange.refusal is not None and not exchange.has_ended:
            if exchange.has_begun:
                self._transport.abort()
            else:
                exchange.is_seen = True
                self._handler.refuse(exchange, *exchange.refusal)
        elif expects_continue and not exchange.has_begun:
            self._transport.write(_CONTINUE)

    def _gather(self, exchange: Exchange) -> None:
        """Have a call handled when its body is here, whole and not too large."""
        limit = exchange.max_body or self._handler.max_body
        size = exchange.size if exchange.is_complete else max(exchange.size, _announced_size(exchange))
        if size > limit:
            self._reading = exchange
            self._refuse(413, f"the body is larger than {limit} bytes")
        elif exchange.is_complete:
            exchange.is_handled = True
            self._handler.handle(exchange)
        elif self._direct is None and self._reserve(exchange, size) and size - exchange.size >= _DIRECT_BYTES:
            self._read_directly(exchange, size)

    def _hand_on(self, exchange: Exchange) -> None:
        """Give a streamed body's pieces to who takes them."""
        pieces, exchange.body = exchange.body, []
        for piece in pieces:
            if exchange.on_piece is None:
                return
            exchange.on_piece(piece)
        if exchange.is_complete and not exchange.is_handled and exchange.on_end is not None:
            exchange.is_handled = True
            exchange.on_end()

    def _fail(self, exchange: Exchange) -> None:
        """Answer a call on which the handler failed, in an `except` clause."""
        log.exception("exchange.failed", extra={"method": exchange.method, "path": exchange.path})
        if exchange.has_begun:
            self._transport.abort()
        else:
            exchange.keep_alive = False
            exchange.respond(500, _JSON, _FAILED)

    def _abandon(self) -> None:
        """Tell the calls inside that their client hung up."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self._is_dropping = True
        self._reading = self._direct = None
        for exchange in waiting:
            exchange.is_abandoned = True
            if not exchange.is_handled:
                exchange.body.clear()
                exchange.release()
            if exchange.on_abandoned is not None:
                exchange.on_abandoned()
            # without these circles, what is reserved for a call goes as soon as nothing works on it
            exchange.on_abandoned = exchange.on_piece = exchange.on_end = exchange.on_writable = None


def _announced_size(exchange: Exchange) -> int:
    """Return how long the request says that its body is; 0 where it does not."""
    return int(exchange.headers.get(b"content-length", b"0"))

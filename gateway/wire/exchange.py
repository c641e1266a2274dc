"""One HTTP call on a connection: its request, and the ways to answer it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Protocol

from gateway.wire.budget import BodyBudget, Reservation

Header = tuple[bytes, bytes]
Headers = Sequence[Header] | bytes
"""Headers of an answer, or the lines that `lines` made of them beforehand."""

_STATUS_LINES: Mapping[int, bytes] = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}
_CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
_CLOSE = b"connection: close\r\n"
# A larger body goes to the kernel as it is, beside its head; to copy a smaller one is quicker.
_COPIED_BYTES = 32768


class Handler(Protocol):
    """What answers the calls of a server. It is called on the server's loop, so nothing may take long."""

    max_body: int
    """The most bytes of a body that is kept whole for `handle`."""

    def head(self, exchange: Exchange) -> None:
        """Look at a call whose headers are here.

        It may be refused now, or get `on_piece` and `on_end`, which take its body in pieces.
        """

    def handle(self, exchange: Exchange) -> None:
        """Take a call whose whole body is here. It may be answered later."""

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        """Answer a call that the server itself refuses; `text` says why. Method and path may be empty."""


class Channel(Protocol):
    """What an exchange needs of the connection that it is on."""

    is_writable: bool
    """Whether the client keeps up with what it is sent."""
    budget: BodyBudget
    """Where bodies that are long in coming have their bytes from."""

    def write(self, data: bytes | memoryview) -> None:
        """Send bytes."""

    def writelines(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Send several pieces in one go."""

    def answered(self, exchange: Exchange) -> None:
        """Go on to the next call: the last byte of this one's answer was given."""

    def hold(self, is_held: bool) -> None:
        """Read no more from the client, or read on."""


class Exchange:
    """One call; all is done on the loop of its connection. To answer one that was abandoned does no harm."""

    __slots__ = (
        "_channel",
        "_may_chunk",
        "body",
        "has_begun",
        "has_ended",
        "headers",
        "is_abandoned",
        "is_complete",
        "is_handled",
        "is_seen",
        "keep_alive",
        "max_body",
        "method",
        "on_abandoned",
        "on_end",
        "on_piece",
        "on_writable",
        "path",
        "query",
        "refusal",
        "reservation",
        "size",
    )

    def __init__(
        self,
        channel: Channel,
        method: str,
        target: str,
        headers: dict[bytes, bytes],
        keep_alive: bool,
        may_chunk: bool,
    ) -> None:
        self._channel = channel
        self._may_chunk = may_chunk
        """Whether the answer may come in chunks, which HTTP/1.0 has not."""
        self.method = method
        self.path, _, self.query = target.partition("?")
        """As it was sent, with its escapes."""
        self.headers = headers
        """By lower-case name; values of a name that comes again are joined with commas."""
        self.body: list[bytes | memoryview] = []
        """The pieces that are here; they are taken away where `on_piece` gets them."""
        self.size = 0
        self.keep_alive = keep_alive
        """Whether the connection outlives the answer; may be set to False before it."""
        self.is_abandoned = False
        """The client hung up: nobody waits for an answer."""
        self.on_abandoned: Callable[[], None] | None = None
        self.on_piece: Callable[[bytes | memoryview], None] | None = None
        self.on_end: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        """Called when the client has read enough for `is_writable` to be true again."""
        self.is_complete = False
        """The request's last byte is here."""
        self.has_begun = False
        """The answer has begun."""
        self.has_ended = False
        """The answer's last byte was given."""
        self.max_body = 0
        """The most bytes of its body, where a handler says so in `head`; 0: what the handler takes."""
        self.reservation: Reservation | None = None
        # The connection's own notes.
        self.is_seen = False
        self.is_handled = False
        self.refusal: tuple[int, str] | None = None

    def respond(
        self,
        status: int,
        headers: Headers,
        body: bytes | memoryview = b"",
        trailers: Sequence[Header] = (),
    ) -> None:
        """Give the whole answer, in one write. `headers` are without its length."""
        if not self.is_complete:
            # What is missing of the body is not waited for.
            self.keep_alive = False
        self._start()
        if self.is_abandoned:
            return
        if trailers and self._may_chunk:
            self._write_in_chunks(status, headers, body, trailers)
            self._end()
            return
        head = b"%s%s%scontent-length: %d\r\n\r\n" % (
            _STATUS_LINES[status],
            headers if isinstance(headers, bytes) else lines(headers),
            b"" if self.keep_alive else _CLOSE,
            len(body),
        )
        if self.method == "HEAD":
            self._channel.write(head)
        elif len(body) < _COPIED_BYTES:
            self._channel.write(head + body)
        else:
            self._channel.writelines((head, body))
        self._end()

    def begin(self, status: int, headers: Headers) -> None:
        """Begin an answer that comes in pieces, of a length that is not known yet."""
        if not self._may_chunk:
            self.keep_alive = False
        self._start()
        if self.is_abandoned:
            return
        self._channel.writelines(
            (
                _STATUS_LINES[status],
                headers if isinstance(headers, bytes) else lines(headers),
                b"" if self.keep_alive else _CLOSE,
                _CHUNKED if self._may_chunk else b"\r\n",
            )
        )

    def send(self, piece: bytes | memoryview) -> None:
        """Give one more piece of the answer."""
        if not piece or self.method == "HEAD" or self.is_abandoned:
            return
        if self._may_chunk:
            self._channel.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
        else:
            self._channel.write(piece)

    def end(self, trailers: Sequence[Header] = ()) -> None:
        """End an answer that came in pieces. A client of HTTP/1.0 gets no trailers."""
        if self.is_abandoned:
            return
        if not self.is_complete:
            self.keep_alive = False
        if self._may_chunk and self.method != "HEAD":
            self._channel.write(b"0\r\n%s\r\n" % lines(trailers))
        self._end()

    def take(self) -> list[bytes | memoryview]:
        """Take the body out, so that its memory is freed as soon as the caller of this is done with it."""
        body, self.body = self.body, []
        return body

    def reserve(self, size: int) -> None:
        """Reserve so many bytes for the body, in place of what was reserved; from any thread.

        Raises:
            BudgetFull: when there is no room.
        """
        if self.reservation is None:
            self.reservation = self._channel.budget.reserve(size, self.size)
        else:
            self.reservation.resize(size)

    def release(self) -> None:
        """Give back what was reserved."""
        if self.reservation is not None:
            self.reservation.release()
            self.reservation = None

    @property
    def is_writable(self) -> bool:
        """Whether the client keeps up with what it is sent; `on_writable` tells when it does again."""
        return self._channel.is_writable

    def pause(self) -> None:
        """Take no more of the request from the network until `resume`."""
        self._channel.hold(True)

    def resume(self) -> None:
        """Take the rest of the request."""
        self._channel.hold(False)

    def _write_in_chunks(
        self, status: int, headers: Headers, body: bytes | memoryview, trailers: Sequence[Header]
    ) -> None:
        """Write an answer in the one form that has something after its body."""
        head = b"%s%s%s%s" % (
            _STATUS_LINES[status],
            headers if isinstance(headers, bytes) else lines(headers),
            b"" if self.keep_alive else _CLOSE,
            _CHUNKED,
        )
        end = b"0\r\n%s\r\n" % lines(trailers)
        if self.method == "HEAD":
            self._channel.write(head)
        elif not body:
            self._channel.write(head + end)
        elif len(body) < _COPIED_BYTES:
            self._channel.write(b"%s%x\r\n%s\r\n%s" % (head, len(body), body, end))
        else:
            self._channel.writelines((head + b"%x\r\n" % len(body), body, b"\r\n" + end))

    def _start(self) -> None:
        if self.has_begun:
            raise RuntimeError(f"{self.method} {self.path} is answered already")
        self.has_begun = True

    def _end(self) -> None:
        self.has_ended = True
        self._channel.answered(self)


def lines(headers: Sequence[Header]) -> bytes:
    """Return headers as they are sent."""
    return b"".join([b"%s: %s\r\n" % header for header in headers])

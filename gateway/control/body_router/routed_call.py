"""A call whose body is read for the model that it names: its request as it came, and as it goes on."""

from __future__ import annotations

from http import HTTPStatus

import httptools

from gateway.codec.openai.errors import error_body
from gateway.edge.openai import MODEL_HEADERS, SHOWN_BYTES
from gateway.wire.headers import SOURCE
from gateway.wire.limits import BODY_BYTES
from gateway.wire.texts import unknown_model

# Of one connection alone, or written anew; `expect` was answered by the edge.
_DROPPED = {
    *(b"connection", b"keep-alive", b"content-length", b"transfer-encoding", b"expect"),
    *(name.lower().encode() for name in MODEL_HEADERS),
}
_UNSAFE = set(map(chr, (*range(0x20), 0x7F)))


class RefusedCall(Exception):
    """A call that is not passed on: the status, and what its caller is told."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    def answer(self) -> bytes:
        """Write the answer."""
        body = error_body(self.status, str(self), self.code, self.param)
        again = b"retry-after: 1\r\n" if self.status == HTTPStatus.SERVICE_UNAVAILABLE else b""
        phrase = HTTPStatus(self.status).phrase.encode()
        return b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n%s\r\n%s" % (
            self.status,
            phrase,
            again,
            len(body),
            b"connection: close\r\n",
            body,
        )


class RoutedCall:
    """Takes a request piece by piece, in any form of HTTP/1.1: first it `has_head`, then it `is_complete`."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self.size = 0
        """How many bytes of the body are here."""
        self.has_head = False
        self.is_complete = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            RefusedCall: when they are no request, or its body is too large.
        """
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise RefusedCall(400, f"this is not HTTP/1.1: {error}") from error
        if max(self.size, self.announced) > BODY_BYTES:
            raise RefusedCall(413, f"the body is larger than {BODY_BYTES} bytes")

    @property
    def announced(self) -> int:
        """How many bytes the head says that the body has; 0 where it does not."""
        return int(next((value for name, value in self._headers if name.lower() == b"content-length"), b"0"))

    @property
    def source(self) -> bytes:
        """Who calls, as the edge says it in the head."""
        return next((value for name, value in self._headers if name.lower() == SOURCE), b"")

    def take_body(self) -> bytes:
        """Return the whole body, and keep nothing of it."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)

    def head_for(self, model: str) -> bytes:
        """Write the request's head with a header that names the model, to go before the whole body.

        Raises:
            RefusedCall: when the name cannot be in a header; no model has such a name.
        """
        if _UNSAFE.intersection(model) or model.strip() != model or not model:
            raise RefusedCall(404, unknown_model(model[:SHOWN_BYTES]), "model_not_found", "model")
        lines = [
            b"%s: %s\r\n" % (name, value) for name, value in self._headers if name.lower() not in _DROPPED
        ]
        return b"%s %s HTTP/1.1\r\n%s%s: %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (
            self._parser.get_method(),
            self._target,
            b"".join(lines),
            MODEL_HEADERS[0].encode(),
            model.encode("utf-8", "replace"),
            self.size,
        )

    # What the parser calls.

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # else a trailer
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self.size += len(body)

    def on_message_complete(self) -> None:
        self.is_complete = True

"""A worker's server in this process that answers calls of the OpenAI API by saying what it got."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gateway.edge.routes import Server
from gateway.wire.exchange import Exchange
from gateway.wire.server import HttpServer

_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream")


class ChatWorker:
    """Answers with `seen` in the place of a model's words; see `exchange.Handler`.

    Calls with the query `hold` are never answered. A streamed answer says a part at once, and the rest after
    `gap` seconds.
    """

    max_body = 64 * 1024 * 1024

    def __init__(self, version: str) -> None:
        self.version = version
        self.gap = 0.0
        self.inside = 0
        self.calls: list[dict[str, Any]] = []

    def head(self, exchange: Exchange) -> None:
        pass

    def handle(self, exchange: Exchange) -> None:
        body = b"".join(exchange.take())
        self.calls.append(self._seen(exchange, body))
        if exchange.query == "status=429":
            exchange.respond(429, [_JSON, *self._names()], b'{"error":{"message":"full"}}')
            return
        self.inside += 1
        exchange.on_abandoned = self._leave
        if exchange.query == "hold":
            return
        text = json.dumps(self.calls[-1])
        if b'"stream": true' in body or b'"stream":true' in body:
            exchange.begin(200, [_EVENTS, *self._names()])
            exchange.send(_event({"role": "assistant", "content": ""}))
            asyncio.get_running_loop().call_later(self.gap, self._end, exchange, text)
            return
        self._leave()
        exchange.respond(200, [_JSON, *self._names()], json.dumps(_completion(text)).encode())

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        exchange.respond(status, [_JSON], json.dumps({"error": {"message": text}}).encode())

    def _end(self, exchange: Exchange, text: str) -> None:
        if not exchange.is_abandoned:
            exchange.send(_event({"content": text}))
            exchange.send(b"data: [DONE]\n\n")
            exchange.end()
            self._leave()

    def _leave(self) -> None:
        self.inside -= 1

    def _names(self) -> list[tuple[bytes, bytes]]:
        return [(b"modelkit-version", self.version.encode())]

    def _seen(self, exchange: Exchange, body: bytes) -> dict[str, Any]:
        headers = exchange.headers
        return {
            "version": self.version,
            "method": exchange.method,
            "path": exchange.path,
            "role": headers.get(b"modelkit-role", b"").decode(),
            "request_id": headers.get(b"x-request-id", b"").decode(),
            "digest": hashlib.sha256(body).hexdigest(),
        }


def _completion(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "echo", "choices": [choice]}


def _event(delta: dict[str, str]) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "echo", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


@contextmanager
def chat_worker(version: str, tls: ssl.SSLContext | None = None) -> Iterator[tuple[ChatWorker, Server]]:
    """Serve one version; yield what it is, and where."""
    worker = ChatWorker(version)
    server = HttpServer(worker, "127.0.0.1", tls=tls)
    server.start()
    try:
        yield worker, Server(f"{version}-{server.port}", "127.0.0.1", server.port)
    finally:
        server.stop(0.1)

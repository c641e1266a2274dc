"""`/api/events`: what the page shows as server-sent events, each time it changes.

The format is that of "Server-sent events" in the HTML standard. First comes `hello`, and then `status` with
each document. Where nothing has changed for a while, a comment comes: so both sides notice a dead connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

import gateway
from gateway.control.admin.page.feed import MAX_LISTENERS, Feed, Listener
from gateway.control.web.requests import is_of_another_site
from gateway.control.web.server import ABORT

BEAT_SECONDS = 5.0
"""How often something is sent at least."""
SEND_SECONDS = 10.0
"""Who has not taken what is sent to them after this long is dropped."""
_RETRY_SECONDS = "5"
_BEAT = b": nothing new\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),
]


class Events:
    """Answers `/api/events` from a feed; `page` is the fingerprint of the page's files."""

    def __init__(self, feed: Feed, page: str) -> None:
        self._feed = feed
        self._page = page

    def routes(self) -> list[Route]:
        """The path of the events."""
        return [Route("/api/events", self._events, methods=["GET"])]

    async def _events(self, request: Request) -> Response:
        if is_of_another_site(request):
            # It could not read them, but take the places of those who can.
            raise HTTPException(403, "these events are for the page of this server alone")
        if request.method == "HEAD":
            return Response(headers={name.decode(): value.decode() for name, value in _HEADERS})
        listener = self._feed.join()
        if listener is None:
            message = f"{MAX_LISTENERS} pages are open already, which is as many as are kept up to date"
            raise HTTPException(503, message, {"Retry-After": _RETRY_SECONDS})
        return _Stream(self._feed, listener, self._hello())

    def _hello(self) -> bytes:
        hello = {"page": self._page, "kitserve": gateway.__version__, "time": time.time()}
        return b"event: hello\ndata: %s\n\n" % orjson.dumps(hello)


class _Stream(Response):
    """Sends events until one side has enough."""

    def __init__(self, feed: Feed, listener: Listener, hello: bytes) -> None:
        self._feed = feed
        self._listener = listener
        self._hello = hello
        self.background = None
        self.status_code = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(scope, send))
        leaving = asyncio.create_task(_wait_for_end(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._feed.leave(self._listener)
            for task in (sending, leaving):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _send(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": _HEADERS})
        body = self._hello
        try:
            while True:
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                content = await self._listener.next(BEAT_SECONDS)
                body = _BEAT if content is None else b"event: status\ndata: %s\n\n" % content
        except EOFError:
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            # Nothing that is sent now arrives: the connection ends without a word.
            if ABORT in scope:
                scope[ABORT]()


async def _wait_for_end(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        """The rest of the request says nothing."""

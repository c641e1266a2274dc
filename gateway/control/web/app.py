"""The ASGI app of the gateway's HTTP server: all routes, the hosts that it answers to, and its errors."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.control.web.errors import HANDLERS

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def web_app(routes: Sequence[BaseRoute], host: str) -> Starlette:
    """Build the app of a server on `host`.

    On loopback it answers to loopback's names alone, against DNS rebinding.
    """
    hosts = [*_LOOPBACK, "[::1]"] if host in _LOOPBACK else ["*"]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(_CloseAfterHead),
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
        ],
        exception_handlers=HANDLERS,
    )


class _CloseAfterHead:
    """Closes the connection after an answer to HEAD: uvicorn sends the answer's head only then."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_closing if scope.get("method") == "HEAD" else send)

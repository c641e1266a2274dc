"""The ASGI app of a server of the gateway: all routes, and their errors."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.control.web.errors import HANDLERS


def web_app(routes: Sequence[BaseRoute], *middleware: Middleware) -> Starlette:
    """Build the app of a server; requests go through `middleware` before they come to a route."""
    return Starlette(
        routes=routes,
        middleware=[Middleware(_CloseAfterHead), *middleware],
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

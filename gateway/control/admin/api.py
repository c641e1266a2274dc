"""The admin API: status, config, metrics and health. It listens apart from the data, on loopback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.config.config import GatewayConfig, parse_config
from gateway.control.state.database import State
from gateway.control.state.overview import Overview
from gateway.errors import ConfigError, KitserveError

_MAX_CONFIG_BYTES = 1024 * 1024
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_FIXED = ("listen", "admin", "access_log")


class AdminApi:
    """What the API's handlers share: the state, and ways to read status and metrics.

    `routes` are others that the same server answers.
    """

    def __init__(
        self,
        state: State,
        overview: Overview,
        metrics: CollectorRegistry,
        changed: Callable[[], None],
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        self._state = state
        self._overview = overview
        self._metrics = metrics
        self._changed = changed
        self._routes = routes

    def app(self, host: str) -> Starlette:
        """Build the ASGI app; on loopback it answers to loopback's names alone (DNS rebinding)."""
        hosts = [*_LOOPBACK, "[::1]"] if host in _LOOPBACK else ["*"]
        return Starlette(
            routes=[
                Route("/healthz", self._health),
                Route("/metrics", self._show_metrics),
                Route("/api/status", self._status),
                Route("/api/config", self._config, methods=["GET"]),
                Route("/api/config", self._apply, methods=["PUT"]),
                Route("/api/models/{name}", self._model),
                *self._routes,
            ],
            middleware=[
                Middleware(_CloseAfterHead),
                Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
            ],
            exception_handlers={KitserveError: _tell, HTTPException: _refuse},
        )

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def _show_metrics(self, _request: Request) -> Response:
        return Response(generate_latest(self._metrics), media_type=CONTENT_TYPE_LATEST)

    def _status(self, _request: Request) -> Response:
        return JSONResponse(self._document())

    def _config(self, _request: Request) -> Response:
        desired = self._state.desired()
        return JSONResponse(
            {"generation": desired.generation, "config": desired.config.model_dump(mode="json")}
        )

    def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        document = self._document()
        for model in document["models"]:
            if model["name"] == name:
                return JSONResponse(model)
        if not document["generation"]:
            return _error(503, "the gateway has just started, and does not know yet; ask again")
        return _error(404, f"no model is named {name}")

    async def _apply(self, request: Request) -> Response:
        if "origin" in request.headers:
            return _error(403, "the admin API takes no changes from web pages")
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return _error(415, "send the config as application/json")
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MAX_CONFIG_BYTES:
                return _error(413, f"the config is larger than {_MAX_CONFIG_BYTES} bytes")
        try:
            config = parse_config(body.decode("utf-8", "replace"))
        except ConfigError as error:
            return JSONResponse({"error": str(error), "faults": error.faults}, 400)
        before = self._state.desired()
        fixed = _changed_for_good(before.config, config) if before.generation else []
        if fixed:
            return _error(409, f"{' and '.join(fixed)} can only change with a restart of `kitserve serve`")
        generation = self._state.apply(config)
        self._changed()
        return JSONResponse({"generation": generation})

    def _document(self) -> dict[str, Any]:
        status = self._overview.status
        wanted = self._state.desired().generation
        return {**asdict(status), "wanted_generation": wanted}


def _changed_for_good(before: GatewayConfig, after: GatewayConfig) -> list[str]:
    return [name for name in _FIXED if getattr(before, name) != getattr(after, name)]


class _CloseAfterHead:
    """Closes after an answer to HEAD, which has no body: the server sends its head only then."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await self._app(scope, receive, closing if scope.get("method") == "HEAD" else send)


async def _tell(_request: Request, error: Exception) -> Response:
    return _error(500, str(error))


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)

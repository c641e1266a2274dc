"""The admin API: status, config, metrics and health. It listens apart from the data, on loopback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.config.config import GatewayConfig, parse_config
from gateway.control.state.database import State
from gateway.control.state.overview import Overview
from gateway.control.web.errors import current_status
from gateway.control.web.requests import read_change

_MAX_CONFIG_BYTES = 1024 * 1024
_FIXED = ("listen", "admin", "access_log")
"""The fields of a config that only a restart can change."""


class AdminApi:
    """Answers what is asked of all models; `on_change` is called after a config was applied."""

    def __init__(
        self, state: State, overview: Overview, metrics: CollectorRegistry, on_change: Callable[[], None]
    ) -> None:
        self._state = state
        self._overview = overview
        self._metrics = metrics
        self._on_change = on_change

    def routes(self) -> list[Route]:
        """The paths that this API answers."""
        return [
            Route("/healthz", self._health),
            Route("/metrics", self._show_metrics),
            Route("/api/status", self._show_status),
            Route("/api/config", self._show_config, methods=["GET"]),
            Route("/api/config", self._apply_config, methods=["PUT"]),
            Route("/api/models/{name}", self._show_model),
        ]

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def _show_metrics(self, _request: Request) -> Response:
        return Response(generate_latest(self._metrics), media_type=CONTENT_TYPE_LATEST)

    def _show_status(self, _request: Request) -> Response:
        wanted = self._state.desired().generation
        return JSONResponse({**asdict(self._overview.status), "wanted_generation": wanted})

    def _show_config(self, _request: Request) -> Response:
        desired = self._state.desired()
        return JSONResponse(
            {"generation": desired.generation, "config": desired.config.model_dump(mode="json")}
        )

    def _show_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        for model in current_status(self._overview).models:
            if model.name == name:
                return JSONResponse(asdict(model))
        raise HTTPException(404, f"no model is named {name}")

    async def _apply_config(self, request: Request) -> Response:
        body = await read_change(request, _MAX_CONFIG_BYTES)
        config = parse_config(body.decode("utf-8", "replace"))
        before = self._state.desired()
        fixed = _changed_for_good(before.config, config) if before.generation else []
        if fixed:
            names = " and ".join(fixed)
            raise HTTPException(409, f"{names} can only change with a restart of `kitserve serve`")
        generation = self._state.apply(config)
        self._on_change()
        return JSONResponse({"generation": generation})


def _changed_for_good(before: GatewayConfig, after: GatewayConfig) -> list[str]:
    return [name for name in _FIXED if getattr(before, name) != getattr(after, name)]

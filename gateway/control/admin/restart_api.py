"""The admin API of restarts: the workers of a model's versions are replaced, one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.control.admin.audit import log_change
from gateway.control.admin.errors import no_such_model
from gateway.control.admin.gate import caller_of
from gateway.control.state.database import State
from gateway.control.state.restarts import Restart, Restarts
from gateway.control.state.versions import Version
from gateway.control.state.workers import Workers
from gateway.control.web.requests import read_change
from gateway.errors import ControlError
from gateway.wire.limits import SMALL_BODY_BYTES


class RestartApi:
    """Answers `/api/models/{name}/restart`; `on_change` is called after each order."""

    def __init__(
        self, restarts: Restarts, state: State, workers: Workers, on_change: Callable[[], None]
    ) -> None:
        self._restarts = restarts
        self._state = state
        self._workers = workers
        self._on_change = on_change

    def routes(self) -> list[Route]:
        """The paths that this API answers."""
        path = "/api/models/{name}/restart"
        return [
            Route(path, self._show, methods=["GET"]),
            Route(path, self._begin, methods=["POST"]),
        ]

    def _show(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._check_model(name)
        return JSONResponse(_document(name, self._restarts.of(name)))

    async def _begin(self, request: Request) -> Response:
        name = request.path_params["name"]
        called = _version_in(await read_change(request, SMALL_BODY_BYTES))
        self._check_model(name)
        caller = caller_of(request)
        fields: dict[str, Any] = {"model": name, "version": called}
        try:
            versions = self._versions(name, called)
            workers = self._workers.present()
            restarts = [self._restarts.begin(version, workers) for version in versions]
        except ControlError as error:
            log_change(caller, "restart", fields, refusal=str(error))
            raise HTTPException(409, str(error)) from error
        workers_left = {restart.app: restart.workers for restart in restarts}
        log_change(caller, "restart", {**fields, "workers": workers_left})
        self._on_change()
        return JSONResponse(_document(name, restarts))

    def _versions(self, model: str, called: str) -> list[Version]:
        """Return the versions of a model that run: the one that is called so, or all that have workers.

        Raises:
            ControlError: when there is none.
        """
        condemned = self._state.condemned()
        running = [
            version
            for app, version in sorted(self._state.versions().items())
            if version.model == model and app not in condemned
        ]
        if not called:
            ready = [version for version in running if self._workers.ready(version.app)]
            if not ready:
                raise ControlError(f"{model} has no worker that is ready: there is nothing to restart")
            return ready
        named = [
            version
            for version in running
            if called in (version.label, str(version.digest), version.digest.short)
        ]
        if not named:
            labels = ", ".join(sorted({version.label for version in running})) or "none"
            raise ControlError(f"{model} has no version {called} that runs; those that run: {labels}")
        return named

    def _check_model(self, name: str) -> None:
        desired = self._state.desired()
        if desired.model(name) is None:
            raise no_such_model(name, (model.name for model in desired.models))


def _version_in(body: bytes) -> str:
    try:
        fields = orjson.loads(body or b"{}")
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from error
    version = fields.get("version", "") if isinstance(fields, dict) else None
    if not isinstance(version, str):
        raise HTTPException(400, "the body must be a JSON object, in which `version` is a string")
    return version


def _document(model: str, restarts: list[Restart]) -> dict[str, Any]:
    return {
        "model": model,
        "restarts": [
            {
                "app": restart.app,
                "version": restart.version,
                "workers": restart.workers,
                "left": len(restart.left),
                "state": restart.state.value,
                "message": restart.message,
            }
            for restart in restarts
        ],
    }

"""The admin API: status, config, metrics and health. It listens apart from the data; see `callers`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.config.config import GatewayConfig
from gateway.config.secrets import without_secrets
from gateway.control.admin.audit import config_fields, log_change
from gateway.control.admin.callers import Caller
from gateway.control.admin.errors import no_such_model
from gateway.control.admin.gate import caller_of
from gateway.control.admin.live import LiveSettings
from gateway.control.admin.proposal import MAX_CONFIG_BYTES, read_proposal
from gateway.control.state.database import State
from gateway.control.state.desired import Desired, FixedSettings
from gateway.control.state.overview import Overview
from gateway.control.web.errors import current_status
from gateway.control.web.requests import read_change
from gateway.errors import ConfigError, ControlError, KitserveError, StoreError


class AdminApi:
    """Answers what is asked of all models; `on_change` is called after a config was applied.

    `faults` tells why a config cannot run on what there is, a line for each fault. `live` changes the
    settings that change while Kitserve runs; without it, none does.
    """

    def __init__(
        self,
        state: State,
        overview: Overview,
        metrics: CollectorRegistry,
        faults: Callable[[Desired], list[str]],
        on_change: Callable[[], None],
        live: LiveSettings | None = None,
    ) -> None:
        self._state = state
        self._overview = overview
        self._metrics = metrics
        self._faults = faults
        self._on_change = on_change
        self._live = live
        self._applying = asyncio.Lock()

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
        generation, document = self._state.document()
        # Nothing was applied in generation 0: the defaults hold.
        config = json.loads(document) if generation else GatewayConfig().model_dump(mode="json")
        return JSONResponse({"generation": generation, "config": without_secrets(config)})

    def _show_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        models = {model.name: model for model in current_status(self._overview).models}
        if name not in models:
            raise no_such_model(name, models)
        return JSONResponse(asdict(models[name]))

    async def _apply_config(self, request: Request) -> Response:
        body = await read_change(request, MAX_CONFIG_BYTES)
        caller = caller_of(request)
        # What a caller may change depends on what is in force: nothing may change that meanwhile.
        async with self._applying:
            generation, document = self._state.document()
            fields: dict[str, Any] = {"generation": generation}
            try:
                generation = await self._apply(caller, body.decode("utf-8", "replace"), document, fields)
            except (HTTPException, KitserveError) as error:
                reason = error.detail if isinstance(error, HTTPException) else str(error)
                log_change(caller, "config", fields, refusal=reason)
                raise
        log_change(caller, "config", {**fields, "generation": generation})
        self._on_change()
        return JSONResponse({"generation": generation})

    async def _apply(self, caller: Caller, text: str, document: str, fields: dict[str, Any]) -> int:
        """Put a config in force, and return its generation; adds to `fields` what the log says of it."""
        # A large one takes longer to read than this loop may be silent.
        proposal = await asyncio.to_thread(read_proposal, caller, text, document)
        config, desired, before = proposal.config, proposal.desired, self._state.desired()
        new_document = config.model_dump_json()
        pins = self._state.pins(before.generation)
        fields.update(config_fields(before, pins, document, desired, new_document))
        # The first config of a start is what this start was made with.
        is_first = not self._state.is_configured()
        changes = [] if is_first else before.fixed.changes(desired.fixed)
        refused = changes if self._live is None else before.fixed.restart_changes(desired.fixed)
        if refused and not is_first:
            names = " and ".join(refused)
            raise HTTPException(409, f"{names} can only change with a restart of `kitserve serve`")
        if faults := await asyncio.to_thread(self._faults, desired):
            raise ConfigError("the config", faults)
        if not changes or self._live is None:
            return self._state.apply(desired, new_document)
        return await asyncio.to_thread(self._apply_live, self._live, before.fixed, desired, new_document)

    def _apply_live(
        self, live: LiveSettings, before: FixedSettings, desired: Desired, new_document: str
    ) -> int:
        try:
            live.change(before, desired.fixed)
        except ControlError as error:
            raise HTTPException(409, str(error)) from error
        try:
            return self._state.apply(desired, new_document)
        except StoreError:
            live.change(desired.fixed, before)
            raise

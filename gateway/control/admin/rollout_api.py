"""The admin API of rollouts: how far they are, their history, and people's orders to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.control.admin.audit import log_change, policy_fingerprint
from gateway.control.admin.errors import no_such_model
from gateway.control.admin.gate import caller_of
from gateway.control.rollouts.driver import Rollouts
from gateway.control.state.database import State
from gateway.control.state.rollout_status import rollout_status
from gateway.control.web.requests import read_change
from gateway.errors import ControlError
from gateway.rollout.events import Abort, Promote, Retry, Rollback
from gateway.rollout.state import Rollout
from gateway.wire.limits import SMALL_BODY_BYTES


class RolloutApi:
    """Answers `/api/models/{name}/rollout` and the paths below it; `on_change` is called after each order."""

    def __init__(self, rollouts: Rollouts, state: State, on_change: Callable[[], None]) -> None:
        self._rollouts = rollouts
        self._state = state
        self._on_change = on_change

    def routes(self) -> list[Route]:
        """The paths that this API answers."""
        path = "/api/models/{name}/rollout"
        return [
            Route(path, self._show, methods=["GET"]),
            Route(f"{path}/history", self._history, methods=["GET"]),
            Route(f"{path}/{{order}}", self._order, methods=["POST"]),
        ]

    def _show(self, request: Request) -> Response:
        name = request.path_params["name"]
        rollout = self._rollouts.get(name)
        if rollout is None:
            raise self._no_rollout(name, 404)
        return JSONResponse(_document(name, rollout))

    def _history(self, request: Request) -> Response:
        events = self._rollouts.history(request.path_params["name"])
        return JSONResponse({"events": [asdict(event) for event in events]})

    async def _order(self, request: Request) -> Response:
        name, order = request.path_params["name"], request.path_params["order"]
        body = await read_change(request, SMALL_BODY_BYTES, may_be_own_page=True)
        event = _event(order, _fields(body))
        before = self._rollouts.get(name)
        if before is None:
            raise self._no_rollout(name, 409)
        caller, change = caller_of(request), f"rollout {order}"
        fields = {"model": name, **_line("before", before)}
        try:
            rollout = self._rollouts.order(name, event)
        except ControlError as error:
            log_change(caller, change, fields, refusal=str(error))
            raise HTTPException(409, str(error)) from error
        desired = self._state.desired()
        policy = {"generation": desired.generation, "policy": policy_fingerprint(desired)}
        log_change(caller, change, {**fields, **_line("after", rollout), **policy})
        self._on_change()
        return JSONResponse(_document(name, rollout))

    def _no_rollout(self, name: str, status: int) -> HTTPException:
        """Return the error for a model that has no rollout, which says why."""
        desired = self._state.desired()
        model = desired.model(name)
        if model is None:
            return no_such_model(name, (model.name for model in desired.models), status)
        if model.plan is None:
            return HTTPException(status, f"model {name} has no rollout: give it `rollout:` in the config")
        return HTTPException(status, f"model {name} has no rollout yet: its first version does not serve yet")


def _event(order: str, fields: dict[str, Any]) -> Promote | Abort | Retry | Rollback:
    match order:
        case "promote":
            return Promote(full=_field(fields, "full", False))
        case "abort":
            return Abort(_field(fields, "message", ""))
        case "retry":
            return Retry()
        case "rollback":
            return Rollback(_field(fields, "digest", ""))
    raise HTTPException(404, f"no such order: {order}; there are promote, abort, retry and rollback")


def _field(fields: dict[str, Any], name: str, default: Any) -> Any:
    value = fields.get(name, default)
    if type(value) is not type(default):
        raise HTTPException(400, f"{name} must be a {'boolean' if default is False else 'string'}")
    return value


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body or b"{}")
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return fields


def _line(moment: str, rollout: Rollout) -> dict[str, str]:
    status = rollout_status(rollout)
    return {
        f"stable_{moment}": status.stable.digest,
        f"canary_{moment}": "" if status.canary is None else status.canary.digest,
    }


def _document(name: str, rollout: Rollout) -> dict[str, Any]:
    return {"model": name, **asdict(rollout_status(rollout))}

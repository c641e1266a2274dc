"""The health service: the server's under "", each model's under its name (grpc, doc/health-checking.md)."""

from __future__ import annotations

import asyncio

from gateway.control.state.overview import Overview
from gateway.control.state.status import ModelState, ModelStatus, Status
from gateway.wire.exchange import Exchange
from gateway.wire.grpc_frames import framed
from gateway.wire.grpc_messages import message
from gateway.wire.texts import INFERENCE

SERVER = ("", INFERENCE)
"""Names of the server as a whole."""
_POLL_SECONDS = 0.5
_CALLABLE = (ModelState.READY, ModelState.ASLEEP)

_RESPONSE = message("grpc.health.v1.HealthCheckResponse")
SERVING, NOT_SERVING, SERVICE_UNKNOWN = (
    _RESPONSE.ServingStatus.Value(name) for name in ("SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
)


def is_ready(model: ModelStatus) -> bool:
    """Whether a call to the model is answered: by a worker that is ready, or by one that the call wakes."""
    return any(version.role == "stable" and version.state in _CALLABLE for version in model.versions)


def are_ready(status: Status) -> bool:
    """Whether every model is ready; false until the gateway knows its models."""
    return bool(status.generation) and all(map(is_ready, status.models))


def health(status: Status) -> dict[str, int]:
    """Return the health of each name."""
    server = dict.fromkeys(SERVER, SERVING if are_ready(status) else NOT_SERVING)
    return server | {model.name: SERVING if is_ready(model) else NOT_SERVING for model in status.models}


class Watch:
    """One stream of a name's health: now, and at each change."""

    def __init__(self, exchange: Exchange, name: str, overview: Overview) -> None:
        self._exchange = exchange
        self._name = name
        self._overview = overview
        self._last_health: int | None = None

    def begin(self, headers: bytes) -> None:
        """Begin the stream; it goes on until the client hangs up."""
        self._exchange.begin(200, headers)
        self._poll()

    def _poll(self) -> None:
        if self._exchange.is_abandoned:
            return
        current = health(self._overview.status).get(self._name, SERVICE_UNKNOWN)
        if current != self._last_health:
            self._last_health = current
            self._exchange.send(framed([_RESPONSE(status=current).SerializeToString()]))
        asyncio.get_running_loop().call_later(_POLL_SECONDS, self._poll)

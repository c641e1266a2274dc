"""The error that a call ends with: its HTTP status, its text for the caller, its place in the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from gateway.codec.predict.media import UnknownMedia
from gateway.errors import DeadlineExceeded, Overrun, QueueFull, RefusedBody, Replaced
from gateway.foreign_text import message_text
from gateway.wire.budget import BudgetFull
from gateway.wire.codings import BodyTooLarge, UnknownCoding
from runtimes.errors import DeviceOutOfMemory, ExecutionError, InputError, ModelError, OutOfMemory

STATUSES: Mapping[type[Exception], int] = {
    BodyTooLarge: 413,
    UnknownCoding: 415,
    UnknownMedia: 415,
    InputError: 400,
    ExecutionError: 500,
    OutOfMemory: 507,
    DeviceOutOfMemory: 503,
    ModelError: 500,
    QueueFull: 503,
    RefusedBody: 500,
    BudgetFull: 503,
    Replaced: 503,
    DeadlineExceeded: 504,
    Overrun: 504,
}
"""The one table from errors to HTTP statuses; the closest ancestor of an error decides."""

_FAILURES = 500
_MAX_CHARACTERS = 2000
_UNEXPECTED = "the worker failed on this call; its log says why"

log = logging.getLogger(__name__)


def status_of(failure: Exception) -> int | None:
    """Return the status of an error, None for one that nobody raises on purpose."""
    return next((STATUSES[kind] for kind in type(failure).__mro__ if kind in STATUSES), None)


def explain(failure: Exception, request_id: str, names: Mapping[str, str]) -> tuple[int, str]:
    """Return an error's status and its text for the caller; log it where it is not the caller's fault.

    `names` say in the log which model and version failed.
    """
    status = status_of(failure)
    if isinstance(failure, RefusedBody):
        log.warning("body.refused", extra={"request_id": request_id, **names})
    if status is None or (isinstance(failure, ModelError) and status >= _FAILURES):
        log.error("call.failed", exc_info=failure, extra={"request_id": request_id, **names})
    # Engines put what kits and callers wrote into their errors, and gRPC's clients get it in a header.
    return status or _FAILURES, message_text(str(failure), _MAX_CHARACTERS) if status else _UNEXPECTED

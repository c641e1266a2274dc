"""How the gateway's HTTP server writes an error: in the form that the callers of a path expect.

A handler raises `HTTPException` with the status and a message; nothing else writes an error.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.codec.openai import errors as openai_errors
from gateway.codec.predict.paths import style_of
from gateway.control.state.overview import Overview
from gateway.control.state.status import Status
from gateway.errors import ConfigError, KitserveError
from gateway.wire import texts

log = logging.getLogger(__name__)

_OPENAI_PATHS = "/v1/"
_SERVER_ERROR = 500
_WRONG_METHOD = 405


def error_body(
    path: str, status: int, message: str, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """Write an error as the family of a path has it.

    That is OpenAI's error object under `/v1`, and `{"error": "…"}` everywhere else: in the Open Inference
    Protocol, KServe's first protocol and the admin API.
    """
    if path.startswith(_OPENAI_PATHS) and style_of(path) is None:
        document: dict[str, Any] = orjson.loads(openai_errors.error_body(status, message, code, param))
        return document
    return {"error": message}


class _UnknownModel(HTTPException):
    """A model that is not there; the OpenAI API has a code for that."""


def unknown_model(name: str) -> HTTPException:
    """Return the error for a model that is not there."""
    return _UnknownModel(404, texts.unknown_model(name))


def current_status(overview: Overview) -> Status:
    """Return the status of all models.

    Raises:
        HTTPException: 503 while a gateway that was just started has not worked it out.
    """
    status = overview.status
    if not status.generation:
        raise HTTPException(503, "the gateway has just started, and does not know yet; ask again")
    return status


def error_response(path: str, status: int, message: str) -> JSONResponse:
    """Return the answer that is an error."""
    return JSONResponse(error_body(path, status, message), status)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code == _WRONG_METHOD and error.headers and "Allow" in error.headers:
        message = texts.wrong_method(request.method, error.headers["Allow"])
    names = ("model_not_found", "model") if isinstance(error, _UnknownModel) else (None, None)
    document = error_body(request.url.path, error.status_code, message, *names)
    return JSONResponse(document, error.status_code, error.headers)


async def _refuse_config(request: Request, error: Exception) -> Response:
    assert isinstance(error, ConfigError)
    return _response(request, 400, str(error), {"faults": error.faults})


async def _fail(request: Request, error: Exception) -> Response:
    return _response(request, _SERVER_ERROR, str(error))


def _response(
    request: Request,
    status: int,
    message: str,
    more: Mapping[str, Any] | None = None,
) -> Response:
    return JSONResponse({**error_body(request.url.path, status, message), **(more or {})}, status)


async def _fail_unexpectedly(request: Request, error: Exception) -> Response:
    log.error("request.failed", exc_info=error, extra={"method": request.method, "path": request.url.path})
    return _response(request, _SERVER_ERROR, "the gateway failed on this request; its log says why")


HANDLERS: Mapping[Any, Any] = {
    HTTPException: _refuse,
    ConfigError: _refuse_config,
    KitserveError: _fail,
    Exception: _fail_unexpectedly,
}
"""What Starlette calls for each class of errors; the closest ancestor of an error decides."""

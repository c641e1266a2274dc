"""Errors as clients of the OpenAI API read them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from runtimes.errors import InputError

_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    501: "not_implemented_error",
    503: "service_unavailable",
    504: "timeout",
}
_BAD_GATEWAY = 502
# Engines say of these that they failed themselves; it is the caller's image or sound that cannot be used.
_UNREADABLE = ("image", "audio", "mtmd", "multimodal")
# The engines' own names of what OpenAI's clients know by another.
_CODES: Mapping[str, str] = {"exceed_context_size_error": "context_length_exceeded"}


class RefusedCall(InputError):
    """A call of the OpenAI API that is not given to the model; `param` is the member at fault."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


def error_body(status: int, message: str, code: str | None = None, param: str | None = None) -> bytes:
    """Return an error's body; `status` is HTTP's, `param` the member of the request that is at fault."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def engine_error(status: int, document: Any) -> tuple[int, bytes]:
    """Return the status and the body in which an engine's error is passed on.

    Args:
        status: HTTP's, of the engine's answer; 200 for an error within a stream.
        document: what the engine answered, with or without `{"error": …}` around it; None if it is no JSON.
    """
    error = document.get("error", document) if isinstance(document, dict) else document
    if not isinstance(error, dict):
        error = {"message": error} if isinstance(error, str) and error else {}
    message = str(error.get("message") or "the engine failed, and does not say why")
    if status < 400:
        code = error.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
    if status == 500 and any(word in message for word in _UNREADABLE):
        status = 400
    if status not in _TYPES and status != 500:
        status = _BAD_GATEWAY if status > 500 else 400
    param = error.get("param")
    kind, code = error.get("type"), error.get("code")
    code = _CODES.get(str(kind), code if isinstance(code, str) else None)
    return status, error_body(status, message, code, param if isinstance(param, str) else None)

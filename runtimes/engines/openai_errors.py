"""Errors in the form of the OpenAI API, which an engine of ours answers with."""

from __future__ import annotations

import orjson

_TYPES = {400: "invalid_request_error", 404: "not_found_error", 405: "invalid_request_error"}


class CallError(Exception):
    """A call that is not answered, with the status and the body that say why."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self._error = {
            "message": message,
            "type": _TYPES.get(status, "api_error"),
            "param": param,
            "code": code,
        }

    @property
    def body(self) -> bytes:
        """The JSON of the answer."""
        return orjson.dumps({"error": self._error})


class Unsupported(CallError):
    """A call for something that this engine cannot do."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, param=param, code="unsupported_parameter" if param else "unsupported")


class TooLong(CallError):
    """A call whose prompt does not fit the context."""

    def __init__(self, tokens: int, context: int) -> None:
        super().__init__(
            f"the prompt has {tokens} tokens and the context {context}, of which an answer needs one; "
            "shorten the prompt, or have the model served with a larger context",
            code="context_length_exceeded",
        )

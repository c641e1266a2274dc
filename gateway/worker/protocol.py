"""What the app and its protocol handlers agree on: who answers a path, and how errors are written there.

A handler owns the paths of one protocol. For each of them it names a `Route`: what answers each method, and
the family of errors that callers of the path read. A new protocol takes a handler's module and a line in
`assembly`; a new endpoint of one takes its handler alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.codec.json_answer import error
from gateway.codec.openai.errors import error_body
from gateway.wire.exchange import Exchange, lines
from gateway.wire.grpc_calls import CONTENT, fail

JSON = lines([(b"content-type", b"application/json")])
OPENAI = "/v1/"
"""What the paths of the OpenAI API begin with."""

Answer = Callable[[Exchange, str], None]
"""Answers a call, now or later; the string is the role of the version: `stable`, `canary` or ""."""


class ErrorFamily(Protocol):
    """How one protocol's clients read errors."""

    def __call__(self, exchange: Exchange, role: str, status: int, text: str, headers: bytes = b"") -> None:
        """Answer with an error; `status` is HTTP's, `headers` are further lines."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where the calls of one path go."""

    errors: ErrorFamily
    methods: Mapping[str, Answer]
    """What answers each method, the one to recommend first; empty where there is no such path."""
    advice: str = ""
    """What a caller of a path that there is not is told besides: what the model has instead."""


def document(errors: ErrorFamily, headers: Mapping[str, bytes], body: bytes) -> Route:
    """Return the route of a document that never changes; `headers` are its lines by role."""

    def answer(exchange: Exchange, role: str) -> None:
        exchange.respond(200, headers[role], body)

    return Route(errors, {"GET": answer, "HEAD": answer})


class ProtocolHandler(Protocol):
    """What answers the calls of one protocol."""

    streams: Mapping[str, Answer]
    """Paths whose calls are offered as soon as their headers are here, to take the body in pieces."""

    def route(self, path: str, content_type: bytes) -> Route | None:
        """Return where a call goes, None where it is no call of this protocol. The app remembers it."""
        ...


class OpenInferenceErrors:
    """Writes `{"error": "…"}`, as clients of the Open Inference Protocol read it."""

    def __init__(self, headers: Mapping[str, bytes]) -> None:
        self._headers = {role: JSON + names for role, names in headers.items()}

    def __call__(self, exchange: Exchange, role: str, status: int, text: str, headers: bytes = b"") -> None:
        exchange.respond(status, self._headers[role] + headers, error(text))


class OpenAIErrors:
    """Writes `{"error": {"message", "type", "param", "code"}}`, as clients of the OpenAI API read it."""

    def __init__(self, headers: Mapping[str, bytes]) -> None:
        self._headers = {role: JSON + names for role, names in headers.items()}

    def __call__(
        self,
        exchange: Exchange,
        role: str,
        status: int,
        text: str,
        headers: bytes = b"",
        *,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        """Answer with an error; `param` is the member of the request that is at fault."""
        exchange.respond(status, self._headers[role] + headers, error_body(status, text, code, param))


class GrpcErrors:
    """Writes `grpc-status` and `grpc-message`, with no body.

    The answer has HTTP's status too, for the edge and the logs; the edge makes HTTP's 200 of it, as gRPC
    wants it.
    """

    def __init__(self, headers: Mapping[str, bytes]) -> None:
        self._headers = {role: CONTENT + names for role, names in headers.items()}

    def __call__(
        self, exchange: Exchange, role: str, status: int, text: str | bytes, headers: bytes = b""
    ) -> None:
        """Answer with an error; text that is bytes is the value of `grpc-message` already."""
        fail(exchange, self._headers[role] + headers, status, text)

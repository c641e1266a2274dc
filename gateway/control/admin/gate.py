"""The gate of the admin API: an ASGI middleware that lets each caller do what they may, and no more.

It stands before all handlers: a path that is added later is closed until `callers` opens it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.control.admin.callers import Caller, Role, is_from_this_machine, may
from gateway.control.admin.host_paths import without_paths
from gateway.control.admin.tls import name_in
from gateway.control.web.errors import error_response
from gateway.control.web.server import CERTIFICATE, PEER
from gateway.foreign_text import foreign_text
from gateway.loopback import is_loopback_host

log = logging.getLogger(__name__)

FOREIGN_HOST = "Invalid host header"
"""The answer to a caller on loopback who names another host; `cli/admin_client.py` knows it."""
NEEDS_MORE = (
    "this needs the socket of the admin API, admin.sock in Kitserve's home, which `kitserve` uses by itself "
    "(set $KITSERVE_HOME where `serve` has a --home); or `Authorization: Bearer` and the token that "
    "`kitserve token` prints"
)
_WRONG_TOKEN = "the token is wrong; `kitserve token` prints the one that holds"  # noqa: S105 - a message
_CALLER = "kitserve.caller"
_BEARER = "bearer"
_JSON = "application/json"

TokenCheck = Callable[[str], bool]


class Gate:
    """Passes a request on if its caller may make it.

    Args:
        app: what answers the requests that pass.
        is_token: tells whether a text is the token.
        owner: the number of the user whose requests over the socket are the owner's; so are root's.
    """

    def __init__(self, app: ASGIApp, is_token: TokenCheck, owner: int) -> None:
        self._app = app
        self._is_token = is_token
        self._owner = owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        is_local = PEER not in scope and is_from_this_machine(_ends(scope))
        if is_local and not is_loopback_host(headers.get("host", "")):
            # A page whose name leads to loopback (DNS rebinding) reads and changes nothing.
            await PlainTextResponse(FOREIGN_HOST, 400)(scope, receive, send)
            return
        scheme, _, credential = headers.get("authorization", "").partition(" ")
        has_token = scheme.lower() == _BEARER and self._is_token(credential.strip())
        caller = self._caller(scope, is_local, has_token)
        path, method = scope["path"], scope["method"]
        is_known = caller.role in (Role.OWNER, Role.HOLDER)
        is_wrong = bool(scheme) and not has_token and not is_known
        if is_wrong or not may(caller, method, path):
            if method not in ("GET", "HEAD"):
                fields = {"caller": caller.name, "method": method, "path": foreign_text(path)}
                log.warning("admin.refused", extra=fields)
            refused = error_response(path, 401, _WRONG_TOKEN if is_wrong else NEEDS_MORE)
            refused.headers["WWW-Authenticate"] = "Bearer"
            await refused(scope, receive, send)
            return
        scope[_CALLER] = caller
        await self._app(scope, receive, send if caller.role is not Role.READER else _Shortening(send))

    def _caller(self, scope: Scope, is_local: bool, has_token: bool) -> Caller:
        if PEER in scope:
            user = scope[PEER]
            if user in (self._owner, 0):
                return Caller(Role.OWNER, f"uid {user}")
            return Caller(Role.HOLDER if has_token else Role.NOBODY, f"uid {user}")
        address = (scope.get("client") or ("unknown",))[0]
        if certificate := scope.get(CERTIFICATE):
            return Caller(Role.HOLDER, f"certificate {name_in(certificate)!r} from {address}")
        if has_token:
            return Caller(Role.HOLDER, f"token from {address}")
        return Caller(Role.READER if is_local else Role.NOBODY, f"nobody known, from {address}")


class _Shortening:
    """Sends an answer whose JSON has no path of this machine in it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if Headers(raw=message["headers"]).get("content-type", "").partition(";")[0] == _JSON:
                self._start = message
                return
        elif self._start is not None:
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            body = orjson.dumps(without_paths(orjson.loads(self._body))) if self._body else b""
            length = [(b"content-length", str(len(body)).encode())] if body else []
            kept = [(name, value) for name, value in self._start["headers"] if name != b"content-length"]
            await self._send({**self._start, "headers": kept + length})
            message = {**message, "body": body}
        await self._send(message)


def caller_of(request: Request) -> Caller:
    """Return who makes a request that has passed the gate."""
    caller = request.scope[_CALLER]
    assert isinstance(caller, Caller)
    return caller


def _ends(scope: Scope) -> list[str]:
    return [(scope.get(end) or ("",))[0] for end in ("client", "server")]

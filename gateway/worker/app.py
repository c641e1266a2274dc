"""One version's HTTP interface as a raw ASGI app: paths to handlers, errors to statuses."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from gateway.metrics import Tally
from gateway.worker import oip
from gateway.worker.compute import ComputeThread, Job
from runtimes.base import LoadedModel
from runtimes.errors import ExecutionError, InputError, ModelError

MAX_BODY_BYTES = 64 * 1024 * 1024

STATUSES: Mapping[type[Exception], int] = {InputError: 400, ExecutionError: 500, ModelError: 500}
"""The one table from errors to HTTP statuses; the closest ancestor of an error decides."""

_ROLES: Mapping[bytes, str] = {b"stable": "stable", b"canary": "canary"}

_CLOSE = ((b"connection", b"close"),)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a version is called: the model's name, its tag (or short digest), and its digest."""

    model: str
    version: str
    digest: str


class WorkerApp:
    """Answers `infer`, `ready` and metadata for one loaded model.

    Which model and version a path names is the edge's concern; here only what it asks of them counts.
    """

    def __init__(self, identity: Identity, model: LoadedModel, tally: Tally, edge_key: str = "") -> None:
        self._identity = identity
        self._edge_key = edge_key.encode()
        self._model = model
        self._encode = oip.Encoder(identity.model, identity.version)
        self._tally = tally
        self._metadata = oip.metadata(identity.model, identity.version, model.platform, model.signature)
        self._ready = b'{"name":"%s","ready":true}' % identity.model.encode()
        names = [
            (b"content-type", b"application/json"),
            (b"modelkit-digest", identity.digest.encode()),
            (b"modelkit-version", identity.version.encode()),
        ]
        self._headers: Mapping[str, Headers] = {
            "": names,
            "stable": [*names, (b"modelkit-role", b"stable")],
            "canary": [*names, (b"modelkit-role", b"canary")],
        }
        self.compute = ComputeThread(self._infer)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            return
        head = _read_head(scope["headers"])
        method: str = scope["method"]
        # Serve's own proxy calls below a prefix, which ASGI keeps in the path.
        action = _action(scope["path"].removeprefix(scope.get("root_path", "")))
        if self._edge_key and not hmac.compare_digest(head.edge_key, self._edge_key):
            await self._respond(send, 403, oip.error("call the edge, not its workers"), "", _CLOSE)
        elif action == "infer" and method == "POST":
            await self._call(receive, send, head)
        elif action is not None and action != "infer" and method == "GET":
            await self._respond(send, 200, self._ready if action == "ready" else self._metadata, head.role)
        elif action is None and method != "HEAD":
            await self._respond(send, 404, oip.error(f"no such path: {scope['path']}"), head.role)
        else:
            allowed = "POST" if action == "infer" else "GET"
            text = f"{method} is not allowed here; use {allowed}"
            # Closing sends the head of an answer to HEAD, which has no body to go with.
            extra = [(b"allow", allowed.encode()), *_CLOSE]
            await self._respond(send, 405, oip.error(text), head.role, extra)

    async def _call(self, receive: Receive, send: Send, head: _Head) -> None:
        arrived = time.perf_counter()
        role = head.role
        if head.binary:
            self._tally.refused(role, 400)
            text = "binary tensors are not supported: send them as JSON (tritonclient: binary_data=False)"
            await self._respond(send, 400, oip.error(text), role)
            return
        try:
            body = await _read_body(receive)
        except _ClientLeftError:
            return
        except _TooLargeError:
            self._tally.refused(role, 413)
            text = f"the body is larger than {MAX_BODY_BYTES} bytes"
            await self._respond(send, 413, oip.error(text), role, _CLOSE)
            return
        self._tally.ongoing += 1
        try:
            job = await self.compute.run(body, head.request_id)
            await self._respond(send, job.status, job.answer, role)
        finally:
            self._tally.ongoing -= 1
        self._tally.answered(
            role,
            job.status,
            request=time.perf_counter() - arrived,
            queue=job.started - job.arrived,
            compute=job.finished - job.started,
        )

    def _infer(self, job: Job) -> tuple[int, bytes]:
        try:
            call = oip.decode(job.body)
            outputs = self._model.infer(call.inputs, call.outputs)
            return 200, self._encode(call.id, outputs)
        except Exception as error:
            status = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), None)
            if status is not None and status < 500:
                return status, oip.error(str(error))
            log.exception("call.failed", extra={"request_id": job.request_id, **asdict(self._identity)})
            known = str(error) if status else "the worker failed on this call; its log says why"
            return status or 500, oip.error(known)

    async def _respond(
        self, send: Send, status: int, body: bytes, role: str, extra: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        headers = [*self._headers[role], (b"content-length", b"%d" % len(body)), *extra]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@lru_cache(maxsize=256)
def _action(path: str) -> str | None:
    """What a path asks of the model it names: `infer`, `ready`, "" (metadata), or None for nothing known."""
    parts = path.split("/")
    if parts[1:3] == ["v2", "models"] and len(parts) > 3:
        rest = parts[6:] if parts[4:5] == ["versions"] and len(parts) > 5 else parts[4:]
        action = "/".join(rest)
        return action if action in ("", "infer", "ready") else None
    return "ready" if parts[1:] == ["v2", "health", "ready"] else None


@dataclass(slots=True)
class _Head:
    """What of a request's headers counts here; the edge sets role and request id."""

    role: str = ""
    request_id: str = ""
    edge_key: bytes = b""
    binary: bool = False


def _read_head(headers: Headers) -> _Head:
    head = _Head()
    for name, value in headers:
        if name == b"modelkit-role":
            head.role = _ROLES.get(value, "")
        elif name == b"x-request-id":
            head.request_id = value.decode("latin-1")
        elif name == b"kitserve-edge":
            head.edge_key = value
        elif name == b"inference-header-content-length":
            head.binary = True
    return head


class _ClientLeftError(Exception):
    """The caller closed the connection before the body was here."""


class _TooLargeError(Exception):
    """The body is larger than allowed."""


async def _read_body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientLeftError
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise _TooLargeError
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)

"""One version's HTTP interface as a raw ASGI app: paths to handlers, errors to statuses."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import asdict, dataclass
from typing import Any

from gateway.metrics import Tally
from gateway.worker import oip
from gateway.worker.compute import ComputeThread, Job
from runtimes.base import LoadedModel
from runtimes.errors import ExecutionError, InputError, ModelError

MAX_BODY_BYTES = 64 * 1024 * 1024

STATUSES: Mapping[type[Exception], int] = {InputError: 400, ExecutionError: 500, ModelError: 500}
"""The one table from errors to HTTP statuses; the closest ancestor of an error decides."""

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

    Which model and version a path names is the edge's concern; here only its end counts.
    """

    def __init__(self, identity: Identity, model: LoadedModel, tally: Tally) -> None:
        self._identity = identity
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
        role = head.role
        path: str = scope["path"]
        method: str = scope["method"]
        if not path.endswith("/infer"):
            await self._respond(send, *self._describe(method, path), role)
        elif method != "POST":
            await self._respond(send, 405, oip.error(f"{method} is not allowed here; use POST"), role)
        elif head.binary:
            self._tally.refused(role, 400)
            message = "binary tensors are not supported: send them as JSON (tritonclient: binary_data=False)"
            await self._respond(send, 400, oip.error(message), role)
        else:
            await self._call(receive, send, head)

    async def _call(self, receive: Receive, send: Send, head: _Head) -> None:
        arrived = time.perf_counter()
        role = head.role
        body = await _read_body(receive)
        if body is None:
            self._tally.refused(role, 413)
            text = f"the body is larger than {MAX_BODY_BYTES} bytes"
            await self._respond(send, 413, oip.error(text), role, close=True)
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

    def _describe(self, method: str, path: str) -> tuple[int, bytes]:
        if method != "GET":
            return 405, oip.error(f"{method} is not allowed here; use GET")
        if path.endswith("/ready"):
            return 200, self._ready
        parts = path.rstrip("/").split("/")
        if parts[-2:-1] in (["models"], ["versions"]):
            return 200, self._metadata
        return 404, oip.error(f"no such path: {path}")

    async def _respond(self, send: Send, status: int, body: bytes, role: str, close: bool = False) -> None:
        headers = [*self._headers.get(role, self._headers[""]), (b"content-length", b"%d" % len(body))]
        if close or status == 405:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@dataclass(slots=True)
class _Head:
    """What of a request's headers counts here; the edge sets role and request id."""

    role: str = ""
    request_id: str = ""
    binary: bool = False


def _read_head(headers: Headers) -> _Head:
    head = _Head()
    for name, value in headers:
        if name == b"modelkit-role":
            head.role = value.decode("latin-1")
        elif name == b"x-request-id":
            head.request_id = value.decode("latin-1")
        elif name == b"inference-header-content-length":
            head.binary = True
    return head


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, or None when it is too large."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        return body if len(body) <= MAX_BODY_BYTES else None
    parts, size = [body], len(body)
    while message.get("more_body", False):
        message = await receive()
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)

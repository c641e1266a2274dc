"""One version's HTTP interface as a raw ASGI app: paths to handlers, errors to statuses."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from gateway.metrics import Tally
from gateway.worker.answers import Encoder, error
from gateway.worker.codings import BodyTooLarge, UnknownCoding, chosen, compress, decompress
from gateway.worker.compute import ComputeThread, Job
from gateway.worker.describe import configuration, metadata
from gateway.worker.oip import Decoder
from runtimes.base import LoadedModel
from runtimes.errors import ExecutionError, InputError, ModelError

MAX_BODY_BYTES = 64 * 1024 * 1024

STATUSES: Mapping[type[Exception], int] = {
    BodyTooLarge: 413,
    UnknownCoding: 415,
    InputError: 400,
    ExecutionError: 500,
    ModelError: 500,
}
"""The one table from errors to HTTP statuses; the closest ancestor of an error decides."""

_ROLES: Mapping[bytes, str] = {b"stable": "stable", b"canary": "canary"}

_ACTIONS = frozenset({"", "infer", "ready", "config"})

_CLOSE = ((b"connection", b"close"),)
_JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")
_OK = 200
_NO_LABELS: Mapping[str, Sequence[str]] = {}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]
Headers = list[Header]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a version is called: the model's name, its tag (or short digest), and its digest."""

    model: str
    version: str
    digest: str


class WorkerApp:
    """Answers `infer`, `ready`, metadata and configuration for one loaded model.

    Which model and version a path names is the edge's concern; here only what it asks of them counts.
    `labels` are the names of the classes that outputs have, see `answers.Encoder`.
    """

    def __init__(
        self,
        identity: Identity,
        model: LoadedModel,
        tally: Tally,
        edge_key: str = "",
        labels: Mapping[str, Sequence[str]] = _NO_LABELS,
    ) -> None:
        self._identity = identity
        self._edge_key = edge_key.encode()
        self._model = model
        self._decode = Decoder(model.signature)
        self._encode = Encoder(identity.model, identity.version, labels)
        self._tally = tally
        self._documents: Mapping[str, bytes] = {
            "": metadata(identity.model, identity.version, model.platform, model.signature),
            "ready": b'{"name":"%s","ready":true}' % identity.model.encode(),
            "config": configuration(identity.model, model.platform, model.signature),
        }
        names = [
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
            await self._respond(send, 403, error("call the edge, not its workers"), "", _CLOSE)
        elif action == "infer" and method == "POST":
            await self._call(receive, send, head)
        elif action is not None and action != "infer" and method == "GET":
            await self._respond(send, 200, self._documents[action], head.role)
        elif action is None and method != "HEAD":
            await self._respond(send, 404, error(f"no such path: {scope['path']}"), head.role)
        else:
            allowed = "POST" if action == "infer" else "GET"
            text = f"{method} is not allowed here; use {allowed}"
            # Closing sends the head of an answer to HEAD, which has no body to go with.
            extra = [(b"allow", allowed.encode()), *_CLOSE]
            await self._respond(send, 405, error(text), head.role, extra)

    async def _call(self, receive: Receive, send: Send, head: _Head) -> None:
        arrived = time.perf_counter()
        role = head.role
        try:
            body = await _read_body(receive)
            if head.coding:
                # Beside the model's thread: what is slow for one caller must not hold up the others.
                body = await asyncio.to_thread(decompress, body, head.coding, MAX_BODY_BYTES)
        except _ClientLeftError:
            return
        except InputError as refusal:
            status = _status(refusal) or 500
            self._tally.refused(role, status)
            await self._respond(send, status, error(str(refusal)), role, _CLOSE)
            return
        self._tally.ongoing += 1
        try:
            job = await self.compute.run(body, head.request_id, head.json_size)
            if job.status == _OK and (head.accepted or job.answer_json_size is not None):
                await self._give(send, job, head)
            else:
                await self._respond(send, job.status, job.answer, role)
        finally:
            self._tally.ongoing -= 1
        done = job.status == _OK
        self._tally.answered(
            role,
            job.status,
            request=time.perf_counter() - arrived,
            queue=job.started - job.arrived,
            compute=job.finished - job.started,
            infer=job.inferred - job.decoded if done else 0.0,
            encode=job.finished - job.inferred if done else 0.0,
        )

    async def _give(self, send: Send, job: Job, head: _Head) -> None:
        """Send an answer that has raw tensors, or that its caller may want compressed."""
        body, extra, content = job.answer, [], _JSON
        if job.answer_json_size is not None:
            content = _BINARY
            extra.append((b"inference-header-content-length", b"%d" % job.answer_json_size))
        if coding := chosen(head.accepted):
            smaller = await asyncio.to_thread(compress, body, coding)
            if smaller is not None:
                body = smaller
                extra.append((b"content-encoding", coding.encode()))
        await self._respond(send, job.status, body, head.role, extra, content)

    def _infer(self, job: Job) -> None:
        try:
            call = self._decode(job.body, job.json_size)
            job.decoded = time.perf_counter()
            outputs = self._model.infer(call.inputs, tuple(call.outputs))
            job.inferred = time.perf_counter()
            job.answer, job.answer_json_size = self._encode(call, outputs)
            job.status = _OK
        except Exception as failure:
            status = _status(failure)
            if status is not None and status < 500:
                job.status, job.answer = status, error(str(failure))
                return
            log.exception("call.failed", extra={"request_id": job.request_id, **asdict(self._identity)})
            known = str(failure) if status else "the worker failed on this call; its log says why"
            job.status, job.answer = status or 500, error(known)

    async def _respond(
        self,
        send: Send,
        status: int,
        body: bytes,
        role: str,
        extra: Sequence[Header] = (),
        content: Header = _JSON,
    ) -> None:
        headers = [content, *self._headers[role], (b"content-length", b"%d" % len(body)), *extra]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@lru_cache(maxsize=256)
def _action(path: str) -> str | None:
    """What a path asks of the model it names: one of `_ACTIONS`, "" being metadata, or None."""
    parts = path.split("/")
    if parts[1:3] == ["v2", "models"] and len(parts) > 3:
        rest = parts[6:] if parts[4:5] == ["versions"] and len(parts) > 5 else parts[4:]
        action = "/".join(rest)
        return action if action in _ACTIONS else None
    return "ready" if parts[1:] == ["v2", "health", "ready"] else None


@dataclass(slots=True)
class _Head:
    """What of a request's headers counts here; the edge sets role and request id."""

    role: str = ""
    request_id: str = ""
    edge_key: bytes = b""
    json_size: bytes = b""
    """Of the body; see `Decoder`."""
    coding: str = ""
    accepted: str = ""


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
            head.json_size = value or b"?"
        elif name == b"content-encoding":
            head.coding = value.decode("latin-1")
        elif name == b"accept-encoding":
            head.accepted = value.decode("latin-1")
    return head


class _ClientLeftError(Exception):
    """The caller closed the connection before the body was here."""


async def _read_body(receive: Receive) -> list[bytes]:
    """The body in the pieces in which it comes. Raises BodyTooLarge as soon as it is."""
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientLeftError
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise BodyTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
        pieces.append(piece)
        if not message.get("more_body", False):
            return pieces


def _status(failure: Exception) -> int | None:
    """The status of an error, None for one that nobody raises on purpose."""
    return next((STATUSES[kind] for kind in type(failure).__mro__ if kind in STATUSES), None)

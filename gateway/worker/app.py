"""One version's HTTP interface as a raw ASGI app: paths to handlers, errors to statuses."""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from gateway.metrics import Tally
from gateway.worker.answers import Encoder, error
from gateway.worker.codings import BodyTooLarge, chosen, compress, decompress
from gateway.worker.compute import DEFAULT_LIMITS, ComputeThread, Job, QueueLimits
from gateway.worker.deadlines import request_timeout
from gateway.worker.describe import configuration, metadata
from gateway.worker.oip import Call, Decoder
from gateway.worker.statuses import status_of
from runtimes.base import Array, LoadedModel, Signature
from runtimes.errors import InputError

MAX_BODY_BYTES = 64 * 1024 * 1024

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


@dataclass(frozen=True, slots=True)
class Identity:
    """What a version is called: the model's name, its tag (or short digest), and its digest."""

    model: str
    version: str
    digest: str


class RestCodec:
    """Writes calls and answers as REST does, see `compute.Codec`."""

    def __init__(
        self, identity: Identity, signature: Signature, labels: Mapping[str, Sequence[str]] = _NO_LABELS
    ) -> None:
        self._decode = Decoder(signature)
        self._encode = Encoder(identity.model, identity.version, labels)

    def decode(self, job: Job) -> Call:
        return self._decode(job.body, job.json_size)

    def encode(self, job: Job, call: Call, outputs: Mapping[str, Array]) -> None:
        job.answer, job.answer_json_size = self._encode(call, outputs)

    def error(self, job: Job, _status: int, message: str) -> None:
        job.answer = error(message)


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
        limits: QueueLimits = DEFAULT_LIMITS,
    ) -> None:
        self._edge_key = edge_key.encode()
        self._codec = RestCodec(identity, model.signature, labels)
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
        self.compute = ComputeThread(model, tally, limits, asdict(identity))

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
        began = time.perf_counter()
        role = head.role
        try:
            timeout = request_timeout(head.timeout) if head.timeout else math.inf
            body = await _read_body(receive)
            if head.coding:
                # Beside the model's thread: what is slow for one caller must not hold up the others.
                body = await asyncio.to_thread(decompress, body, head.coding, MAX_BODY_BYTES)
        except _ClientLeftError:
            return
        except InputError as refusal:
            status = status_of(refusal) or 500
            self._tally.refused(role, status)
            await self._respond(send, status, error(str(refusal)), role, _CLOSE)
            return
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Job] = loop.create_future()
        job = Job(
            body,
            self._codec,
            loop,
            answered.set_result,
            role,
            head.request_id,
            head.json_size,
            timeout,
            began,
        )
        self.compute.submit(job)
        try:
            await answered
        except asyncio.CancelledError:
            job.cancel()
            raise
        if job.status == _OK and (head.accepted or job.answer_json_size is not None):
            await self._give(send, job, head)
        else:
            extra = [(b"retry-after", b"%d" % job.retry_after)] if job.retry_after else ()
            await self._respond(send, job.status, job.answer, role, extra)

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
    timeout: bytes = b""


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
        elif name == b"x-request-timeout":
            head.timeout = value or b"?"
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

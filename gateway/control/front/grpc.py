"""The gRPC services of the server as a whole: the edge sends them here, as a worker knows of itself alone.

They are the Open Inference Protocol's methods that are not of one model, health and reflection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from starlette.exceptions import HTTPException

import gateway
from gateway.codec.statuses import explain
from gateway.control.front import grpc_reflection
from gateway.control.front.grpc_health import Watch, are_ready, health
from gateway.control.front.repository import Repository
from gateway.control.state.overview import Overview
from gateway.wire.body import Pieces
from gateway.wire.exchange import Exchange
from gateway.wire.grpc_calls import CONTENT, OK, fail, is_grpc, parse
from gateway.wire.grpc_frames import Unframer, framed
from gateway.wire.grpc_messages import message
from gateway.wire.grpc_status import trailers
from gateway.wire.limits import SMALL_BODY_BYTES
from gateway.wire.texts import EXTENSIONS, HEALTH, INFERENCE, LOADED_BY_CONFIG, unknown_method
from runtimes.errors import InputError

_LOADING = frozenset(f"/{INFERENCE}/RepositoryModel{verb}" for verb in ("Load", "Unload"))
_WATCH = f"/{HEALTH}/Watch"

Answer = Callable[[Any], Mapping[str, Any]]


class GrpcServices:
    """Answers as REST does, from the same overview; see `exchange.Handler`."""

    max_body = SMALL_BODY_BYTES

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._repository = Repository(overview)
        # By path: the classes of request and answer, and the method that gives the answer as a JSON document.
        self._methods: Mapping[str, tuple[Any, Any, Answer]] = {
            f"/{service}/{method}": (
                message(f"{service.rpartition('.')[0]}.{name}Request"),
                message(f"{service.rpartition('.')[0]}.{name}Response"),
                answer,
            )
            for service, method, name, answer in (
                (INFERENCE, "ServerLive", "ServerLive", self._live),
                (INFERENCE, "ServerReady", "ServerReady", self._ready),
                (INFERENCE, "ServerMetadata", "ServerMetadata", self._metadata),
                (INFERENCE, "ModelReady", "ModelReady", self._model_ready),
                (INFERENCE, "ModelStatistics", "ModelStatistics", self._statistics),
                (INFERENCE, "RepositoryIndex", "RepositoryIndex", self._index),
                (HEALTH, "Check", "HealthCheck", self._check),
                (HEALTH, "List", "HealthList", self._list),
            )
        }

    def head(self, exchange: Exchange) -> None:
        """Take a stream of reflection as it comes."""
        service = grpc_reflection.PATHS.get(exchange.path)
        if service is not None and exchange.method == "POST" and is_grpc(exchange):
            _Reflection(exchange, service).begin()

    def handle(self, exchange: Exchange) -> None:
        """Answer a call."""
        try:
            self._handle(exchange)
        except HTTPException as refusal:
            fail(exchange, CONTENT, refusal.status_code, refusal.detail)
        except InputError as refusal:
            fail(exchange, CONTENT, *explain(refusal, "", {}))

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        """Answer a call that the server refuses."""
        fail(exchange, CONTENT, status, text)

    def _handle(self, exchange: Exchange) -> None:
        path = exchange.path
        if exchange.method != "POST" or not is_grpc(exchange):
            raise HTTPException(405, "this is gRPC; use POST with its content type")
        if path in _LOADING:
            raise HTTPException(501, LOADED_BY_CONFIG)
        if path == _WATCH:
            watched = parse(message("grpc.health.v1.HealthCheckRequest"), exchange)
            Watch(exchange, watched.service, self._overview).begin(CONTENT)
            return
        if path not in self._methods:
            raise HTTPException(501, unknown_method(path))
        request, response, answer = self._methods[path]
        document = ParseDict(answer(parse(request, exchange)), response())
        exchange.respond(200, CONTENT, framed([document.SerializeToString()]), OK)

    def _live(self, _request: Any) -> Mapping[str, Any]:
        return {"live": True}

    def _ready(self, _request: Any) -> Mapping[str, Any]:
        return {"ready": are_ready(self._overview.status)}

    def _metadata(self, _request: Any) -> Mapping[str, Any]:
        return {"name": "kitserve", "version": gateway.__version__, "extensions": EXTENSIONS}

    def _model_ready(self, _request: Any) -> Mapping[str, Any]:
        # A worker answers for its own model: the edge asks here only where there is none.
        return {"ready": False}

    def _statistics(self, request: Any) -> Mapping[str, Any]:
        entries = self._repository.statistics(request.name or None, request.version or None)
        return {
            "model_stats": [
                {key: value for key, value in entry.items() if key not in ("response_stats", "memory_usage")}
                for entry in entries
            ]
        }

    def _index(self, request: Any) -> Mapping[str, Any]:
        return {"models": self._repository.index(request.ready)}

    def _check(self, request: Any) -> Mapping[str, Any]:
        status = health(self._overview.status).get(request.service)
        if status is None:
            raise HTTPException(404, f"no model is named {request.service}")
        return {"status": status}

    def _list(self, _request: Any) -> Mapping[str, Any]:
        statuses = health(self._overview.status)
        return {"statuses": {name: {"status": status} for name, status in statuses.items()}}


class _Reflection:
    """One stream of the reflection service; an answer may be 200 times as long as what it is asked with."""

    def __init__(self, exchange: Exchange, service: str) -> None:
        self._exchange = exchange
        self._service = service
        self._unframer = Unframer(SMALL_BODY_BYTES)
        self._waiting: deque[Pieces] = deque()
        self._is_closing = False
        self._has_ended = False

    def begin(self) -> None:
        self._exchange.on_piece = self._feed
        self._exchange.on_end = self._close
        self._exchange.on_writable = self._answer
        self._exchange.begin(200, CONTENT)

    def _feed(self, piece: bytes | memoryview) -> None:
        if self._has_ended:
            return
        try:
            self._waiting += self._unframer.feed(piece)
        except InputError as refusal:
            self._end(*explain(refusal, "", {}))
            return
        self._answer()

    def _answer(self) -> None:
        """Answer as many requests as the client takes answers; no more are read while others wait."""
        exchange, waiting = self._exchange, self._waiting
        try:
            while waiting and exchange.is_writable and not self._has_ended:
                request = b"".join(waiting.popleft())
                exchange.send(framed([grpc_reflection.answer(self._service, request)]))
        except DecodeError as error:
            self._end(400, f"the message is no ServerReflectionRequest: {error}")
        if self._has_ended:
            return
        if waiting:
            exchange.pause()
        elif self._is_closing:
            self._end()
        else:
            exchange.resume()

    def _close(self) -> None:
        self._is_closing = True
        if not self._waiting:
            self._end()

    def _end(self, status: int = 200, text: str = "") -> None:
        if not self._has_ended:
            self._has_ended = True
            self._exchange.end(trailers(status, text))

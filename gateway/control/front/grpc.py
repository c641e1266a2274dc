"""What is asked over gRPC of the server as a whole; the edge sends it here, a worker knows of itself alone.

Besides the protocol's own methods these are the services for health and reflection.
"""

from __future__ import annotations

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
    """Answers as REST does, from the same sources; see `exchange.Handler`."""

    max_body = SMALL_BODY_BYTES

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._repository = Repository(overview)
        # By path: the class of the request, that of the answer, and what gives it as a JSON document.
        self._methods: Mapping[str, tuple[Any, Any, Answer]] = {
            f"/{service}/{method}": (
                message(f"{service.rpartition('.')[0]}.{request}"),
                message(f"{service.rpartition('.')[0]}.{response}"),
                answer,
            )
            for service, method, request, response, answer in (
                (INFERENCE, "ServerLive", "ServerLiveRequest", "ServerLiveResponse", self._live),
                (INFERENCE, "ServerReady", "ServerReadyRequest", "ServerReadyResponse", self._ready),
                (INFERENCE, "ServerMetadata", "ServerMetadataRequest", "ServerMetadataResponse", self._tell),
                (INFERENCE, "ModelReady", "ModelReadyRequest", "ModelReadyResponse", self._model_ready),
                (
                    INFERENCE,
                    "ModelStatistics",
                    "ModelStatisticsRequest",
                    "ModelStatisticsResponse",
                    self._statistics,
                ),
                (
                    INFERENCE,
                    "RepositoryIndex",
                    "RepositoryIndexRequest",
                    "RepositoryIndexResponse",
                    self._index,
                ),
                (HEALTH, "Check", "HealthCheckRequest", "HealthCheckResponse", self._check),
                (HEALTH, "List", "HealthListRequest", "HealthListResponse", self._list),
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
            asked = parse(message("grpc.health.v1.HealthCheckRequest"), exchange)
            Watch(exchange, asked.service, self._overview).begin(CONTENT)
            return
        if path not in self._methods:
            raise HTTPException(501, unknown_method(path))
        request, response, answer = self._methods[path]
        found = ParseDict(answer(parse(request, exchange)), response())
        exchange.respond(200, CONTENT, framed([found.SerializeToString()]), OK)

    def _live(self, _request: Any) -> Mapping[str, Any]:
        return {"live": True}

    def _ready(self, _request: Any) -> Mapping[str, Any]:
        return {"ready": are_ready(self._overview.status)}

    def _tell(self, _request: Any) -> Mapping[str, Any]:
        return {"name": "kitserve", "version": gateway.__version__, "extensions": EXTENSIONS}

    def _model_ready(self, _request: Any) -> Mapping[str, Any]:
        # The edge asks here only for what has no worker.
        return {"ready": False}

    def _statistics(self, request: Any) -> Mapping[str, Any]:
        found = self._repository.statistics(request.name or None, request.version or None)
        return {
            "model_stats": [
                {key: value for key, value in entry.items() if key not in ("response_stats", "memory_usage")}
                for entry in found
            ]
        }

    def _index(self, request: Any) -> Mapping[str, Any]:
        return {"models": self._repository.index(request.ready)}

    def _check(self, request: Any) -> Mapping[str, Any]:
        found = health(self._overview.status).get(request.service)
        if found is None:
            raise HTTPException(404, f"no model is named {request.service}")
        return {"status": found}

    def _list(self, _request: Any) -> Mapping[str, Any]:
        found = health(self._overview.status)
        return {"statuses": {name: {"status": status} for name, status in found.items()}}


class _Reflection:
    """One stream of the reflection service."""

    def __init__(self, exchange: Exchange, service: str) -> None:
        self._exchange = exchange
        self._service = service
        self._unframer = Unframer(SMALL_BODY_BYTES)
        self._over = False

    def begin(self) -> None:
        self._exchange.on_piece = self._feed
        self._exchange.on_end = self._end
        self._exchange.begin(200, CONTENT)

    def _feed(self, piece: bytes | memoryview) -> None:
        if self._over:
            return
        try:
            for pieces in self._unframer.feed(piece):
                self._exchange.send(framed([grpc_reflection.answer(self._service, b"".join(pieces))]))
        except DecodeError as error:
            self._end(400, f"the message is no ServerReflectionRequest: {error}")
        except InputError as refusal:
            self._end(*explain(refusal, "", {}))

    def _end(self, status: int = 200, text: str = "") -> None:
        if not self._over:
            self._over = True
            self._exchange.end(trailers(status, text))

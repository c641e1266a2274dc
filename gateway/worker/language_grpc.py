"""The Open Inference Protocol over gRPC, of a language model: it is ready, and takes no tensors."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.wire.exchange import Exchange
from gateway.wire.grpc_calls import is_grpc, is_grpc_type
from gateway.wire.texts import INFERENCE
from gateway.worker.grpc import STREAM_INFER, documented
from gateway.worker.openai import describe
from gateway.worker.protocol import Answer, GrpcErrors, Route
from gateway.worker.version import ServedVersion
from runtimes.engines.base import OpenAIModel

_NOT_SERVED = 501


class LanguageGrpc:
    """Owns every call of gRPC's content type, whatever its path."""

    def __init__(self, version: ServedVersion, model: OpenAIModel) -> None:
        identity = version.identity
        metadata = {"name": identity.model, "versions": [identity.version], "platform": model.platform}
        self._does = describe(identity.model, model.tasks)
        self._errors = GrpcErrors(version.headers)
        self._methods: Mapping[str, Answer] = {
            f"/{INFERENCE}/{method}": documented(method, document, version)
            for method, document in (("ModelReady", {"ready": True}), ("ModelMetadata", metadata))
        }
        self.streams: Mapping[str, Answer] = {STREAM_INFER: self._refuse_stream}

    def route(self, path: str, content_type: bytes) -> Route | None:
        """Return the route of a call of gRPC."""
        if not is_grpc_type(content_type):
            return None
        return Route(self._errors, {"POST": self._methods.get(path, self._refuse)})

    def _refuse(self, exchange: Exchange, role: str) -> None:
        self._errors(exchange, role, _NOT_SERVED, f"tensors are not served: {self._does}")

    def _refuse_stream(self, exchange: Exchange, role: str) -> None:
        """Refuse a stream as soon as it begins: its caller may wait for answers before it ends it."""
        if exchange.method == "POST" and is_grpc(exchange):
            self._refuse(exchange, role)

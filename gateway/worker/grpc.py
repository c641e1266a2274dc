"""The Open Inference Protocol over gRPC, for one model: HTTP/1.1 calls with a message in the body.

The edge ends HTTP/2 and hands each call on in this form. Specification: open-inference-protocol,
`specification/protocol/inference_grpc.md`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Any

import orjson
from google.protobuf.json_format import ParseDict

from gateway.codec.deadlines import grpc_timeout
from gateway.codec.statuses import explain
from gateway.engine.jobs import Job
from gateway.wire.exchange import Exchange
from gateway.wire.grpc_calls import CONTENT, OK, is_grpc, is_grpc_type, parse
from gateway.wire.grpc_frames import framed, single_message
from gateway.wire.grpc_messages import message
from gateway.wire.headers import PLACED, SOURCE, sticky_caller
from gateway.wire.texts import INFERENCE, unknown_method
from gateway.worker.capabilities import TensorCapability
from gateway.worker.grpc_job import GrpcCodec
from gateway.worker.grpc_stream import GrpcStream
from gateway.worker.payload_calls import grpc_call
from gateway.worker.protocol import Answer, GrpcErrors, Route
from gateway.worker.version import ServedVersion
from runtimes.errors import InputError

INFER = f"/{INFERENCE}/ModelInfer"
STREAM_INFER = f"/{INFERENCE}/ModelStreamInfer"

_OK_STATUS = 200


class OpenInferenceGrpc:
    """Owns every call of gRPC's content type, whatever its path."""

    def __init__(self, version: ServedVersion, tensors: TensorCapability) -> None:
        identity = version.identity
        self._version = version
        self._codec = GrpcCodec(identity.model, identity.version, version.options.labels)
        self._compute = tensors.compute
        self._tally = version.tally
        self._tracer = version.options.tracer
        self._headers = {role: CONTENT + names for role, names in version.headers.items()}
        self._errors = GrpcErrors(version.headers)
        self.streams: Mapping[str, Answer] = {STREAM_INFER: self._begin_stream}
        self._methods: Mapping[str, Answer] = {
            INFER: self._infer,
            **{
                f"/{INFERENCE}/{method}": documented(method, answer, version)
                for method, answer in (
                    ("ModelReady", {"ready": True}),
                    ("ModelMetadata", orjson.loads(tensors.metadata)),
                    ("ModelConfig", {"config": orjson.loads(tensors.configuration)}),
                )
            },
        }

    def route(self, path: str, content_type: bytes) -> Route | None:
        if not is_grpc_type(content_type):
            return None
        return Route(self._errors, {"POST": self._methods.get(path, self._unknown_method)})

    def _infer(self, exchange: Exchange, role: str) -> None:
        began = time.perf_counter()

        def done(job: Job) -> None:
            sampler = self._version.payloads.sampler
            if sampler is not None and sampler.is_picked():
                sampler.offer(grpc_call(exchange.headers, job, self._codec))
            if job.status == _OK_STATUS:
                exchange.respond(job.status, self._headers[role], job.answer, OK)
                return
            retry = b"retry-after: %d\r\n" % job.retry_after if job.retry_after else b""
            self._errors(exchange, role, job.status, job.answer, retry)

        try:
            job = Job(
                single_message(exchange.take()),
                self._codec,
                asyncio.get_running_loop(),
                done,
                role,
                exchange.headers.get(b"x-request-id", b"").decode("latin-1"),
                timeout=_timeout(exchange),
                began=began,
                source=exchange.headers.get(SOURCE, b""),
                is_placed=PLACED in exchange.headers,
                sticky=sticky_caller(exchange.headers.get(PLACED)),
                trace=None if self._tracer is None else self._tracer.of(exchange.headers),
            )
        except InputError as refusal:
            self._refuse(exchange, refusal, role)
            return
        exchange.on_abandoned = job.cancel
        self._compute.submit(job)

    def _begin_stream(self, exchange: Exchange, role: str) -> None:
        """Take a call of `STREAM_INFER` as it comes; one that is no such stream is left to its route."""
        if exchange.method == "POST" and is_grpc(exchange):
            try:
                timeout = _timeout(exchange)
            except InputError as refusal:
                self._refuse(exchange, refusal, role)
                return
            stream = GrpcStream(self._version, self._codec, self._compute, exchange, role, timeout)
            stream.begin(self._headers[role])

    def _unknown_method(self, exchange: Exchange, role: str) -> None:
        self._errors(exchange, role, 501, unknown_method(exchange.path))

    def _refuse(self, exchange: Exchange, refusal: InputError, role: str) -> None:
        status, text = explain(refusal, "", {})
        self._tally.refused(role, status)
        self._errors(exchange, role, status, text)


def documented(method: str, document: Mapping[str, Any], version: ServedVersion) -> Answer:
    """Return what answers a method whose response never changes."""
    model = version.identity.model
    errors = GrpcErrors(version.headers)
    headers = {role: CONTENT + names for role, names in version.headers.items()}
    request_class = message(f"inference.{method}Request")
    response = ParseDict(document, message(f"inference.{method}Response")())
    body = framed([response.SerializeToString()])

    def answer(exchange: Exchange, role: str) -> None:
        try:
            request = parse(request_class, exchange)
        except InputError as refusal:
            errors(exchange, role, *explain(refusal, "", {}))
            return
        if request.name == model:
            exchange.respond(_OK_STATUS, headers[role], body, OK)
        else:
            text = f"name is {request.name!r}, but the call came to {model!r}"
            errors(exchange, role, 400, text)

    return answer


def _timeout(exchange: Exchange) -> float:
    """Return how long the caller waits, in seconds. Raises InputError."""
    value = exchange.headers.get(b"grpc-timeout")
    return math.inf if value is None else grpc_timeout(value)

"""One model's gRPC interface, as the edge hands it on: calls of HTTP/1.1 with a message in the body.

An error is an answer without a body. It has HTTP's status, which edge and log understand, and gRPC's, which
the client gets: the edge makes HTTP's 200, as gRPC wants it.
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
from gateway.engine.thread import ComputeThread
from gateway.metrics.tally import Tally
from gateway.wire.exchange import Exchange
from gateway.wire.grpc_calls import CONTENT, OK, fail, is_grpc, parse
from gateway.wire.grpc_frames import framed, single
from gateway.wire.grpc_messages import message
from gateway.wire.texts import INFERENCE, unknown_method, wrong_method
from gateway.worker.grpc_job import GrpcCodec
from gateway.worker.grpc_stream import GrpcStream
from runtimes.errors import InputError

INFER = f"/{INFERENCE}/ModelInfer"
STREAM_INFER = f"/{INFERENCE}/ModelStreamInfer"

_OK_STATUS = 200


class ModelGrpc:
    """Answers what is asked of one model. `metadata` and `configuration` are what REST answers.

    `names` are the headers by role that say which version answers, as lines.
    """

    def __init__(
        self,
        codec: GrpcCodec,
        compute: ComputeThread,
        tally: Tally,
        names: Mapping[str, bytes],
        max_body: int,
        metadata: bytes,
        configuration: bytes,
    ) -> None:
        self._codec = codec
        self._compute = compute
        self._tally = tally
        self._max_body = max_body
        self._headers = {role: CONTENT + headers for role, headers in names.items()}
        self._documents = {
            f"/{INFERENCE}/{method}": (
                message(f"inference.{method}Request"),
                framed([ParseDict(answer, message(f"inference.{method}Response")()).SerializeToString()]),
            )
            for method, answer in (
                ("ModelReady", {"ready": True}),
                ("ModelMetadata", orjson.loads(metadata)),
                ("ModelConfig", {"config": orjson.loads(configuration)}),
            )
        }

    def head(self, exchange: Exchange, role: str) -> None:
        """Take a stream, a call of `STREAM_INFER`, as it comes."""
        if exchange.method == "POST" and is_grpc(exchange):
            try:
                timeout = _timeout(exchange)
            except InputError as refusal:
                self._refuse(exchange, refusal, role)
                return
            GrpcStream(
                self._codec, self._compute, self._tally, self._max_body, exchange, role, timeout
            ).begin(self._headers[role])

    def handle(self, exchange: Exchange, role: str) -> None:
        """Answer a call whose body is here: at once, or once the model has."""
        if exchange.method != "POST":
            fail(exchange, self._headers[role], 405, wrong_method(exchange.method, "POST"))
        elif exchange.path == INFER:
            self._infer(exchange, role)
        elif exchange.path in self._documents:
            self._tell(exchange, role, *self._documents[exchange.path])
        else:
            fail(exchange, self._headers[role], 501, unknown_method(exchange.path))

    def refuse(self, exchange: Exchange, status: int, text: str, role: str) -> None:
        """Answer a call that the server refuses."""
        self._tally.refused(role, status)
        fail(exchange, self._headers[role], status, text)

    def _infer(self, exchange: Exchange, role: str) -> None:
        began = time.perf_counter()

        def done(job: Job) -> None:
            headers = self._headers[role]
            if job.status == _OK_STATUS:
                exchange.respond(job.status, headers, job.answer, OK)
                return
            if job.retry_after:
                headers += b"retry-after: %d\r\n" % job.retry_after
            fail(exchange, headers, job.status, job.answer)

        try:
            job = Job(
                single(exchange.take()),
                self._codec,
                asyncio.get_running_loop(),
                done,
                role,
                exchange.headers.get(b"x-request-id", b"").decode("latin-1"),
                timeout=_timeout(exchange),
                began=began,
            )
        except InputError as refusal:
            self._refuse(exchange, refusal, role)
            return
        exchange.on_abandoned = job.cancel
        self._compute.submit(job)

    def _tell(self, exchange: Exchange, role: str, kind: Any, answer: bytes) -> None:
        """Answer what is known beforehand."""
        try:
            request = parse(kind, exchange)
        except InputError as refusal:
            fail(exchange, self._headers[role], *explain(refusal, "", {}))
            return
        if request.name == self._codec.model:
            exchange.respond(_OK_STATUS, self._headers[role], answer, OK)
        else:
            text = f"name is {request.name!r}, but the call came to {self._codec.model!r}"
            fail(exchange, self._headers[role], 400, text)

    def _refuse(self, exchange: Exchange, refusal: InputError, role: str) -> None:
        self.refuse(exchange, *explain(refusal, "", {}), role)


def _timeout(exchange: Exchange) -> float:
    """How long the caller waits, in seconds. Raises InputError."""
    value = exchange.headers.get(b"grpc-timeout")
    return math.inf if value is None else grpc_timeout(value)

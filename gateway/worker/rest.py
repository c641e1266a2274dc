"""Inference over REST: a call's way from its exchange through the model's thread, and back."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.codec.call import Call
from gateway.codec.deadlines import request_timeout
from gateway.codec.json_answer import Encoder, error
from gateway.codec.json_request import Decoder
from gateway.codec.statuses import explain
from gateway.engine.jobs import Job
from gateway.engine.thread import ComputeThread
from gateway.metrics.tally import Tally
from gateway.wire.codings import chosen, compress, decompress
from gateway.wire.exchange import Exchange, lines
from gateway.worker.mirror import Mirror
from runtimes.base import Array, Signature
from runtimes.errors import InputError

JSON = lines([(b"content-type", b"application/json")])
_BINARY = lines([(b"content-type", b"application/octet-stream")])
_OK = 200


class RestCodec:
    """Writes calls and answers as REST does, see `jobs.Codec`."""

    def __init__(
        self, model: str, version: str, signature: Signature, labels: Mapping[str, Sequence[str]]
    ) -> None:
        self._decode = Decoder(signature)
        self._encode = Encoder(model, version, labels)

    def decode(self, job: Job) -> Call:
        return self._decode(job.body, job.json_size)

    def encode(self, job: Job, call: Call, outputs: Mapping[str, Array]) -> None:
        job.answer, job.answer_json_size = self._encode(call, outputs)

    def error(self, job: Job, _status: int, message: str) -> None:
        job.answer = error(message)


class RestInfer:
    """Answers `infer`. `names` are the headers by role that say which version answers, as lines."""

    def __init__(
        self,
        codec: RestCodec,
        compute: ComputeThread,
        tally: Tally,
        names: Mapping[str, bytes],
        max_body: int,
    ) -> None:
        self.codec = codec
        self.compute = compute
        self.tally = tally
        self.max_body = max_body
        self.mirror: Mirror | None = None
        """Where a share of the calls goes besides."""
        self.json = {role: JSON + headers for role, headers in names.items()}
        self.binary = {role: _BINARY + headers for role, headers in names.items()}

    def __call__(self, exchange: Exchange, role: str) -> None:
        """Answer a call whose body is here, later."""
        began = time.perf_counter()
        headers = exchange.headers
        json_size = headers.get(b"inference-header-content-length")
        call = _RestCall(self, exchange, role)
        try:
            timeout = headers.get(b"x-request-timeout")
            job = Job(
                exchange.take(),
                self.codec,
                asyncio.get_running_loop(),
                call.done,
                role,
                headers.get(b"x-request-id", b"").decode("latin-1"),
                b"" if json_size is None else json_size or b"?",
                math.inf if timeout is None else request_timeout(timeout),
                began,
            )
        except InputError as refusal:
            call.refuse(refusal)
            return
        coding = headers.get(b"content-encoding")
        if coding:
            call.decompress(job, coding.decode("latin-1"))
        else:
            exchange.on_abandoned = job.cancel
            self.compute.submit(job)


class _RestCall:
    """One call while it is inside."""

    __slots__ = ("_exchange", "_infer", "_role")

    def __init__(self, infer: RestInfer, exchange: Exchange, role: str) -> None:
        self._infer = infer
        self._exchange = exchange
        self._role = role

    def refuse(self, failure: Exception) -> None:
        """Answer a call that does not get to the model, or whose answer does not get to its caller."""
        status, text = explain(failure, "", {})
        self._infer.tally.refused(self._role, status)
        self._exchange.respond(status, self._infer.json[self._role], error(text))

    def decompress(self, job: Job, coding: str) -> None:
        """Give the call to the model once its body is decompressed.

        That is done beside loop and model: what is slow for one caller must not hold up the others.
        """
        exchange, limit = self._exchange, self._infer.max_body

        def submit(body: list[bytes | memoryview]) -> None:
            job.body = body
            if not exchange.abandoned:
                exchange.on_abandoned = job.cancel
                self._infer.compute.submit(job)

        self._beside(lambda: decompress(job.body, coding, limit), submit)

    def done(self, job: Job) -> None:
        """Answer the call as the model did."""
        exchange, infer = self._exchange, self._infer
        if job.answer_json_size is None:
            headers = infer.json[self._role]
        else:
            headers = infer.binary[self._role]
            headers += b"inference-header-content-length: %d\r\n" % job.answer_json_size
        if job.retry_after:
            headers += b"retry-after: %d\r\n" % job.retry_after
        accepted = exchange.headers.get(b"accept-encoding")
        coding = chosen(accepted.decode("latin-1")) if accepted and job.status == _OK else ""
        mirror = infer.mirror
        if not coding:
            exchange.respond(job.status, headers, job.answer)
            if mirror is not None and job.status == _OK:
                mirror.offer(job)
            return
        if mirror is not None:
            mirror.offer(job)

        def respond(smaller: bytes | None) -> None:
            if smaller is None:
                exchange.respond(job.status, headers, job.answer)
            else:
                exchange.respond(job.status, headers + b"content-encoding: %s\r\n" % coding.encode(), smaller)

        self._beside(lambda: compress(job.answer, coding), respond)

    def _beside(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Do work in a thread, then the rest on the loop, unless the work fails."""

        def finish(future: asyncio.Future[Any]) -> None:
            try:
                found = future.result()
            except Exception as failure:
                self.refuse(failure)
            else:
                then(found)

        asyncio.get_running_loop().run_in_executor(None, work).add_done_callback(finish)

"""The Open Inference Protocol over REST: inference, and the documents about one model.

Specification: open-inference-protocol, `specification/protocol/inference_rest.md`. An `infer` call goes from
its exchange through the model's thread and back.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from gateway.codec.call import Call
from gateway.codec.deadlines import request_timeout
from gateway.codec.json_answer import Encoder, error
from gateway.codec.json_request import Decoder
from gateway.codec.statuses import explain
from gateway.engine.jobs import Job
from gateway.wire.codings import chosen_coding, compress, decompress
from gateway.wire.exchange import Exchange, lines
from gateway.worker.capabilities import TensorCapability
from gateway.worker.protocol import JSON, Answer, OpenInferenceErrors, Route
from gateway.worker.version import ServedVersion
from runtimes.base import Array
from runtimes.errors import InputError

_BINARY = lines([(b"content-type", b"application/octet-stream")])
_OK = 200


class OpenInferenceRest:
    """Owns `/v2/models/{name}[/versions/{version}][/infer|/ready|/config]` and `/v2/health/ready`."""

    streams: Mapping[str, Answer] = {}

    def __init__(self, version: ServedVersion, tensors: TensorCapability) -> None:
        self._errors = OpenInferenceErrors(version.headers)
        self._json = {role: JSON + names for role, names in version.headers.items()}
        ready = b'{"name":"%s","ready":true}' % version.identity.model.encode()
        self._routes: Mapping[str, Route] = {
            "": self._document(tensors.metadata),
            "ready": self._document(ready),
            "config": self._document(tensors.configuration),
            "infer": Route(self._errors, {"POST": RestInfer(version, tensors)}),
        }

    def route(self, path: str, _content_type: bytes) -> Route | None:
        """Return the route of what a path asks of the model that it names."""
        parts = path.split("/")
        if parts[1:3] == ["v2", "models"] and len(parts) > 3:
            is_of_version = parts[4:5] == ["versions"] and len(parts) > 5
            return self._routes.get("/".join(parts[6:] if is_of_version else parts[4:]))
        return self._routes["ready"] if parts[1:] == ["v2", "health", "ready"] else None

    def _document(self, body: bytes) -> Route:
        def answer(exchange: Exchange, role: str) -> None:
            exchange.respond(_OK, self._json[role], body)

        return Route(self._errors, {"GET": answer, "HEAD": answer})


class RestCodec:
    """Reads calls and writes answers and errors as REST has them, see `jobs.Codec`."""

    def __init__(self, decode: Decoder, encode: Encoder) -> None:
        self._decode = decode
        self._encode = encode

    def decode(self, job: Job) -> Call:
        return self._decode(job.body, job.json_size)

    def encode(self, job: Job, call: Call, outputs: Mapping[str, Array]) -> None:
        job.answer, job.answer_json_size = self._encode(call, outputs)

    def error(self, job: Job, _status: int, message: str) -> None:
        job.answer = error(message)


class RestInfer:
    """Answers `infer`."""

    def __init__(self, version: ServedVersion, tensors: TensorCapability) -> None:
        identity, options = version.identity, version.options
        self.codec = RestCodec(tensors.decode, Encoder(identity.model, identity.version, options.labels))
        self.tensors = tensors
        self.compute = tensors.compute
        self.tally = version.tally
        self.max_body = options.max_body
        self.json = {role: JSON + names for role, names in version.headers.items()}
        self.binary = {role: _BINARY + names for role, names in version.headers.items()}

    def __call__(self, exchange: Exchange, role: str) -> None:
        """Have a call answered whose body is here."""
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
    """One `infer` call, from its exchange to its answer."""

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
        """Decompress the call's body in another thread, then give the call to the model.

        A large body takes long to decompress, and neither the loop nor the model's thread waits for it.
        """
        exchange, limit = self._exchange, self._infer.max_body

        def submit(body: list[bytes | memoryview]) -> None:
            job.body = body
            if not exchange.is_abandoned:
                exchange.on_abandoned = job.cancel
                self._infer.compute.submit(job)

        self._in_thread(lambda: decompress(job.body, coding, limit), submit)

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
        coding = chosen_coding(accepted.decode("latin-1")) if accepted and job.status == _OK else ""
        mirror = infer.tensors.mirror
        if not coding:
            exchange.respond(job.status, headers, job.answer)
            if mirror is not None and job.status == _OK:
                mirror.offer(job)
            return
        if mirror is not None:
            mirror.offer(job)

        def respond(compressed: bytes | None) -> None:
            if compressed is None:
                exchange.respond(job.status, headers, job.answer)
            else:
                coded = headers + b"content-encoding: %s\r\n" % coding.encode()
                exchange.respond(job.status, coded, compressed)

        self._in_thread(lambda: compress(job.answer, coding), respond)

    def _in_thread(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Do work in a thread of its own, then the rest on the loop; refuse the call if the work fails."""

        def finish(future: asyncio.Future[Any]) -> None:
            try:
                result = future.result()
            except Exception as failure:
                self.refuse(failure)
            else:
                then(result)

        asyncio.get_running_loop().run_in_executor(None, work).add_done_callback(finish)

"""Calls that the model's thread answers: from an exchange to a job, and from its answer back.

Bodies may be compressed, both ways, and answers are mirrored; all protocols over plain HTTP have that alike.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from gateway.codec.deadlines import request_timeout
from gateway.codec.statuses import explain
from gateway.engine.jobs import Codec, Job
from gateway.payloads.record import Protocol
from gateway.wire.codings import chosen_coding, compress, decompress
from gateway.wire.exchange import Exchange, lines
from gateway.wire.headers import PLACED, SOURCE, sticky_caller
from gateway.worker.capabilities import TensorCapability
from gateway.worker.payload_calls import tensor_call
from gateway.worker.protocol import JSON
from gateway.worker.version import ServedVersion
from runtimes.errors import InputError

_BINARY = lines([(b"content-type", b"application/octet-stream")])
_OK = 200
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one protocol reads and writes the calls of a path."""

    codec: Callable[[Mapping[bytes, bytes]], Codec]
    """Called for each call, with its headers by lower-case name; it may return the same one each time."""
    error: Callable[[int, str], bytes]
    """Writes the body of an error; the number is HTTP's status."""
    mirrored: Callable[[Job], Job]
    """Returns an answered call as the Open Inference Protocol has it, which is how calls are mirrored."""
    protocol: Protocol = Protocol.REST


class ComputeCalls:
    """Answers the calls of one path."""

    def __init__(self, version: ServedVersion, tensors: TensorCapability, dialect: Dialect) -> None:
        self.dialect = dialect
        self.tensors = tensors
        self.compute = tensors.compute
        self.payloads = version.payloads
        self.tally = version.tally
        self.max_body = version.options.max_body
        self.tracer = version.options.tracer
        self.names = version.headers
        self.json = {role: JSON + names for role, names in version.headers.items()}
        self.binary = {role: _BINARY + names for role, names in version.headers.items()}

    def __call__(self, exchange: Exchange, role: str) -> None:
        """Have a call answered whose body is here."""
        began = time.perf_counter()
        headers = exchange.headers
        json_size = headers.get(b"inference-header-content-length")
        call = _ComputeCall(self, exchange, role)
        placed = headers.get(PLACED)
        try:
            timeout = headers.get(b"x-request-timeout")
            job = Job(
                exchange.take(),
                self.dialect.codec(headers),
                asyncio.get_running_loop(),
                call.done,
                role,
                headers.get(b"x-request-id", b"").decode("latin-1"),
                b"" if json_size is None else json_size or b"?",
                math.inf if timeout is None else request_timeout(timeout),
                began,
                source=headers.get(SOURCE, b""),
                is_placed=placed is not None,
                sticky=sticky_caller(placed),
                trace=None if self.tracer is None else self.tracer.of(headers),
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


class _ComputeCall:
    """One call, from its exchange to its answer."""

    __slots__ = ("_calls", "_exchange", "_role")

    def __init__(self, calls: ComputeCalls, exchange: Exchange, role: str) -> None:
        self._calls = calls
        self._exchange = exchange
        self._role = role

    def refuse(self, failure: Exception) -> None:
        """Answer a call that does not get to the model, or whose answer does not get to its caller."""
        status, text = explain(failure, "", {})
        self._calls.tally.refused(self._role, status)
        self._exchange.respond(status, self._calls.json[self._role], self._calls.dialect.error(status, text))

    def decompress(self, job: Job, coding: str) -> None:
        """Decompress the call's body in another thread, then give the call to the model.

        A large body takes long to decompress, and neither the loop nor the model's thread waits for it.
        """
        exchange, limit = self._exchange, self._calls.max_body

        def submit(body: list[bytes | memoryview]) -> None:
            job.body = body
            if not exchange.is_abandoned:
                exchange.on_abandoned = job.cancel
                self._calls.compute.submit(job)

        self._in_thread(lambda: decompress(job.body, coding, limit, exchange.reserve), submit)

    def done(self, job: Job) -> None:
        """Answer the call as the model did."""
        exchange, calls = self._exchange, self._calls
        if job.answer_type:
            headers = b"content-type: %s\r\n" % job.answer_type + calls.names[self._role]
        elif job.answer_json_size is None:
            headers = calls.json[self._role]
        else:
            headers = calls.binary[self._role]
            headers += b"inference-header-content-length: %d\r\n" % job.answer_json_size
        if job.retry_after:
            headers += b"retry-after: %d\r\n" % job.retry_after
        accepted = exchange.headers.get(b"accept-encoding")
        coding = chosen_coding(accepted.decode("latin-1")) if accepted and job.status == _OK else ""
        mirror, sampler = calls.tensors.mirror, calls.payloads.sampler
        if sampler is not None and sampler.is_picked():
            dialect = calls.dialect
            sampler.offer(
                tensor_call(exchange.headers, job, dialect.protocol, dialect.mirrored, calls.tensors.decode)
            )
        if not coding:
            exchange.respond(job.status, headers, job.answer)
            if mirror is not None and job.is_placed and job.status == _OK:
                mirror.offer(calls.dialect.mirrored(job), job.trace)
            return
        if mirror is not None and job.is_placed:
            mirror.offer(calls.dialect.mirrored(job), job.trace)

        def respond(compressed: bytes | None) -> None:
            if compressed is None:
                exchange.respond(job.status, headers, job.answer)
            else:
                coded = headers + b"content-encoding: %s\r\n" % coding.encode()
                exchange.respond(job.status, coded, compressed)

        self._in_thread(lambda: compress(job.answer, coding), respond)

    def _in_thread(self, work: Callable[[], _Result], then: Callable[[_Result], None]) -> None:
        """Do work in a thread of its own, then the rest on the loop; refuse the call if the work fails."""

        def finish(future: asyncio.Future[_Result]) -> None:
            try:
                result = future.result()
            except Exception as failure:
                self.refuse(failure)
            else:
                then(result)
            finally:
                # The error has this frame, and so has all that the work held, until the collector comes.
                del future

        asyncio.get_running_loop().run_in_executor(None, work).add_done_callback(finish)

"""ModelStreamInfer: a stream of calls on one model, and the stream of their answers.

As in Triton, a call that fails has its error in its answer, and the stream goes on; bytes that are no
messages end the stream.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping

from gateway.codec.call import Call
from gateway.codec.grpc import decode, read
from gateway.codec.statuses import explain
from gateway.engine.jobs import Job
from gateway.engine.lanes import Compute
from gateway.tracing.call_trace import CallTrace
from gateway.wire.body import Pieces
from gateway.wire.budget import BudgetFull
from gateway.wire.exchange import Exchange
from gateway.wire.grpc_frames import Unframer, framed
from gateway.wire.grpc_messages import message
from gateway.wire.grpc_status import trailers
from gateway.wire.headers import PLACED, SOURCE, sticky_caller
from gateway.wire.protobuf import field
from gateway.worker.grpc_job import GrpcCodec
from gateway.worker.payload_calls import grpc_call
from gateway.worker.version import ServedVersion
from runtimes.base import Array
from runtimes.errors import InputError

# So many calls of one stream are inside at once; the next is not read until one is answered.
_MAX_INSIDE = 64
_ERROR, _RESPONSE, _ID = 1, 2, 3


def _final_parameter() -> bytes:
    """Return the field with the parameter that says that a call has no further answers."""
    response = message("inference.ModelInferResponse")()
    response.parameters["triton_final_response"].bool_param = True
    serialized: bytes = response.SerializeToString()
    return serialized


_FINAL = _final_parameter()


class _StreamCodec:
    """Reads a call and writes its answer, see `jobs.Codec`; `check` gets the version that the call names."""

    __slots__ = ("_check", "_codec", "_id")

    def __init__(self, codec: GrpcCodec, check: Callable[[str], None]) -> None:
        self._codec = codec
        self._check = check
        self._id = ""

    def decode(self, job: Job) -> Call:
        request, raw = read(job.body)
        self._id = request.id
        self._check(request.model_version)
        return decode(request, raw, self._codec.model)

    def encode(self, job: Job, call: Call, outputs: Mapping[str, Array]) -> None:
        parts = [*self._codec.write(call, outputs), _FINAL]
        job.answer = framed([*field(_RESPONSE, parts)])

    def error(self, job: Job, _status: int, text: str) -> None:
        response = [*field(_ID, [self._id.encode()]), _FINAL] if self._id else [_FINAL]
        job.answer = framed([*field(_ERROR, [text.encode("utf-8", "replace")]), *field(_RESPONSE, response)])


class GrpcStream:
    """One stream, on its connection's loop."""

    def __init__(
        self,
        version: ServedVersion,
        codec: GrpcCodec,
        compute: Compute,
        exchange: Exchange,
        role: str,
        timeout: float,
    ) -> None:
        self._codec = codec
        self._compute = compute
        self._tally = version.tally
        self._payloads = version.payloads
        self._exchange = exchange
        self._role = role
        self._deadline = time.perf_counter() + timeout
        self._request_id = exchange.headers.get(b"x-request-id", b"").decode("latin-1")
        self._unframer = Unframer(version.options.max_body)
        self._waiting: deque[Pieces] = deque()
        self._is_submitting = False
        self._inside: set[Job] = set()
        self._version: str | None = None
        self._is_closing = False
        self._is_over = False
        self._tracer = version.options.tracer
        self._is_under_way = False
        """Whether a call of it was traced, or could have been."""

    def begin(self, headers: bytes) -> None:
        """Begin to answer."""
        exchange = self._exchange
        exchange.on_piece = self._feed
        exchange.on_end = self._close
        exchange.on_abandoned = self._abandon
        exchange.on_writable = self._submit_waiting
        exchange.begin(200, headers)

    def _feed(self, piece: bytes | memoryview) -> None:
        if self._is_over:
            return
        try:
            messages = self._unframer.feed(piece)
            if messages:
                self._exchange.release()  # from here on the queue bounds them
            if not self._unframer.is_between:
                self._exchange.reserve(self._unframer.pending)
        except (InputError, BudgetFull) as refusal:
            self._break(refusal)
            return
        self._waiting += messages
        self._submit_waiting()

    def _submit_waiting(self) -> None:
        """Submit as many calls as may be inside; no more is read from the client while others are left.

        While it does not take its answers, which may be long, no more of them are made.
        """
        if self._is_submitting:
            return  # a call was answered at once
        self._is_submitting = True
        exchange, waiting = self._exchange, self._waiting
        while waiting and len(self._inside) < _MAX_INSIDE and exchange.is_writable:
            self._submit(waiting.popleft(), bool(waiting))
        self._is_submitting = False
        if waiting:
            exchange.pause()
        elif not self._is_over:
            exchange.resume()

    def _submit(self, pieces: Pieces, is_followed: bool) -> None:
        now = time.perf_counter()
        job = Job(
            pieces,
            _StreamCodec(self._codec, self._check),
            asyncio.get_running_loop(),
            self._done,
            self._role,
            self._request_id,
            timeout=self._deadline - now,
            began=now,
            source=self._exchange.headers.get(SOURCE, b""),
            is_placed=PLACED in self._exchange.headers,
            sticky=sticky_caller(self._exchange.headers.get(PLACED)),
            trace=self._next_trace(),
        )
        self._inside.add(job)
        self._compute.submit(job, is_followed)

    def _next_trace(self) -> CallTrace | None:
        """Return the trace of the stream's next call; only the first has waited at the edge."""
        trace = None if self._tracer is None else self._tracer.of(self._exchange.headers)
        if trace is not None and self._is_under_way:
            trace.forget_edge()
        self._is_under_way = True
        return trace

    def _done(self, job: Job) -> None:
        sampler = self._payloads.sampler
        if sampler is not None and sampler.is_picked():
            sampler.offer(grpc_call(self._exchange.headers, job, self._codec, is_of_stream=True))
        self._exchange.send(job.answer)
        self._inside.discard(job)
        if self._waiting:
            self._submit_waiting()
        self._end_if_done()

    def _close(self) -> None:
        if self._is_over:
            return
        if not self._unframer.is_between:
            self._break(InputError("the stream ends within a message"))
        else:
            self._is_closing = True
            self._end_if_done()

    def _end_if_done(self) -> None:
        if self._is_closing and not self._inside and not self._waiting and not self._is_over:
            self._is_over = True
            self._exchange.end(trailers(200))

    def _break(self, refusal: Exception) -> None:
        """End the stream with an error."""
        self._abandon()
        status, text = explain(refusal, self._request_id, {})
        self._tally.refused(self._role, status)
        self._exchange.end(trailers(status, text))

    def _abandon(self) -> None:
        self._is_over = True
        for job in self._inside:
            job.cancel()
        self._inside.clear()
        self._waiting.clear()

    def _check(self, version: str) -> None:
        """Check that a call names the version of the first, by which the edge chose this worker."""
        if self._version is None:
            self._version = version
        elif version != self._version:
            raise InputError(
                f"model_version is {version!r}, but the stream is for {self._version!r}; "
                "open another stream for another version"
            )

"""The canary's half of mirroring: it answers a call that the stable version has answered, and compares."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import lru_cache

import orjson
from pydantic import TypeAdapter, ValidationError

from gateway.codec.call import Call
from gateway.codec.json_request import Decoder
from gateway.codec.read_answers import read_answer
from gateway.codec.statuses import STATUSES
from gateway.engine.jobs import Job
from gateway.errors import DeadlineExceeded, QueueFull
from gateway.metrics.counts import MIRRORED
from gateway.metrics.evidence import PairSeconds
from gateway.rollout.agreement import Comparison, compare
from gateway.rollout.plan import Agreement
from gateway.wire.exchange import Exchange
from gateway.wire.limits import BODY_BYTES
from gateway.worker.capabilities import TensorCapability
from gateway.worker.mirror import MIRROR_HEADER
from gateway.worker.mirror_sender import MIRROR_PATH
from gateway.worker.protocol import Answer, OpenInferenceErrors, Route
from gateway.worker.version import ServedVersion
from runtimes.base import Array

_TIMEOUT_SECONDS = 10.0
_OK = 200
# A full queue and a deadline say nothing about the model.
_BUSY = (STATUSES[QueueFull], STATUSES[DeadlineExceeded])
_TEXT = b"content-type: text/plain\r\n"
_AGREEMENT = TypeAdapter(Agreement)


class MirrorHandler:
    """Owns the path of mirrored calls; answers with an empty body once the comparison is counted."""

    def __init__(self, version: ServedVersion, tensors: TensorCapability) -> None:
        self.streams: Mapping[str, Answer] = {MIRROR_PATH: _allow_answers}
        self._decode = tensors.decode
        self._compute = tensors.compute
        self._tally = version.tally
        self._tracer = version.options.tracer
        self._route = Route(OpenInferenceErrors(version.headers), {"POST": self._answer})

    def route(self, path: str, _content_type: bytes) -> Route | None:
        return self._route if path == MIRROR_PATH else None

    def _answer(self, exchange: Exchange, _role: str) -> None:
        """Take a call whose body is here: the request and, behind it, the stable version's answer."""
        try:
            header = orjson.loads(exchange.headers.get(MIRROR_HEADER, b""))
            size, json_size = int(header["request"]), str(header["json_size"]).encode("latin-1")
            agreement = _read_agreement(orjson.dumps(header["agreement"]))
            answer_json_size, seconds = header["answer_json_size"], float(header["seconds"])
        except (ValueError, KeyError, TypeError) as error:
            exchange.respond(400, _TEXT, f"this is no mirrored call: {error}".encode())
            return
        body = memoryview(b"".join(exchange.take()))
        codec = _ComparingCodec(self._decode, agreement, body[size:], answer_json_size)

        def done(job: Job) -> None:
            self._count(codec, job, seconds)
            exchange.respond(200, _TEXT)

        loop = asyncio.get_running_loop()
        job = Job([body[:size]], codec, loop, done, MIRRORED, json_size=json_size, timeout=_TIMEOUT_SECONDS)
        if self._tracer is not None:
            job.trace = self._tracer.of(exchange.headers, is_mirrored=True)
        exchange.on_abandoned = job.cancel
        self._compute.submit(job)

    def _count(self, codec: _ComparingCodec, job: Job, stable_seconds: float) -> None:
        """Count a pair; a call of which nothing is compared is none."""
        comparison = codec.comparison
        if comparison is not None:
            # Without waits: the canary has another number of calls. The encoding is a comparison here.
            seconds = PairSeconds(stable_seconds, job.decode_seconds + job.infer_seconds)
            self._tally.compared(comparison.agreeing, False, comparison.stable, comparison.canary, seconds)
        elif job.status in _BUSY:
            self._tally.not_mirrored()
        elif job.status != _OK:
            self._tally.compared(0.0, True, {}, {}, PairSeconds(stable_seconds, None))


def _allow_answers(exchange: Exchange, _role: str) -> None:
    """Let a body be longer than a call's, which the model's signature may bound: an answer is behind it."""
    exchange.max_body = BODY_BYTES


class _ComparingCodec:
    """Reads a call as REST does, and compares in place of writing an answer; see `jobs.Codec`."""

    def __init__(
        self, decode: Decoder, agreement: Agreement, answer: memoryview, answer_json_size: int | None
    ) -> None:
        self._decode = decode
        self._agreement = agreement
        self._answer = answer
        self._answer_json_size = answer_json_size
        self.comparison: Comparison | None = None

    def decode(self, job: Job) -> Call:
        return self._decode(job.body, job.json_size)

    def encode(self, _job: Job, call: Call, outputs: Mapping[str, Array]) -> None:
        # Classes (the largest values with their labels) are not compared.
        if not call.others.classes and not any(output.classes for output in call.outputs.values()):
            stable = read_answer(self._answer, self._answer_json_size)
            self.comparison = compare(stable, outputs, self._agreement)

    def error(self, job: Job, _status: int, _message: str) -> None:
        job.answer = b""


@lru_cache(maxsize=16)
def _read_agreement(document: bytes) -> Agreement:
    try:
        return _AGREEMENT.validate_json(document)
    except ValidationError as error:
        raise ValueError(str(error)) from error

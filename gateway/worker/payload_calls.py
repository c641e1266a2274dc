"""Calls on tensors that were answered, as the payload log takes them; see `payloads`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from gateway.codec.call import Call
from gateway.codec.json_request import Decoder
from gateway.engine.jobs import Job
from gateway.payloads.record import Protocol
from gateway.worker.grpc_job import GrpcCodec
from gateway.worker.payload_bodies import grpc_answer, json_answer, request_body
from gateway.worker.payloads import SampledCall

Headers = Mapping[bytes, bytes]


def tensor_call(
    headers: Headers, job: Job, protocol: Protocol, mirrored: Callable[[Job], Job], decode: Decoder
) -> SampledCall:
    """Return a job; `mirrored` gives it in the form of the Open Inference Protocol, which `decode` reads."""
    kept = _kept(job)

    def decoded() -> Call:
        twin = mirrored(kept)
        return decode(twin.body, twin.json_size)

    return SampledCall(
        headers=headers,
        protocol=protocol,
        role=job.role,
        status=job.status,
        seconds=time.perf_counter() - job.began,
        request_size=sum(map(len, job.body)),
        answer_size=len(job.answer),
        request=lambda: request_body(decoded),
        answer=lambda: json_answer(mirrored(kept)),
    )


def grpc_call(headers: Headers, job: Job, codec: GrpcCodec, is_of_stream: bool = False) -> SampledCall:
    """Return a job that came over gRPC, alone or in a stream."""
    kept = _kept(job)
    return SampledCall(
        headers=headers,
        protocol=Protocol.GRPC,
        role=job.role,
        status=job.status,
        seconds=time.perf_counter() - job.began,
        request_size=sum(map(len, job.body)),
        answer_size=len(job.answer),
        request=lambda: request_body(lambda: codec.decode(kept)),
        answer=lambda: grpc_answer(kept.answer, is_of_stream),
    )


def _kept(job: Job) -> Job:
    """Return a job with the bodies of another, which loses its own once it is answered."""
    kept = Job(job.body, job.codec, job.loop, job.done, json_size=job.json_size)
    kept.answer, kept.answer_json_size = job.answer, job.answer_json_size
    return kept

"""The codec of gRPC calls, while they are jobs of the model's thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.codec.call import Call
from gateway.codec.grpc import GrpcEncoder, decode, read
from gateway.engine.jobs import Job
from gateway.wire.grpc_frames import framed
from gateway.wire.grpc_status import message_value
from runtimes.base import Array


class GrpcCodec:
    """Reads calls and writes answers as gRPC does, see `jobs.Codec`; errors are values of `grpc-message`."""

    def __init__(self, model: str, version: str, labels: Mapping[str, Sequence[str]]) -> None:
        self.model = model
        self.write = GrpcEncoder(model, version, labels)

    def decode(self, job: Job) -> Call:
        return decode(*read(job.body), self.model)

    def encode(self, job: Job, call: Call, outputs: Mapping[str, Array]) -> None:
        job.answer = framed(self.write(call, outputs))

    def error(self, job: Job, _status: int, text: str) -> None:
        job.answer = message_value(text)

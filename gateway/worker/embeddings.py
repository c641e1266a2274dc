"""The OpenAI API on a model that makes embeddings or ranks texts, beside the Open Inference Protocol.

The calls are those of any model of tensors: they wait in the same queue, run in the same batches, and are
mirrored in the form of that protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import orjson

from gateway.codec.call import IN_BINARY, Call
from gateway.codec.json_answer import Encoder
from gateway.codec.openai.embeddings import read_embeddings, write_embeddings
from gateway.codec.openai.errors import RefusedCall, error_body
from gateway.codec.openai.members import Endpoint
from gateway.codec.openai.rerank import read_rerank, write_rerank
from gateway.engine.jobs import Job
from gateway.metrics.tokens import Tokens
from gateway.payloads.record import Protocol
from gateway.worker.calls import ComputeCalls, Dialect
from gateway.worker.capabilities import TensorCapability
from gateway.worker.openai_documents import model_documents, not_served
from gateway.worker.protocol import OPENAI, Answer, OpenAIErrors, Route
from gateway.worker.version import ServedVersion
from runtimes.base import Array
from runtimes.engines.task import Task
from runtimes.text_model import EMBEDDING, SCORE, TOKENS, TextModel

_EMBEDDINGS, _RERANK = "/v1/embeddings", "/v1/rerank"
_OTHERS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")

Body = Sequence[bytes | memoryview]
Write = Callable[[Mapping[str, Array]], bytes]
Read = Callable[[Body], tuple[Call, Write]]
"""Reads a body as a call; returns what writes its answer, too."""


class TextHandler:
    """Owns `/v1/…`."""

    streams: Mapping[str, Answer] = {}

    def __init__(self, version: ServedVersion, tensors: TensorCapability, model: TextModel) -> None:
        identity = version.identity
        self._errors = OpenAIErrors(version.headers)

        def embeddings(body: Body) -> tuple[Call, Write]:
            request = read_embeddings(body, model)
            return request.call, partial(write_embeddings, request, model=identity.model)

        def rerank(body: Body) -> tuple[Call, Write]:
            request = read_rerank(body)
            return request.call, partial(write_rerank, request, model=identity.model)

        if Task.EMBEDDING in model.tasks:
            path, read, output, does = Endpoint.EMBEDDINGS, embeddings, EMBEDDING, "makes embeddings"
        else:
            path, read, output, does = Endpoint.RERANK, rerank, SCORE, "ranks documents"
        encode = Encoder(identity.model, identity.version, {})
        dialect = Dialect(
            lambda _headers: _TextCodec(read, output, tensors, encode, version),
            error_body,
            _mirrored,
            Protocol.OPENAI,
        )
        self._routes: Mapping[str, Route] = {
            **{other.value: not_served(self._errors, other, f"it {does} ({path})") for other in Endpoint},
            path.value: Route(self._errors, {"POST": ComputeCalls(version, tensors, dialect)}),
            **model_documents(version, self._errors, model.tasks, {}),
        }
        self._nowhere = Route(self._errors, {})

    def route(self, path: str, _content_type: bytes) -> Route | None:
        """Return the route of a path of the OpenAI API."""
        return self._routes.get(path, self._nowhere) if path.startswith(OPENAI) else None


class _TextCodec:
    """Reads one call and writes its answer, see `jobs.Codec`; one is made for each call."""

    def __init__(
        self, read: Read, output: str, tensors: TensorCapability, encode: Encoder, version: ServedVersion
    ) -> None:
        self._read = read
        self._output = output
        self._tensors = tensors
        self._encode = encode
        self._tally = version.tally
        self._payloads = version.payloads
        self._write: Write | None = None
        self._param: str | None = None
        self._code: str | None = None
        self._answered: tuple[Call, Array] | None = None

    def decode(self, job: Job) -> Call:
        try:
            call, self._write = self._read(job.body)
        except RefusedCall as refusal:
            self._param, self._code = refusal.param, refusal.code
            raise
        return call

    def encode(self, job: Job, call: Call, outputs: Mapping[str, Array]) -> None:
        assert self._write is not None
        job.answer = self._write(outputs)
        tokens = int(outputs[TOKENS].sum())
        self._tally.generated(job.role, Tokens(input=tokens))
        if job.trace is not None:
            operation = "embeddings" if self._output == EMBEDDING else "rerank"
            job.trace.attributes |= {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "kitserve",
                "gen_ai.usage.input_tokens": tokens,
            }
        if self._tensors.mirror is not None or self._payloads.sampler is not None:
            self._answered = call, outputs[self._output]

    def error(self, job: Job, status: int, message: str) -> None:
        job.answer = error_body(status, message, self._code, self._param)

    def mirrored(self, job: Job) -> Job:
        """Return the call as the Open Inference Protocol has it, with the one output that is compared."""
        if self._answered is None:
            return job
        call, array = self._answered
        inputs = [
            {
                "name": name,
                "datatype": "BYTES",
                "shape": texts.shape,
                "data": [text.decode() for text in texts],
            }
            for name, texts in call.inputs.items()
        ]
        body = orjson.dumps({"inputs": inputs, "outputs": [{"name": self._output}]})
        binary = Call("", call.inputs, {self._output: IN_BINARY})
        twin = Job([body], self, job.loop, job.done)
        twin.answer, twin.answer_json_size = self._encode(binary, {self._output: array})
        return twin


def _mirrored(job: Job) -> Job:
    assert isinstance(job.codec, _TextCodec)
    return job.codec.mirrored(job)

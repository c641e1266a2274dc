"""The bodies of a call as its record has them: tensors by the Open Inference Protocol, or OpenAI's JSON.

Whatever a caller sent (raw tensors, messages of gRPC, rows), what is recorded are the tensors that the model
was to take. Reading happens after the call, in another thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.codec.call import Call, RequestedOutput
from gateway.codec.grpc_answers import read_response, read_stream_response
from gateway.codec.read_answers import read_answer
from gateway.codec.tensor_documents import tensor_documents
from gateway.engine.jobs import Job
from runtimes.base import Array

_INPUTS, _OUTPUTS = "inputs", "outputs"


class Omitted(Exception):
    """A body that is not recorded; the text says why, and never what it holds."""


@dataclass(frozen=True, slots=True)
class TensorBody:
    """A body as tensors, in JSON; `name` is the member that they are under, `others` are further ones."""

    name: str
    tensors: list[dict[str, Any]]
    others: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the body."""
        return {self.name: self.tensors, **self.others}


Body = TensorBody | dict[str, Any]
"""A body as it is recorded: tensors, or JSON of the OpenAI API."""


def request_body(decode: Callable[[], Call]) -> TensorBody:
    """Return a request, with the outputs that it asks for by name."""
    call = decode()
    outputs = [_requested(name, output) for name, output in call.outputs.items()]
    others = {_OUTPUTS: outputs} if outputs else {}
    if call.others.classes:
        others["parameters"] = {"classification": call.others.classes}  # type: ignore[assignment]
    return TensorBody(_INPUTS, tensor_documents(call.inputs), others)


def answer_body(outputs: Mapping[str, Array]) -> TensorBody:
    """Return an answer of tensors."""
    return TensorBody(_OUTPUTS, tensor_documents(outputs))


def json_answer(job: Job) -> TensorBody:
    """Return the answer of a job that has the form of REST."""
    return answer_body(read_answer(memoryview(job.answer), job.answer_json_size))


def grpc_answer(answer: bytes, is_of_stream: bool) -> TensorBody:
    """Return an answer of gRPC, which is framed."""
    return answer_body((read_stream_response if is_of_stream else read_response)(answer))


def openai_body(text: bytes) -> dict[str, Any]:
    """Return a body of the OpenAI API. Raises Omitted where it is no object."""
    document = orjson.loads(text)
    if not isinstance(document, dict):
        raise Omitted("it is no JSON object")
    return document


def _requested(name: str, output: RequestedOutput) -> dict[str, Any]:
    return {"name": name, **({"parameters": {"classification": output.classes}} if output.classes else {})}

"""The Open Inference Protocol over REST: inference, and the documents about one model.

Specification: open-inference-protocol, `specification/protocol/inference_rest.md`. How an `infer` call goes
from its exchange through the model's thread and back is in `calls`.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.codec.call import Call
from gateway.codec.json_answer import Encoder, error
from gateway.codec.json_request import Decoder
from gateway.engine.jobs import Job
from gateway.worker.calls import ComputeCalls, Dialect
from gateway.worker.capabilities import TensorCapability
from gateway.worker.protocol import JSON, OPENAI, Answer, OpenAIErrors, OpenInferenceErrors, Route, document
from gateway.worker.version import ServedVersion
from runtimes.base import Array

_OK = 200


class OpenInferenceRest:
    """Owns `/v2/models/{name}[/versions/{version}][/infer|/ready|/config]` and `/v2/health/ready`.

    Of the OpenAI API, whose clients read other errors, it says that the model is called otherwise.
    """

    streams: Mapping[str, Answer] = {}

    def __init__(self, version: ServedVersion, tensors: TensorCapability) -> None:
        self._errors = OpenInferenceErrors(version.headers)
        json = {role: JSON + names for role, names in version.headers.items()}
        model = version.identity.model
        ready = b'{"name":"%s","ready":true}' % model.encode()
        advice = f"model {model} takes tensors; POST them to /v2/models/{model}/infer"
        self._of_openai = Route(OpenAIErrors(version.headers), {}, advice)
        self._routes: Mapping[str, Route] = {
            "": document(self._errors, json, tensors.metadata),
            "ready": document(self._errors, json, ready),
            "config": document(self._errors, json, tensors.configuration),
            "infer": Route(
                self._errors, {"POST": ComputeCalls(version, tensors, _dialect(version, tensors))}
            ),
        }

    def route(self, path: str, _content_type: bytes) -> Route | None:
        """Return the route of what a path asks of the model that it names."""
        parts = path.split("/")
        if parts[1:3] == ["v2", "models"] and len(parts) > 3:
            is_of_version = parts[4:5] == ["versions"] and len(parts) > 5
            return self._routes.get("/".join(parts[6:] if is_of_version else parts[4:]))
        if path.startswith(OPENAI):
            return self._of_openai
        return self._routes["ready"] if parts[1:] == ["v2", "health", "ready"] else None


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


def _dialect(version: ServedVersion, tensors: TensorCapability) -> Dialect:
    identity = version.identity
    codec = RestCodec(tensors.decode, Encoder(identity.model, identity.version, version.options.labels))
    return Dialect(lambda _headers: codec, lambda _status, text: error(text), lambda job: job)

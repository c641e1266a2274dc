"""Calls as people write them: rows, CSV, images and files of NumPy, answered by predictions.

They are calls like those of the Open Inference Protocol: they wait in the same queue, run in the same
batches, are counted alike, and are mirrored in the form of that protocol.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.codec.call import IN_BINARY, Call
from gateway.codec.infer_request import write_request
from gateway.codec.json_answer import Encoder, error
from gateway.codec.predict.answer import CSV, PredictionWriter, wants_csv
from gateway.codec.predict.class_names import ClassNames
from gateway.codec.predict.paths import Style, style_of
from gateway.codec.predict.request import Reader, Request
from gateway.engine.jobs import Job
from gateway.payloads.record import Protocol
from gateway.worker.calls import ComputeCalls, Dialect
from gateway.worker.capabilities import TensorCapability
from gateway.worker.labels import Labels
from gateway.worker.protocol import Answer, OpenInferenceErrors, Route
from gateway.worker.version import ServedVersion
from runtimes.base import Array


class PredictHandler:
    """Owns `/v2/models/{name}[/versions/{version}]/predict`, `/v1/models/{name}:predict` and `/invocations`.

    `own` are the names of classes that the model itself has.
    """

    streams: Mapping[str, Answer] = {}

    def __init__(self, version: ServedVersion, tensors: TensorCapability, own: Labels) -> None:
        identity, options = version.identity, version.options
        self._tensors = tensors
        self._payloads = version.payloads
        self.reader = Reader(tensors.signature, options.image, options.max_body)
        names = ClassNames(options.labels, own)
        self.writer = PredictionWriter(identity.model, identity.version, names)
        self._encode = Encoder(identity.model, identity.version, {})
        errors = OpenInferenceErrors(version.headers)
        self._routes = {
            style: Route(errors, {"POST": ComputeCalls(version, tensors, self._dialect(style))})
            for style in Style
        }

    def route(self, path: str, _content_type: bytes) -> Route | None:
        """Return the route of a path of predictions."""
        style = style_of(path)
        return None if style is None else self._routes[style]

    def _dialect(self, style: Style) -> Dialect:
        def codec(headers: Mapping[bytes, bytes]) -> _PredictCodec:
            content_type = headers.get(b"content-type", b"").decode("latin-1")
            is_csv = wants_csv(headers.get(b"accept", b"").decode("latin-1"))
            return _PredictCodec(self, style, content_type, is_csv)

        return Dialect(codec, lambda _status, text: error(text), self._mirrored, Protocol.PREDICT)

    @property
    def keeps_outputs(self) -> bool:
        """Whether outputs are kept until the call is answered, as it may be mirrored or recorded."""
        return self._tensors.mirror is not None or self._payloads.sampler is not None

    def _mirrored(self, job: Job) -> Job:
        """Return an answered call as the Open Inference Protocol has it."""
        codec = job.codec
        assert isinstance(codec, _PredictCodec)
        if codec.answered is None:
            return job
        call, outputs = codec.answered
        body, json_size = write_request(call.inputs, call.outputs)
        twin = Job(body, codec, job.loop, job.done, json_size=b"%d" % json_size)
        binary = Call("", call.inputs, dict.fromkeys(call.outputs, IN_BINARY), IN_BINARY)
        twin.answer, twin.answer_json_size = self._encode(binary, outputs)
        return twin


class _PredictCodec:
    """Reads one call and writes its answer, see `jobs.Codec`; one is made for each call."""

    def __init__(self, handler: PredictHandler, style: Style, content_type: str, is_csv: bool) -> None:
        self._handler = handler
        self._style = style
        self._content_type = content_type
        self._is_csv = is_csv
        self._request: Request | None = None
        self.answered: tuple[Call, Mapping[str, Array]] | None = None

    def decode(self, job: Job) -> Call:
        self._request = self._handler.reader(job.body, self._content_type, self._style)
        return self._request.call

    def encode(self, job: Job, call: Call, outputs: Mapping[str, Array]) -> None:
        assert self._request is not None
        writer = self._handler.writer
        if self._is_csv:
            job.answer, job.answer_type = writer.csv(self._request, outputs, self._style), CSV
        else:
            job.answer = writer.json(self._request, outputs, self._style)
        if self._handler.keeps_outputs:
            self.answered = call, outputs

    def error(self, job: Job, _status: int, message: str) -> None:
        job.answer, job.answer_type = error(message), b""

"""Sends spans to a collector: OTLP over HTTP, in protobuf (the extra `otel`).

https://opentelemetry.io/docs/specs/otlp/#otlphttp. The messages are OpenTelemetry's own. Its exporter, which
wants each span as an object of its SDK's, takes nine times as long to write one.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import requests
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import Status

import gateway
from gateway.control.tracing.export import Outcome
from gateway.foreign_text import foreign_text
from gateway.tracing.settings import OtlpSettings
from gateway.tracing.span import Span, Value

_OK = 200
_PASSING = (429, 502, 503, 504)
"""What the specification has sent again."""
_ANSWER_BYTES = 64 * 1024
_REMEMBERED = 1024
# Sampled; that it is known whether the parent is another server's; and that it is.
_FLAGS, _CALLED_FLAGS = 0x101, 0x301
_COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


class OtlpExporter:
    """Sends spans, with one try for each batch; whoever calls it waits."""

    def __init__(self, settings: OtlpSettings) -> None:
        self._settings = settings
        self._session = session = requests.Session()
        # A proxy for the web, or a .netrc, is not meant for spans.
        session.trust_env = False
        session.verify = settings.certificate_file or True
        if settings.client_certificate_file is not None:
            certificate, key = settings.client_certificate_file, settings.client_key_file
            session.cert = (certificate, key) if key else certificate
        session.headers.update(settings.headers)
        session.headers.update({"content-type": "application/x-protobuf", "user-agent": _user_agent()})
        self._compress = _COMPRESS.get(settings.compression)
        if self._compress is not None:
            session.headers["content-encoding"] = settings.compression

    def export(self, spans: Sequence[Span]) -> Outcome:
        """Send spans, within the time that one batch may take."""
        body = encode(spans, self._settings.resource)
        if self._compress is not None:
            body = self._compress(body)
        settings = self._settings
        try:
            with self._session.post(
                settings.endpoint, body, timeout=settings.timeout, allow_redirects=False, stream=True
            ) as response:
                answer = response.raw.read(_ANSWER_BYTES, decode_content=True)
        except (requests.RequestException, OSError) as error:
            return Outcome(foreign_text(error), may_pass=True)
        return _outcome(response, answer)

    def close(self) -> None:
        """End the connection to the collector."""
        self._session.close()


def encode(spans: Sequence[Span], resource: Sequence[tuple[str, str]]) -> bytes:
    """Write spans as a request of OTLP's; `resource` are attributes of the sender."""
    request = ExportTraceServiceRequest()
    for process, of_process in groupby(spans, lambda span: span.process):
        group = request.resource_spans.add()
        _write(group.resource.attributes, {**dict(resource), **dict(process)})
        scope = group.scope_spans.add()
        scope.scope.name, scope.scope.version = "kitserve", gateway.__version__
        for span in of_process:
            _write_span(scope.spans.add, span)
    body: bytes = request.SerializeToString()
    return body


def _write_span(add: Callable[..., Any], span: Span) -> None:
    message = add(
        name=span.name,
        trace_id=bytes.fromhex(span.own.trace_id),
        span_id=bytes.fromhex(span.own.span_id),
        parent_span_id=bytes.fromhex(span.parent_id),
        kind=Message.SPAN_KIND_SERVER if span.is_server else Message.SPAN_KIND_INTERNAL,
        start_time_unix_nano=span.start,
        end_time_unix_nano=span.end,
        flags=_CALLED_FLAGS if span.is_server and span.parent_id else _FLAGS,
    )
    message.MergeFromString(b"".join(_attribute(name, value) for name, value in span.attributes.items()))
    for link in span.links:
        message.links.add(trace_id=bytes.fromhex(link.trace_id), span_id=bytes.fromhex(link.span_id))
    if span.error:
        message.status.code, message.status.message = Status.STATUS_CODE_ERROR, span.error


def _write(attributes: Any, values: Mapping[str, Value]) -> None:
    for name, value in values.items():
        _write_value(attributes.add(key=name).value, value)


@lru_cache(_REMEMBERED, typed=True)
def _attribute(name: str, value: Value) -> bytes:
    """Return an attribute as the bytes of a span that has no more: many spans have the same.

    Bytes of messages one behind the other are those of the messages merged
    (https://protobuf.dev/programming-guides/encoding/#last-one-wins), which takes a third of the time.
    """
    message = Message()
    _write_value(message.attributes.add(key=name).value, value)
    serialized: bytes = message.SerializeToString()
    return serialized


def _write_value(message: Any, value: Value) -> None:
    if isinstance(value, str):
        message.string_value = value
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, int):
        message.int_value = value
    elif isinstance(value, float):
        message.double_value = value
    else:
        for text in value:
            message.array_value.values.add(string_value=text)


def _outcome(response: requests.Response, answer: bytes) -> Outcome:
    status = response.status_code
    if status != _OK:
        # Of a redirect too: followed, it would lead the headers elsewhere.
        text = foreign_text(answer.decode(errors="replace"), 100)
        after = response.headers.get("retry-after", "")
        seconds = float(after) if status in _PASSING and after.isdigit() else 0.0
        return Outcome(f"the collector answers with {status}: {text}", seconds, may_pass=status in _PASSING)
    try:
        partial = ExportTraceServiceResponse.FromString(answer).partial_success
    except DecodeError:
        return Outcome()
    return Outcome(rejected=max(0, partial.rejected_spans))


def _user_agent() -> str:
    return f"kitserve/{gateway.__version__}"

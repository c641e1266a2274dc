"""A collector: takes OTLP over HTTP, decodes the protobuf, and keeps the spans; or fails as it is told to."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.waiting import wait

SERVER, INTERNAL = 2, 1
ERROR = 2


@dataclass(frozen=True)
class TakenSpan:
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    start: int
    end: int
    status: int
    message: str
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    links: tuple[tuple[str, str], ...]


@dataclass
class Collector:
    """Serves on `port` of loopback; `answer` says what a request is answered with."""

    answer: Callable[[], tuple[int, dict[str, str]]] = lambda: (200, {})
    spans: list[TakenSpan] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    requests: int = 0
    rejected: int = 0

    def __post_init__(self) -> None:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.requests += 1
                collector.headers.append(dict(self.headers.items()))
                collector.paths.append(self.path)
                status, headers = collector.answer()
                if status == 200:
                    collector.spans += decoded(body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                answer = ExportTraceServiceResponse()
                answer.partial_success.rejected_spans = collector.rejected
                text = answer.SerializeToString() if status == 200 else b"as told"
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def trace(self, trace_id: str, count: int, seconds: float = 15) -> dict[str, TakenSpan]:
        """Wait for so many spans of a trace; returns them by name."""
        try:
            wait(lambda: sum(span.trace_id == trace_id for span in self.spans) >= count, seconds)
        except AssertionError as error:
            raise AssertionError(f"of {count} spans came {sorted(self.names(trace_id))}") from error
        return {span.name: span for span in self.spans if span.trace_id == trace_id}

    def names(self, trace_id: str) -> set[str]:
        """Return the names of the spans of a trace that came so far."""
        return {span.name for span in self.spans if span.trace_id == trace_id}


def decoded(body: bytes) -> list[TakenSpan]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        TakenSpan(
            span.name,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.kind,
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            span.status.code,
            span.status.message,
            {attribute.key: _value(attribute.value) for attribute in span.attributes},
            {attribute.key: _value(attribute.value) for attribute in resource.resource.attributes},
            tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(_value(each) for each in value.array_value.values)
    return getattr(value, kind)

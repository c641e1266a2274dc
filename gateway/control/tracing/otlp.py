"""Sends spans to a collector, with OpenTelemetry's own exporter (the extra `otel`); see `export`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

import gateway
from gateway.control.tracing.export import Outcome
from gateway.foreign_text import foreign_text
from gateway.tracing.settings import OtlpSettings
from gateway.tracing.span import Span, SpanName

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("kitserve", gateway.__version__)
_BUSY = (429, 503)
_REDIRECT, _ERROR = 300, 400


class OtlpExporter:
    """Sends spans; whoever calls it waits. `Outcome` tells of failures, and no log of its own does."""

    def __init__(self, settings: OtlpSettings) -> None:
        # It logs each failure of each try.
        logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.CRITICAL)
        self._session = _Session()
        self._exporter = OTLPSpanExporter(
            settings.endpoint,
            settings.certificate_file,
            settings.client_key_file,
            settings.client_certificate_file,
            dict(settings.headers),
            settings.timeout,
            Compression(settings.compression),
            self._session,
        )
        self._resource = Resource(dict(settings.resource))

    def export(self, spans: Sequence[Span]) -> Outcome:
        """Send spans, within the time that one batch may take."""
        self._session.reason, self._session.retry_after = "", 0.0
        result = self._exporter.export([self._readable(span) for span in spans])
        if result is SpanExportResult.SUCCESS:
            return Outcome()
        return Outcome(self._session.reason or "they could not be written", self._session.retry_after)

    def close(self) -> None:
        """End a try that is under way; from any thread."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _readable(self, span: Span) -> ReadableSpan:
        parent = SpanName(span.own.trace_id, span.parent_id) if span.parent_id else None
        return ReadableSpan(
            name=span.name,
            context=_context(span.own),
            parent=None if parent is None else _context(parent),
            resource=self._resource,
            attributes=dict(span.attributes),
            links=[Link(_context(link)) for link in span.links],
            kind=SpanKind.SERVER if span.is_server else SpanKind.INTERNAL,
            instrumentation_scope=_SCOPE,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=span.start,
            end_time=span.end,
        )


class _Session(requests.Session):
    """Notes why the collector did not take what it was sent, and when it wants to be asked again."""

    def __init__(self) -> None:
        super().__init__()
        # A proxy for the web, or a .netrc, is not meant for spans.
        self.trust_env = False
        self.reason = ""
        self.retry_after = 0.0

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        self.retry_after = 0.0
        try:
            response = super().request(*arguments, **options)
        except requests.RequestException as error:
            self.reason = foreign_text(error)
            raise
        if _REDIRECT <= response.status_code < _ERROR:
            # Followed, it would lead the headers elsewhere; and it is no success.
            self.reason = f"the collector answers with {response.status_code}, which is not followed"
            raise requests.TooManyRedirects(self.reason, response=response)
        if response.status_code >= _ERROR:
            self.reason = (
                f"the collector answers with {response.status_code}: {foreign_text(response.text, 100)}"
            )
            if response.status_code in _BUSY:
                self.retry_after = _seconds(response.headers.get("retry-after", ""))
        return response


def _seconds(retry_after: str) -> float:
    return float(retry_after) if retry_after.isdigit() else 0.0


def _context(name: SpanName) -> SpanContext:
    return SpanContext(int(name.trace_id, 16), int(name.span_id, 16), is_remote=False, trace_flags=_SAMPLED)

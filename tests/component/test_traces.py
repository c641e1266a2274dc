"""Traced calls through a worker's real server, and their spans on the way to a collector, as protobuf."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from gateway.cli.tracing import otlp_settings
from gateway.config.tracing import Tracing
from gateway.contract import Mirroring
from gateway.control.tracing.otlp import OtlpExporter
from gateway.metrics.counts import MIRRORED
from gateway.metrics.tally import Tally
from gateway.rollout.plan import Agreement
from gateway.serving import Batching
from gateway.tracing.call_trace import Tracer
from gateway.tracing.settings import OtlpSettings
from gateway.tracing.span import Span, SpanName, Value
from gateway.wire.grpc_frames import framed
from gateway.wire.grpc_messages import message
from gateway.wire.headers import PLACED_HEADER
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.grpc import INFER as GRPC_INFER
from gateway.worker.version import AppOptions, Identity
from runtimes.base import Array, LoadedModel, Signature, TensorSpec
from tests.support.engines import DONE, STREAM, USAGE, Behaviour, FaultyEngine, chunk, delta
from tests.support.otlp import ERROR, INTERNAL, SERVER, Collector
from tests.support.waiting import wait

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
INFER = "/v2/models/iris/infer"
CHAT = "/v1/chat/completions"
WHOLE = (STREAM, chunk(delta("a")), chunk(delta("b", "stop")), chunk(USAGE), chunk(DONE), b"0\r\n\r\n")
FLOWER = json.dumps(
    {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}]}
).encode()


class Slow:
    """A model that takes its time, row by row the same."""

    signature = Signature((TensorSpec("input", "FP32", (-1, 4)),), (TensorSpec("sum", "FP32", (-1, 1)),))
    platform = "test_slow"
    device = "cpu"
    seconds = 0.0

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        time.sleep(self.seconds)
        return {"sum": np.sum(inputs["input"], axis=1, keepdims=True)}

    def close(self) -> None:
        pass


class Worker:
    """A worker's server and app around a model, with a tracer."""

    def __init__(self, model: LoadedModel, name: str = "iris", **options: Any) -> None:
        self.tracer = Tracer()
        identity = Identity(name, "v1", "sha256:" + "ab" * 32)
        self.app = build_app(identity, model, Tally(), AppOptions(tracer=self.tracer, **options))
        self.server = HttpServer(self.app, "127.0.0.1")
        self.server.start()

    def connect(self, path: str, body: bytes, **headers: str) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=10)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, body, names)
        return connection

    def ask(self, path: str, body: bytes, **headers: str) -> int:
        connection = self.connect(path, body, **headers)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status

    def spans(self, count: int) -> dict[str, Span]:
        """Wait for so many spans; returns them by the first word of their names."""
        recorder = self.tracer.recorder
        wait(lambda: len(recorder) >= count)
        spans = recorder.take()
        assert len(spans) == count, [span.name for span in spans]
        return {span.name: span for span in spans}

    def stop(self) -> None:
        self.server.stop()
        self.app.stop()


def traced(trace: str = TRACE) -> dict[str, str]:
    """The headers that the edge gives a traced call."""
    began = time.time_ns() // 1000 - 2000
    return {"traceparent": f"00-{trace}-{PARENT}-01", "Kitserve_Traced": f"{began}-", "X_Request_Id": "r-1"}


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(Slow())
    yield worker
    worker.stop()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.stop()


def check_parts(spans: Mapping[str, Span], whole: Span) -> None:
    """Check that all is one trace, and that each span is where it belongs."""
    assert whole.parent_id == spans["edge wait"].parent_id == PARENT
    assert {span.own.trace_id for span in spans.values()} == {whole.own.trace_id}
    assert spans["queue"].parent_id == spans["compute"].parent_id == whole.own.span_id
    assert spans["edge wait"].end == whole.start <= spans["queue"].start
    assert spans["queue"].end <= spans["compute"].start + 1000
    assert spans["compute"].end <= whole.end + 1000


def test_a_call_over_rest_and_over_grpc(worker: Worker) -> None:
    assert worker.ask(INFER, FLOWER) == 200
    assert worker.ask(INFER, FLOWER, traceparent=f"00-{TRACE}-{PARENT}-00") == 200
    assert worker.ask(INFER, FLOWER, **traced()) == 200
    request = message("inference.ModelInferRequest")(model_name="iris")
    request.inputs.add(name="input", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend(
        [1, 2, 3, 4]
    )
    body = b"".join(framed([request.SerializeToString()]) for _ in range(1))
    for path, data, headers in (
        (None, b"", {}),
        (GRPC_INFER, body, {"Content_Type": "application/grpc"}),
    ):
        if path is not None:
            assert worker.ask(path, data, **traced(), **headers) == 200
        spans = worker.spans(4)
        whole = spans["infer iris"]
        check_parts(spans, whole)
        assert whole.attributes == {
            "kitserve.role": "",
            "kitserve.request_id": "r-1",
            "http.response.status_code": 200,
        }
        assert whole.error == ""


def test_a_call_that_is_refused_late_or_cancelled(worker: Worker) -> None:
    assert worker.ask(INFER, b"{", **traced()) == 400
    refused = worker.spans(4)["infer iris"]
    assert (refused.attributes["http.response.status_code"], refused.error) == (400, "")
    assert worker.ask(INFER, FLOWER, **traced(), X_Request_Timeout="1us") == 504
    late = worker.spans(3)["infer iris"]
    assert (late.attributes["error.type"], late.error) == ("504", "504")
    Slow.seconds = 0.3
    try:
        connection = worker.connect(INFER, FLOWER, **traced())
        time.sleep(0.1)
        assert connection.sock is not None
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        wait(lambda: len(worker.tracer.recorder) > 0)
    finally:
        Slow.seconds = 0.0
    spans = {span.name: span for span in worker.tracer.recorder.take()}
    assert spans["infer iris"].attributes["error.type"] == "cancelled"


def test_a_batch_has_a_link_to_each_of_its_calls() -> None:
    worker = Worker(Slow(), batching=Batching(8, 0.2))
    Slow.seconds = 0.1
    names = [f"{number:032x}" for number in range(1, 7)]
    try:
        threads = [
            threading.Thread(target=worker.ask, args=(INFER, FLOWER), kwargs=traced(name)) for name in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        Slow.seconds = 0.0
    spans = worker.tracer.recorder.take()
    wholes = {span.own for span in spans if span.name == "infer iris"}
    assert {name.trace_id for name in wholes} == set(names)
    batches = [span for span in spans if span.name == "batch"]
    assert batches
    assert max(len(batch.links) for batch in batches) > 1
    for batch in batches:
        assert set(batch.links) <= wholes
        assert batch.attributes["kitserve.batch.calls"] == len(batch.links)
        assert batch.parent_id in {link.span_id for link in batch.links}
    batched = {link for batch in batches for link in batch.links}
    computes = {span.own.trace_id: span for span in spans if span.name == "compute"}
    assert all(computes[name.trace_id].links for name in batched)
    worker.stop()


def test_a_mirrored_call_is_a_child_and_says_so(worker: Worker) -> None:
    canary = Worker(Slow())
    mirroring = Mirroring(1.0, ((canary.server.host, canary.server.port),), Agreement())
    worker.app.mirror(mirroring)
    assert worker.ask(INFER, FLOWER, **traced(), **{PLACED_HEADER: "1"}) == 200
    whole = worker.spans(4)["infer iris"]
    mirrored = canary.spans(3)["infer iris"]
    assert (mirrored.own.trace_id, mirrored.parent_id) == (TRACE, whole.own.span_id)
    assert (mirrored.attributes["kitserve.mirrored"], mirrored.attributes["kitserve.role"]) == (
        True,
        MIRRORED,
    )
    worker.app.mirror(None)
    canary.stop()


def test_a_streamed_chat_has_its_tokens_and_the_engine_its_trace() -> None:
    seen: list[bytes] = []

    def behave(connection: socket.socket, request: bytes) -> None:
        seen.append(request)
        for piece in WHOLE:
            connection.sendall(piece)
            time.sleep(0.01)

    worker = chat(behave)
    body = json.dumps({"model": "chat", "stream": True, "messages": [{"role": "user", "content": "hi"}]})
    assert worker.ask(CHAT, body.encode(), **traced(), tracestate="a=b") == 200
    spans = worker.spans(4)
    whole = spans["chat chat"]
    check_parts(spans, whole)
    attributes = dict(whole.attributes)
    assert 0.005 < float(str(attributes.pop("gen_ai.response.time_to_first_chunk"))) < 5
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "kitserve",
        "gen_ai.request.model": "chat",
        "gen_ai.response.model": "chat",
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.response.finish_reasons": ("stop",),
        "kitserve.role": "",
        "kitserve.request_id": "r-1",
        "http.response.status_code": 200,
    }
    request = seen[-1].lower()
    assert f"traceparent: 00-{TRACE}-{whole.own.span_id}-01".encode() in request
    assert b"tracestate: a=b" in request
    worker.stop()


def chat(behave: Behaviour) -> Worker:
    return Worker(FaultyEngine(behave, 2), "chat")


def some_spans(count: int) -> list[Span]:
    attributes: dict[str, Value] = {
        "text": "é",
        "number": 2**63 - 1,
        "share": 0.5,
        "is": True,
        "texts": ("a", "b"),
    }
    return [
        Span(
            "POST /v2",
            SpanName(TRACE, f"{number + 1:016x}"),
            PARENT if number else "",
            1_000,
            2_000,
            attributes,
            (SpanName(TRACE, PARENT),),
            "it failed",
            is_server=number == 0,
        )
        for number in range(count)
    ]


def test_a_span_that_the_collector_does_not_want_is_no_success(collector: Collector) -> None:
    collector.rejected = 2
    exporter = OtlpExporter(settings(collector, compression="gzip"))
    assert exporter.export(some_spans(3)).rejected == 2
    assert len(collector.spans) == 3
    exporter.close()


def settings(collector: Collector, **changes: Any) -> OtlpSettings:
    resource = (("service.name", "kitserve"), ("service.version", "1"))
    values = {"headers": (("x-key", "secret"),), "resource": resource, "timeout": 2.0, **changes}
    return OtlpSettings(collector.url + "/v1/traces", **values)


def test_spans_arrive_as_protobuf(collector: Collector) -> None:
    exporter = OtlpExporter(settings(collector))
    assert exporter.export(some_spans(2)).failure == ""
    first, second = collector.spans
    assert (first.kind, first.parent_id, second.kind, second.parent_id) == (SERVER, "", INTERNAL, PARENT)
    assert (first.trace_id, first.span_id, first.start, first.end) == (TRACE, f"{1:016x}", 1_000, 2_000)
    assert (first.status, first.message, first.links) == (ERROR, "it failed", ((TRACE, PARENT),))
    assert first.attributes == {
        "text": "é",
        "number": 2**63 - 1,
        "share": 0.5,
        "is": True,
        "texts": ("a", "b"),
    }
    assert first.resource == {"service.name": "kitserve", "service.version": "1"}
    assert collector.headers[0]["x-key"] == "secret"
    assert collector.paths == ["/v1/traces"]
    exporter.close()


@pytest.mark.parametrize(
    ("status", "headers", "reason", "retry_after"),
    [
        (400, {}, "answers with 400", 0.0),
        (401, {"retry-after": "30"}, "answers with 401", 0.0),
        (302, {"location": "http://127.0.0.1:9/"}, "answers with 302", 0.0),
        (429, {"retry-after": "30"}, "answers with 429", 30.0),
        (503, {"retry-after": "7"}, "answers with 503", 7.0),
        (500, {}, "answers with 500", 0.0),
    ],
)
def test_a_collector_that_takes_nothing(
    collector: Collector, status: int, headers: dict[str, str], reason: str, retry_after: float
) -> None:
    collector.answer = lambda: (status, headers)
    exporter = OtlpExporter(settings(collector))
    started = time.monotonic()
    outcome = exporter.export(some_spans(1))
    assert reason in outcome.failure
    assert outcome.retry_after == retry_after
    assert outcome.may_pass is (status in (429, 503))
    assert time.monotonic() - started < 4
    exporter.close()


def test_a_collector_that_is_slow_or_gone(collector: Collector) -> None:
    is_over = threading.Event()

    def answer() -> tuple[int, dict[str, str]]:
        is_over.wait(5)
        return 200, {}

    collector.answer = answer
    exporter = OtlpExporter(settings(collector, timeout=0.5))
    started = time.monotonic()
    assert "timed out" in exporter.export(some_spans(1)).failure.lower()
    assert time.monotonic() - started < 3
    is_over.set()
    collector.stop()
    assert "refused" in exporter.export(some_spans(1)).failure.lower()
    exporter.close()


def test_the_environment_says_what_the_config_does_not() -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://all:4318/",
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Basic%20abc,x=1",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
        "OTEL_SERVICE_NAME": "mine",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=prod,service.name=other",
        "KEY": "x-key=secret",
    }
    read = otlp_settings(Tracing(), environment)
    assert (read.endpoint, read.timeout) == ("http://all:4318/v1/traces", 3.0)
    assert read.headers == (("authorization", "Basic abc"), ("x", "1"))
    resource = dict(read.resource)
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("mine", "prod")
    assert "secret" not in repr(otlp_settings(Tracing(headers_env="KEY"), environment))
    own = otlp_settings(Tracing(endpoint="https://own/otlp", headers_env="KEY"), environment)
    assert (own.endpoint, own.headers) == ("https://own/otlp/v1/traces", (("x-key", "secret"),))
    traces = {**environment, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces:1/as/it/is"}
    assert otlp_settings(Tracing(), traces).endpoint == "http://traces:1/as/it/is"


def test_who_traces_nothing_imports_nothing_of_it() -> None:
    program = (
        "import sys, gateway.worker.assembly, gateway.control.tracing.traces, gateway.cli.lifecycle\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"

from __future__ import annotations

import time
from typing import Any

import pytest

from gateway.tracing.call_trace import Tracer
from gateway.tracing.recorder import SpanRecorder
from gateway.tracing.span import InvalidSpan, Span, SpanName

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {b"traceparent": f"00-{TRACE}-{PARENT}-01".encode()}


def span(**changes: Any) -> Span:
    values: dict[str, Any] = {
        "name": "queue",
        "own": SpanName(TRACE, PARENT),
        "parent_id": "",
        "start": 1,
        "end": 2,
    }
    return Span(**{**values, **changes})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"traceparent": f"00-{TRACE}-{PARENT}-00".encode()},
        {b"traceparent": b"00-01"},
        {b"kitserve-traced": b"1000-"},
    ],
)
def test_only_what_the_edge_has_marked_is_traced(headers: dict[bytes, bytes]) -> None:
    assert Tracer().of(headers) is None


def test_a_call_has_its_own_span_its_wait_at_the_edge_and_its_parts() -> None:
    tracer = Tracer()
    edge_began = time.time_ns() // 1000 - 5000
    trace = tracer.of({**SAMPLED, b"kitserve-traced": b"%d-abc" % edge_began, b"tracestate": b"a=b"})
    assert trace is not None
    began = time.perf_counter()
    part = trace.part("queue", began, began + 0.001)
    trace.end("infer iris", began, {"n": 1}, [part], "it failed")
    whole, waited, queue = tracer.recorder.take()
    assert (whole.name, whole.parent_id, whole.own.trace_id, whole.error) == (
        "infer iris",
        PARENT,
        TRACE,
        "it failed",
    )
    assert (waited.name, waited.parent_id) == ("edge wait", PARENT)
    assert waited.start == edge_began * 1000
    assert waited.end == whole.start <= queue.start
    assert queue.parent_id == whole.own.span_id
    assert queue.end - queue.start == pytest.approx(1e6, rel=0.01)
    assert trace.headers == [
        (b"traceparent", f"00-{TRACE}-{whole.own.span_id}-01".encode()),
        (b"tracestate", b"a=b"),
    ]


def test_a_wait_at_an_edge_whose_clock_is_ahead_lasts_no_time() -> None:
    tracer = Tracer()
    trace = tracer.of({**SAMPLED, b"kitserve-traced": b"%d-" % (time.time_ns() // 1000 + 60_000_000)})
    assert trace is not None
    trace.end("infer iris", time.perf_counter(), {})
    assert all(span.start <= span.end for span in tracer.recorder.take())


def test_a_recorder_keeps_so_many_and_counts_the_rest() -> None:
    recorder = SpanRecorder(3)
    recorder.add([span()] * 2)
    recorder.add([span()] * 2)
    assert (len(recorder), recorder.dropped) == (3, 1)
    assert len(recorder.take(2)) == 2
    recorder.add([span()] * 2)
    recorder.drop(5)
    assert (len(recorder.take()), len(recorder), recorder.dropped) == (3, 0, 6)


def test_what_a_worker_sends_is_cut_and_made_printable() -> None:
    checked = span(
        name="a\x1b[31m" + "x" * 1000,
        attributes={**{str(n): n for n in range(100)}, "0": "y" * 10_000, "1": 2**70, "2": ("\x00",)},
        links=(SpanName(TRACE, PARENT),) * 500,
    ).checked()
    assert len(checked.name) == 100
    assert checked.name.isprintable()
    assert len(checked.attributes) == 32
    assert len(str(checked.attributes["0"])) == 500
    assert checked.attributes["1"] == 2**63 - 1
    assert len(checked.links) == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"own": SpanName("x" * 32, PARENT)},
        {"own": SpanName(TRACE, PARENT + "0")},
        {"parent_id": "\n"},
        {"links": (SpanName("", ""),)},
        {"start": 3},
        {"end": 2**70},
        {"start": 1.5},
    ],
)
def test_what_is_no_span_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpan):
        span(**changes).checked()

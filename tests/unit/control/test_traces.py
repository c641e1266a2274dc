from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.contract import Announcement, AppName, WorkerState
from gateway.control.state.rollout_status import RolloutStatus, revision
from gateway.control.state.status import ModelState, ModelStatus, Status
from gateway.control.tracing.edge_spans import edge_span
from gateway.control.tracing.export import Outcome, SpanQueue
from gateway.control.tracing.traces import Traces
from gateway.tracing.span import InvalidSpan, Span, SpanName
from tests.support.waiting import wait

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OWN = "30619f1555adb051"
REFERENCE = "registry.example.com/iris:v1@sha256:" + "ab" * 32


def line(**changes: Any) -> bytes:
    fields = {
        "request_id": "r",
        "client": "10.0.0.1:4711",
        "method": "POST",
        "path": "/v2/models/iris/versions/v1/infer?secret=1",
        "status": 200,
        "model": "iris",
        "version": "v1",
        "digest": "sha256:ab",
        "role": "stable",
        "worker": "slot0/w0",
        "grpc_status": "-",
        "retries": "0",
        "end": "--",
        "trace_id": TRACE,
        "span": f"{OWN}/{PARENT}/1000/3000",
        "weight": "0",
    }
    return json.dumps({**fields, **changes}).encode()


def some_span(number: int = 1) -> Span:
    return Span("infer iris", SpanName(TRACE, f"{number:016x}"), PARENT, 1, 2, {"kitserve.model": "forged"})


def test_a_line_is_a_span() -> None:
    span = edge_span(line(retries="+2", weight="5", key="team"))
    assert span.name == "POST /v2/models/{model}/versions/{version}/infer"
    assert (span.own, span.parent_id, span.start, span.end) == (
        SpanName(TRACE, OWN),
        PARENT,
        1_000_000,
        3_000_000,
    )
    assert (span.error, span.is_server) == ("", True)
    assert span.attributes == {
        "http.request.method": "POST",
        "url.path": "/v2/models/iris/versions/v1/infer",
        "client.address": "10.0.0.1",
        "kitserve.request_id": "r",
        "kitserve.end": "--",
        "http.response.status_code": 200,
        "kitserve.model": "iris",
        "kitserve.version": "v1",
        "kitserve.digest": "sha256:ab",
        "kitserve.role": "stable",
        "kitserve.key": "team",
        "kitserve.edge.server": "slot0/w0",
        "kitserve.rollout.weight": 5,
        "http.request.resend_count": 2,
        "http.route": "/v2/models/{model}/versions/{version}/infer",
    }


@pytest.mark.parametrize(
    ("changes", "error", "kind"),
    [
        ({"status": 401, "end": "LR"}, "", "401"),
        ({"status": 403, "end": "PR"}, "", "403"),
        ({"status": 429, "end": "LR"}, "", "429"),
        ({"status": 503, "end": "LR"}, "status 503", "503"),
        ({"status": 504}, "status 504", "504"),
        ({"status": 504, "end": "sH"}, "the worker did not answer in time", "504"),
        ({"status": -1, "end": "CD"}, "the caller hung up", "cancelled"),
        ({"status": 200, "end": "SD"}, "the worker broke off", "200"),
        ({"grpc_status": "5"}, "", "5"),
        ({"grpc_status": "14"}, "gRPC status 14", "14"),
    ],
)
def test_refused_late_and_cancelled_calls_are_told_apart(
    changes: dict[str, Any], error: str, kind: str
) -> None:
    span = edge_span(line(**changes))
    assert (span.error, span.attributes["error.type"]) == (error, kind)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions", "POST /v1/chat/completions"),
        ("/inference.GRPCInferenceService/ModelInfer", "inference.GRPCInferenceService/ModelInfer"),
        ("/v1/models/iris:predict", "POST /v1/models/{model}:predict"),
        ("/" + "x" * 600, "POST"),
        ("/v2/a/b/c/d/e/f/g", "POST"),
    ],
)
def test_no_model_is_in_a_name(path: str, name: str) -> None:
    span = edge_span(line(path=path))
    assert span.name == name
    assert len(str(span.attributes["url.path"])) <= 512


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", line(span="a/b/c"), line(span="-/-/-/1"), line(trace_id="-")]
)
def test_what_is_no_line_of_a_traced_call_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidSpan):
        edge_span(text)


class FakeExporter:
    def __init__(self, answer: Callable[[], Outcome] = Outcome) -> None:
        self.answer = answer
        self.spans: list[Span] = []
        self.tries = 0
        self.closed = False

    def export(self, spans: Sequence[Span]) -> Outcome:
        self.tries += 1
        outcome = self.answer()
        if not outcome.failure:
            self.spans += spans
        return outcome

    def close(self) -> None:
        self.closed = True


def rolling() -> Status:
    rollout = RolloutStatus(
        "Progressing",
        "StepRunning",
        "",
        number=1,
        stable=revision(REFERENCE),
        canary=None,
        declared=None,
        weight=5,
        mirror=0.0,
        step=2,
        steps=(),
        held=0.0,
        hold=30.0,
        restarts=0,
        verdicts=(),
    )
    return Status(models=(ModelStatus("iris", ModelState.READY, "", (), rollout),))


def test_spans_of_edge_and_workers_get_their_names_and_the_step(tmp_path: Path) -> None:
    exporter = FakeExporter()
    traces = Traces(exporter, tmp_path / "traces.sock", lambda _: None, rolling)
    traces.start()
    report = Announcement(
        "worker-1", AppName("iris.v1"), WorkerState.READY, spans=(some_span(),), dropped_spans=7
    )
    assert traces.hear(report).spans == ()
    traces.hear(report)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as edge:
        edge.connect(str(tmp_path / "traces.sock"))
        # The second is of the same call, by the other frontend that it went through.
        edge.send(b"\n".join([b"3", line(), line(status=503), b"{}"]))
        wait(lambda: traces.numbers().sent == 3)
    traces.stop()
    of_worker, of_edge = exporter.spans[0], exporter.spans[-1]
    assert of_worker.process == (("service.instance.id", "worker-1"),)
    assert of_edge.attributes["kitserve.rollout.step"] == 2
    assert of_edge.attributes["kitserve.rollout.weight"] == 5
    numbers = traces.numbers()
    assert (numbers.sent, numbers.failed, numbers.dropped) == (3, 0, 10)
    assert exporter.closed


def test_a_collector_that_is_away_is_told_of_once_and_costs_a_bounded_room(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.control.tracing.export._GATHER_SECONDS", 0.01)
    monkeypatch.setattr("gateway.control.tracing.export._FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("gateway.control.tracing.export._LONGEST_PAUSE_SECONDS", 0.02)
    caplog.set_level(logging.INFO, "gateway.control.tracing")
    logging.getLogger("gateway").propagate = True
    is_away = threading.Event()
    is_away.set()
    exporter = FakeExporter(lambda: Outcome("nobody is there" if is_away.is_set() else ""))
    queue = SpanQueue(exporter, limit=1000)
    queue.start()
    while exporter.tries < 4:
        queue.add([some_span()] * 400)
    queue.add([some_span()] * 2000)
    is_away.clear()
    wait(lambda: queue.numbers().sent > 0)
    queue.stop()
    numbers = queue.numbers()
    assert numbers.dropped > 0
    assert numbers.failed > 0
    assert numbers.sent == len(exporter.spans) <= 1512
    events = [record.getMessage() for record in caplog.records]
    assert events == ["traces.unsent", "traces.sent"]


def test_an_exporter_that_raises_ends_nothing() -> None:
    def fails() -> Outcome:
        raise ValueError("it cannot")

    queue = SpanQueue(FakeExporter(fails))
    queue.add([some_span()])
    assert queue._send() == 1.0
    assert queue.numbers().failed == 1


def test_a_collector_says_when_it_wants_to_be_asked_again() -> None:
    queue = SpanQueue(FakeExporter(lambda: Outcome("too many", 30.0)))
    queue.add([some_span()])
    assert queue._send() == 30.0

"""Which calls a real HAProxy traces, what it tells their workers, and what it logs of them."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from gateway.control.tracing.edge_spans import edge_span
from gateway.edge.routes import Route, RoutingTable
from gateway.edge.tracing import EdgeTracing
from gateway.logs.limits import Logged
from gateway.tracing.span import Span
from tests.support.edge import RunningEdge, Workers, backend
from tests.support.waiting import wait

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
PATH = "/v2/models/iris/infer?traced"
MADE = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-01")


class TracingEdge:
    """An edge that traces, with a worker of the model iris."""

    def __init__(
        self, directory: Path, workers: Workers, sample: float, rate: int = 100, logged: Logged = "errors"
    ) -> None:
        directory.mkdir()
        self.edge = RunningEdge(directory, access_log=logged, tracing=EdgeTracing(sample, rate))
        self.worker = workers.start("v1")
        self.edge.control.apply(RoutingTable((Route("iris", backend("v1", self.worker)), Route("none"))))

    def call(self, *parents: str, state: str = "", path: str = PATH) -> tuple[str, str, str]:
        """Call over HTTP/1.1 with these traceparents; returns what the worker got."""
        headers = [f"traceparent: {parent}" for parent in parents]
        headers += [f"tracestate: {state}"] if state else []
        with socket.create_connection(("127.0.0.1", self.edge.port), timeout=10) as connection:
            head = "\r\n".join(
                [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers, "", ""]
            )
            connection.sendall(head.encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        parent, given_state, began = answer.rpartition("\r\n\r\n")[2].split(" ")
        return parent, given_state, began

    def spans(self, count: int) -> list[Span]:
        """Wait for the spans of so many calls; returns them."""
        wait(lambda: len(self.edge.traced) >= count)
        lines, self.edge.traced[:] = list(self.edge.traced), []
        assert len(lines) == count
        return [edge_span(line) for line in lines]


@pytest.fixture
def sampling(tmp_path: Path, workers: Workers) -> Iterator[TracingEdge]:
    running = TracingEdge(tmp_path / "all", workers, 1.0)
    yield running
    running.edge.stop()


@pytest.fixture
def asking(tmp_path: Path, workers: Workers) -> Iterator[TracingEdge]:
    """An edge that traces only for callers who ask for it, three in a second."""
    running = TracingEdge(tmp_path / "asked", workers, 0.0, rate=3)
    yield running
    running.edge.stop()


def test_haproxy_takes_the_configuration_without_a_warning(sampling: TracingEdge) -> None:
    edge = sampling.edge
    command = [str(edge.process._program.path), "-c", "-f", str(edge.files.config)]
    checked = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "WARNING" not in checked.stderr.upper()


def test_a_call_gets_a_trace_or_goes_on_with_its_own(sampling: TracingEdge) -> None:
    parent, state, began = sampling.call(state="a=b")
    made = MADE.fullmatch(parent)
    assert made is not None
    assert (state, began[-1]) == ("-", "-")
    (span,) = sampling.spans(1)
    assert (span.own.trace_id, span.own.span_id, span.parent_id) == (made[1], made[2], "")
    assert span.start == int(began.rstrip("-")) * 1000
    parent, state, began = sampling.call(SAMPLED, state="a=b")
    made = MADE.fullmatch(parent)
    assert made is not None
    assert (made[1], state, began.partition("-")[2]) == (TRACE, "a=b", f"{TRACE}-{PARENT}")
    (span,) = sampling.spans(1)
    assert (span.own.trace_id, span.own.span_id, span.parent_id) == (TRACE, made[2], PARENT)
    _, headers, _ = sampling.edge.get(PATH, {"traceparent": SAMPLED})
    assert MADE.fullmatch(headers["traceresponse"])
    # Its caller has decided that this one is not.
    parent, state, _ = sampling.call(f"00-{TRACE}-{PARENT}-00", state="a=b")
    assert (parent, state) == (f"00-{TRACE}-{PARENT}-00", "a=b")
    sampling.spans(1)


@pytest.mark.parametrize(
    "parents",
    [
        [""],
        ["01"],
        [SAMPLED.upper()],
        [SAMPLED + "-more"],
        [SAMPLED + "0"],
        [SAMPLED.replace("00-", "ff-", 1)],
        [SAMPLED.replace("00-", "0-", 1)],
        [SAMPLED.replace(TRACE, "0" * 32)],
        [SAMPLED.replace(PARENT, "0" * 16)],
        [SAMPLED.replace(PARENT, PARENT[:-1] + "g")],
        [SAMPLED[:-1]],
        [SAMPLED, SAMPLED],
        [SAMPLED, f"00-{TRACE}-{PARENT}-00"],
    ],
)
def test_what_is_no_traceparent_is_replaced(sampling: TracingEdge, parents: list[str]) -> None:
    parent, state, _ = sampling.call(*parents, state="a=b")
    made = MADE.fullmatch(parent)
    assert made is not None
    assert made[1] != TRACE
    assert (state, sampling.spans(1)[0].parent_id) == ("-", "")


def test_a_call_that_is_not_traced_waits_for_nothing(asking: TracingEdge) -> None:
    began = time.monotonic()
    for _ in range(5):
        asking.call()
    assert time.monotonic() - began < 2.5


def test_a_later_version_is_read_as_far_as_it_is_known(sampling: TracingEdge) -> None:
    parent, _, _ = sampling.call(f"cc-{TRACE}-{PARENT}-03-what-the-future-will-be-like")
    assert (parent[:3], parent[3:35], parent[-2:]) == ("00-", TRACE, "01")


def test_no_caller_has_all_its_calls_traced(asking: TracingEdge) -> None:
    assert asking.call() == ("-", "-", "-")
    # A header of ours is worth nothing in a caller's hands.
    flags = [asking.call(SAMPLED)[0][-2:] for _ in range(20)]
    assert 3 <= flags.count("01") < 20
    assert flags[:3] == ["01"] * 3
    asking.spans(flags.count("01"))


def test_calls_that_reach_no_worker_are_spans_as_well(sampling: TracingEdge) -> None:
    edge = sampling.edge
    for path, status in (
        ("/v2/models/none/infer", 503),
        ("/v2/models/other/infer", 404),
        ("/v1/nowhere", 404),
    ):
        code, headers, _ = edge.get(path, {"traceparent": SAMPLED})
        assert (code, headers["traceresponse"][3:35]) == (status, TRACE)
        (span,) = sampling.spans(1)
        assert span.attributes["error.type"] == str(status)
        assert bool(span.error) is (status == 503)
    with grpc.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError):
            call(b"\n\x05other", metadata=(("traceparent", SAMPLED),), timeout=10)
    (span,) = sampling.spans(1)
    assert (span.name, span.attributes["rpc.response.status_code"]) == (
        "inference.GRPCInferenceService/ModelInfer",
        "5",
    )
    # One that hangs up while its worker works.
    with socket.create_connection(("127.0.0.1", edge.port)) as connection:
        request = (
            f"GET /v2/models/iris/infer?hold HTTP/1.1\r\nHost: 127.0.0.1\r\ntraceparent: {SAMPLED}\r\n\r\n"
        )
        connection.sendall(request.encode())
        wait(lambda: edge.get("/v2/models/iris/infer?inside")[2] == b"1")
    wait(lambda: any(b'"end":"C' in line for line in edge.traced))
    ended = next(line for line in edge.traced if b'"end":"C' in line)
    assert edge_span(ended).error == "the caller hung up"


@pytest.mark.parametrize("logged", ["off", "errors", "all"])
def test_the_access_log_is_what_it_is_without_traces(
    logged: Logged, tmp_path: Path, workers: Workers, capfd: pytest.CaptureFixture[str]
) -> None:
    running = TracingEdge(tmp_path / "edge", workers, 0.0, logged=logged)
    for path in ("/v2/models/iris/infer", "/v2/models/other/infer", "/v2/models/none/infer"):
        running.edge.get(path)
        running.edge.get(path, {"traceparent": SAMPLED})
    running.edge.stop()
    lines: list[dict[str, Any]] = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    expected = {"off": [], "errors": [503], "all": [200, 404, 503]}
    # HAProxy's threads do not wait for each other.
    logged_calls = sorted((line["status"], line["trace_id"]) for line in lines if line["event"] == "access")
    assert logged_calls == [(status, trace) for status in expected[logged] for trace in ("-", TRACE)]
    assert len(running.edge.traced) == 3


def test_no_header_is_looked_at_where_nothing_is_traced(edge: RunningEdge, workers: Workers) -> None:
    assert "trace" not in edge.files.config.read_text().lower()
    edge.control.apply(RoutingTable((Route("iris", backend("v1", workers.start("v1"))),)))
    assert edge.get(PATH, {"traceparent": SAMPLED})[2] == f"{SAMPLED} - -".encode()

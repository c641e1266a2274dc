"""What a real HAProxy counts is told by version, and never falls."""

from __future__ import annotations

import contextlib
import os
import signal

import grpc

from gateway.edge.control import EdgeControl
from gateway.edge.edge import EdgeStatistics
from gateway.edge.files import EdgeSettings
from gateway.edge.haproxy import HAProxy
from gateway.edge.placement import backend_name
from gateway.edge.routes import Backend, Route, RoutingTable
from tests.support.edge import RunningEdge, Workers, backend
from tests.support.waiting import wait


def counted(edge: RunningEdge, version: str = "iris.v1") -> dict[tuple[str, str], int]:
    return dict(edge.control.statistics().versions[version].responses)


def call_grpc(edge: RunningEdge, model: bytes) -> grpc.StatusCode | None:
    with grpc.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            call(bytes((10, len(model))) + model, timeout=10)
        except grpc.RpcError as error:
            return error.code()
    return None


def test_the_calls_that_nobody_answers_are_counted_by_model(edge: RunningEdge, workers: Workers) -> None:
    for _ in range(2):
        assert edge.get("/v2/models/iris/infer")[0] == 503
    assert call_grpc(edge, b"iris") is grpc.StatusCode.UNAVAILABLE
    # Names that callers invent make no series.
    for path in ("/v2/models/foreign/infer", "/v2/models/iris/versions/foreign", "/v2/health/ready"):
        edge.get(path)
    call_grpc(edge, b"foreign")
    statistics = edge.control.statistics()
    assert (statistics.versions, statistics.whole.unavailable) == ({}, {"iris": 3})
    assert statistics.whole.responses["4xx"] >= 1
    assert statistics.whole.is_up
    assert statistics.memory_bytes > 5_000_000


def test_an_outage_is_seen_and_outlives_reloads_and_both_processes(
    edge: RunningEdge, workers: Workers
) -> None:
    pair = (workers.start("v1"), workers.start("v1"))
    edge.control.apply(RoutingTable((Route("iris", backend("v1", *pair)),)))
    for _ in range(5):
        assert edge.get("/v2/models/iris/infer")[0] == 200
    assert counted(edge) == {("worker", "2xx"): 5}
    for worker in pair:
        workers.kill(worker)
    for _ in range(3):
        assert edge.get("/v2/models/iris/infer")[0] == 503
    assert call_grpc(edge, b"iris") is grpc.StatusCode.UNAVAILABLE
    outage = {("worker", "2xx"): 5, ("edge", "5xx"): 4}
    wait(lambda: counted(edge) == outage)
    assert edge.control.statistics().versions["iris.v1"].errors["connect"] > 0

    before = HAProxy(edge.files).processes()
    many = [Backend(f"other.{number}", (f"o{number}",), ()) for number in range(40)]
    routes = [Route("iris", backend("v1")), *(Route(other.version, other) for other in many)]
    edge.control.apply(RoutingTable(tuple(routes)))
    assert HAProxy(edge.files).processes().worker != before.worker, "so many versions need a reload"
    assert counted(edge) == outage
    assert edge.get("/v2/models/iris/infer")[0] == 503
    outage["edge", "5xx"] += 1
    assert counted(edge) == outage

    again = EdgeControl(EdgeSettings(f"127.0.0.1:{edge.port}", "off"), edge.files)
    assert dict(again.statistics().versions["iris.v1"].responses) == outage, "a gateway that is started again"

    master = edge.master_pid()
    os.kill(master, signal.SIGKILL)
    silent = again.statistics()
    assert (silent.whole.is_up, dict(silent.versions["iris.v1"].responses)) == (False, outage)

    def answers() -> bool:
        with contextlib.suppress(Exception):
            return edge.control.statistics().whole.is_up and edge.master_pid() != master
        return False

    wait(answers)
    assert edge.get("/v2/models/iris/infer")[0] == 503
    outage["edge", "5xx"] += 1
    assert counted(edge) == outage


def test_a_backend_that_is_given_to_another_version_begins_to_count_anew(
    edge: RunningEdge, workers: Workers
) -> None:
    old, new = backend("v1", workers.start("v1")), backend("v2", workers.start("v2"))
    edge.control.apply(RoutingTable((Route("iris", old),)))
    for _ in range(4):
        edge.get("/v2/models/iris/infer")
    edge.control.apply(RoutingTable((Route("iris", new),)))
    assert edge.control.occupant(backend_name(1)) is None
    edge.control.apply(RoutingTable())
    edge.control.apply(RoutingTable((Route("iris", new),)))
    assert edge.control.occupant(backend_name(0)) == new.version
    edge.get("/v2/models/iris/infer")
    assert counted(edge) == {("worker", "2xx"): 4}
    assert counted(edge, new.version) == {("worker", "2xx"): 1}


def test_statistics_of_an_edge_that_never_ran_are_empty(edge: RunningEdge) -> None:
    files = type(edge.files)(edge.files.directory / "none")
    files.directory.mkdir()
    statistics = EdgeControl(EdgeSettings("127.0.0.1:0"), files).statistics()
    assert statistics == EdgeStatistics(whole=statistics.whole)
    assert not statistics.whole.is_up

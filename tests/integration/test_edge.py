"""The edge: a real HAProxy in front of real HTTP servers in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import gateway
from gateway.call_records.access_log import Converter
from gateway.edge.bounds import MIN_FILES, edge_bounds
from gateway.edge.control import EdgeControl
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.edge.haproxy import ask
from gateway.edge.process import EdgeProcess
from gateway.edge.routes import Backend, Route, RouteState, RoutingTable, Server
from gateway.errors import EdgeError
from gateway.wire.texts import EXTENSIONS
from tests.support.edge import RunningEdge, Workers, backend
from tests.support.load import Load
from tests.support.waiting import wait


def test_a_model_without_a_version_says_its_state(edge: RunningEdge) -> None:
    edge.control.apply(RoutingTable((Route("iris", state=RouteState.FAILED),)))
    status, headers, body = edge.get("/v2/models/iris/infer")
    error = "model iris could not be loaded; its operator sees why with kitserve status"
    assert (status, json.loads(body)) == (503, {"error": error, "code": "model_failed"})
    assert headers["Retry-After"] == "1"
    assert edge.get("/v2/health/live")[0] == 200
    assert edge.get("/v2/health/ready")[0] == 503


@pytest.mark.parametrize("query", ["any", "any=", "any=true", "any=1", "probe=kubelet&any", "any&x=1"])
def test_the_server_is_ready_for_a_probe_while_one_model_answers(
    edge: RunningEdge, workers: Workers, query: str
) -> None:
    probe = f"/v2/health/ready?{query}"
    status, headers, body = edge.get(probe)
    assert (status, headers["Retry-After"]) == (503, "1")
    assert json.loads(body) == {"error": "no model is ready", "live": True, "ready": False}
    edge.control.apply(RoutingTable((Route("iris", backend("v1", workers.start("v1"))), Route("wine"))))
    assert edge.get("/v2/health/ready")[0] == 503
    for other in ("any=false", "many", "x=any", "company=1"):
        assert edge.get(f"/v2/health/ready?{other}")[0] == 503, other
    for method in ("GET", "HEAD"):
        status, _, body = edge.get(probe, method=method)
        assert status == 200
        assert method == "HEAD" or json.loads(body) == {"live": True, "ready": True}
    assert edge.get(probe, method="POST")[0] == 405
    edge.control.apply(RoutingTable())
    assert edge.get(probe)[0] == 200


def test_paths_lead_to_versions(edge: RunningEdge, workers: Workers) -> None:
    stable, canary = backend("v1", workers.start("v1")), backend("v2", workers.start("v2"))
    edge.control.apply(RoutingTable((Route("iris", stable, canary, 0),)))
    assert edge.get("/v2/health/ready")[0] == 200
    for path, version, role in [
        ("/v2/models/iris/infer", "v1", "stable"),
        ("/v2/models/iris", "v1", "stable"),
        ("/v2/models/iris/versions", "v1", "stable"),
        ("/v2/models/iris/versions/v1/infer", "v1", "stable"),
        ("/v2/models/iris/versions/v2", "v2", "canary"),
        ("/v2/models/iris/versions/sha256:v2/ready", "v2", "canary"),
        ("/v2/models/iris/versions/sha256%3Av2/ready", "v2", "canary"),
    ]:
        status, headers, body = edge.get(path, {"ModelKit-Role": "forged", "X-Request-Id": "r-1"})
        assert (status, headers["ModelKit-Version"], body.decode()) == (200, version, role), path
        assert headers["X-Request-Id"] == "r-1"
    for path, text in [
        ("/v2/models/iris/versions/v3/infer", "model iris has no version v3 that is served"),
        ('/v2/models/no"such/infer', 'Request for unknown model: no model is named no"such'),
        ("/v3/nothing", "no such path: /v3/nothing"),
    ]:
        status, headers, body = edge.get(path)
        assert (status, json.loads(body)) == (404, {"error": text})
        assert len(headers["X-Request-Id"]) == 36


def test_what_is_asked_of_the_whole_server_goes_to_the_gateway(tmp_path: Path, workers: Workers) -> None:
    control, worker = workers.start("the-gateway"), workers.start("v1")
    edge = RunningEdge(tmp_path, f"127.0.0.1:{control.port}", "secret")
    try:
        edge.control.apply(RoutingTable((Route("iris", backend("v1", worker)),)))
        for path, version in [
            ("/v2/repository/index", "the-gateway"),
            ("/v2/models/stats", "the-gateway"),
            ("/v2/models/iris/stats", "the-gateway"),
            ("/v2/models/iris/stats?x=1", "the-gateway"),
            ("/v2/models/iris/versions/v1/stats", "the-gateway"),
            ("/v2/models/nothing/stats", "the-gateway"),
            ("/openapi.json", "the-gateway"),
            ("/docs", "the-gateway"),
            ("/v2/models/iris/docs", "the-gateway"),
            ("/v1/models", "the-gateway"),
            ("/v1/models/iris:v1", "the-gateway"),
            ("/v1/models/iris%40sha256%3A00", "the-gateway"),
            ("/models/iris/v1/models", "v1"),
            ("/models/iris/versions/v1/v1/models/iris", "v1"),
            ("/v2/models/iris", "v1"),
            ("/v2/models/iris/config", "v1"),
            ("/v2/models/iris/other/stats", "v1"),
            ("/v2/models/iris/versions/v1/other/stats", "v1"),
        ]:
            status, headers, _ = edge.get(path)
            assert (status, headers["ModelKit-Version"]) == (200, version), path
        for path in (
            "/api/config",
            "/api/status",
            "/metrics",
            "/healthz",
            "/v2/repository/index/x",
            "/v1/models/",
        ):
            assert edge.get(path)[0] == 404, path
        workers.kill(control)
        status, headers, body = edge.get("/v2/models/stats")
        assert (status, json.loads(body)) == (503, {"error": "the gateway is being started; ask again"})
        assert headers["Retry-After"] == "1"
        status, headers, body = edge.get("/v1/models")
        assert (status, headers["Retry-After"]) == (503, "1")
        assert json.loads(body)["error"]["message"] == "the gateway is being started; ask again"
        assert edge.get("/v2/models/iris")[0] == 200
    finally:
        edge.stop()


def test_the_server_tells_of_itself_and_of_what_it_leaves_to_the_config(edge: RunningEdge) -> None:
    status, _, body = edge.get("/v2")
    assert (status, json.loads(body)) == (
        200,
        {"name": "kitserve", "version": gateway.__version__, "extensions": list(EXTENSIONS)},
    )
    for path in ("/v2/repository/models/iris/load", "/v2/repository/models/iris/unload"):
        status, _, body = edge.get(path, method="POST")
        text = "models are loaded and unloaded by the config: change it, and run kitserve apply"
        assert (status, json.loads(body)) == (501, {"error": text})


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v2", "GET, HEAD"),
        ("DELETE", "/v2/health/live", "GET, HEAD"),
        ("TRACE", "/v2/health/ready", "GET, HEAD"),
        ("GET", "/v2/repository/models/iris/load", "POST"),
    ],
)
def test_a_method_that_a_path_does_not_take_is_told_which_it_takes(
    edge: RunningEdge, method: str, path: str, allowed: str
) -> None:
    status, headers, body = edge.get(path, method=method)
    assert (status, headers["Allow"]) == (405, allowed)
    assert json.loads(body) == {"error": f"{method} is not allowed here; use {allowed.partition(',')[0]}"}


def test_weights_change_under_load_and_no_call_fails(edge: RunningEdge, workers: Workers) -> None:
    stable, canary = backend("v1", workers.start("v1")), backend("v2", workers.start("v2"))
    master = edge.master_pid()
    edge.control.apply(RoutingTable((Route("iris", stable),)))
    with Load(f"{edge.url}/v2/models/iris/infer") as load:
        load.wait_for("v1")
        for weight in (20, 70, 100, 0, 35):
            edge.control.apply(RoutingTable((Route("iris", stable, canary, weight),)))
            time.sleep(0.05)
            load.forget()
            time.sleep(1.0)
            share = load.versions["v2"] / max(1, load.versions.total())
            assert abs(share - weight / 100) < 0.06, (weight, load.versions)
    assert load.failures == {}
    assert edge.master_pid() == master
    assert edge.control.old_processes() == 0


def test_the_pool_grows_by_a_reload_that_loses_no_call(edge: RunningEdge, workers: Workers) -> None:
    server = workers.start("v1")
    edge.control.apply(RoutingTable((Route("iris", backend("v1", server)),)))
    with Load(f"{edge.url}/v2/models/iris/infer") as load:
        load.wait_for("v1")
        for models in (40, 80, 160):
            others = [Route(f"m{n}", Backend(f"m{n}.v1", ("v1",), (server,))) for n in range(models)]
            edge.control.apply(RoutingTable((Route("iris", backend("v1", server)), *others)))
            assert edge.get(f"/v2/models/m{models - 1}/versions/v1")[0] == 200
            time.sleep(0.3)
    assert load.failures == {}
    assert load.outcomes["200"] > 100


def test_with_few_open_files_many_models_are_taken_at_the_cost_of_connections(
    tmp_path: Path, workers: Workers
) -> None:
    edge = RunningEdge(tmp_path, bounds=edge_bounds(MIN_FILES))
    server, taken = workers.start("v1"), []
    try:
        for models in (1, 40, 150, 400):
            routes = [Route(f"m{n}", Backend(f"m{n}.v1", ("v1",), (server,))) for n in range(models)]
            edge.control.apply(RoutingTable(tuple(routes)))
            assert edge.get(f"/v2/models/m{models - 1}/infer")[0] == 200
            info = dict(
                line.split(": ", 1)
                for line in ask(edge.files.runtime_socket, "show info").split("\n")
                if line
            )
            # HAProxy does not load what it counts more files for than it may have open.
            assert int(info["Maxsock"]) <= MIN_FILES
            taken.append(edge.control.statistics().whole.max_connections)
    finally:
        edge.stop()
    assert taken == sorted(taken, reverse=True)
    assert taken[0] > taken[-1] > 512


def test_as_many_models_are_taken_as_the_open_files_allow_and_more_change_nothing(
    tmp_path: Path, workers: Workers
) -> None:
    bounds = edge_bounds(2600)
    most = bounds.max_checks
    edge = RunningEdge(tmp_path, bounds=bounds)
    first, second = workers.start("v1"), workers.start("v1")

    def table(models: int, *servers: Server) -> RoutingTable:
        backends = [Backend(f"m{number}.v1", ("v1",), servers) for number in range(models)]
        return RoutingTable(tuple(Route(f"m{n}", backend) for n, backend in enumerate(backends)))

    try:
        # One after the other, as they get ready.
        for models in (2, 130, 300, most - 1, most):
            edge.control.apply(table(models, first))
            assert edge.get(f"/v2/models/m{models - 1}/infer")[0] == 200
        before = {
            path: path.read_bytes() for path in (edge.files.config, edge.files.routes, edge.files.slots)
        }
        for too_many in (table(most + 1, first), table(most // 2 + 1, first, second)):
            with pytest.raises(EdgeError, match="raise the limit"):
                edge.control.apply(too_many)
            assert all(path.read_bytes() == content for path, content in before.items())
            assert edge.get(f"/v2/models/m{most - 1}/infer")[0] == 200
        # A worker takes the place of another, and with fewer models each may have two.
        edge.control.apply(table(most, second))
        edge.control.apply(table(most // 2, first, second))
        assert edge.get("/v2/models/m1/infer")[0] == 200
        # Those that stay have the second server of their slots, until the first is needed.
        edge.control.apply(table(most // 2, second))
        edge.control.apply(table(most, second))
        assert edge.get(f"/v2/models/m{most - 1}/infer")[0] == 200
    finally:
        edge.stop()


def test_a_killed_worker_costs_no_call(edge: RunningEdge, workers: Workers) -> None:
    servers = [workers.start("v1"), workers.start("v1")]
    edge.control.apply(RoutingTable((Route("iris", backend("v1", *servers)),)))
    with Load(f"{edge.url}/v2/models/iris/infer", clients=8) as load:
        load.wait_for("v1")
        for _ in range(3):
            time.sleep(0.5)
            workers.kill(servers.pop(0))
            time.sleep(0.5)
            servers.append(workers.start("v1"))
            edge.control.apply(RoutingTable((Route("iris", backend("v1", *servers)),)))
    assert load.failures == {}
    assert load.outcomes["200"] > 100


@pytest.mark.parametrize("size", [10, 300_000])
def test_a_client_that_hangs_up_leaves_its_worker(edge: RunningEdge, workers: Workers, size: int) -> None:
    edge.control.apply(RoutingTable((Route("iris", backend("v1", workers.start("v1"))),)))

    def wait_for_calls_inside(expected: bytes) -> None:
        wait(lambda: edge.get("/v2/models/iris/infer?inside")[2] == expected, seconds=5)

    head = f"POST /v2/models/iris/infer?hold HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
    clients = [socket.create_connection(("127.0.0.1", edge.port)) for _ in range(3)]
    for client in clients:
        client.sendall(head.encode() + bytes(size))
    wait_for_calls_inside(b"3")
    for client in clients:
        client.close()
    wait_for_calls_inside(b"0")


def test_a_killed_haproxy_comes_back_with_its_routes(edge: RunningEdge, workers: Workers) -> None:
    stable, canary = backend("v1", workers.start("v1")), backend("v2", workers.start("v2"))
    edge.control.apply(RoutingTable((Route("iris", stable, canary, 100),)))
    os.kill(edge.master_pid(), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError, urllib.error.URLError):
            status, headers, _ = edge.get("/v2/models/iris/infer")
            assert (status, headers["ModelKit-Version"]) == (200, "v2")
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    while True:
        with contextlib.suppress(EdgeError):
            edge.control.apply(RoutingTable((Route("iris", stable),)))
            break
        assert time.monotonic() < deadline
    assert edge.get("/v2/models/iris/infer")[1]["ModelKit-Version"] == "v1"


def test_an_edge_that_is_stopped_while_its_haproxy_is_down_starts_none(
    edge: RunningEdge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.kill(edge.master_pid(), signal.SIGKILL)
    wait(lambda: "HAProxy ended with" in caplog.text)
    edge.process.stop()
    time.sleep(1)
    wait(lambda: not processes_of(tmp_path))


def test_a_haproxy_that_dies_again_and_again_is_given_up(
    edge: RunningEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.edge.process._MAX_PAUSE_SECONDS", 0.05)
    edge.files.config.write_text("this is no configuration\n")
    os.kill(edge.master_pid(), signal.SIGKILL)
    wait(lambda: bool(edge.lost), seconds=30)
    (error,) = edge.lost
    assert "HAProxy died 11 times within a minute" in str(error)
    edge.lost.clear()


def test_an_outage_is_a_few_lines_of_the_log_and_each_is_json(
    tmp_path: Path, workers: Workers, capfd: pytest.CaptureFixture[str]
) -> None:
    edge = RunningEdge(tmp_path, access_log="errors")
    try:
        worker = workers.start("v1")
        edge.control.apply(RoutingTable((Route("iris", backend("v1", worker)),)))
        assert edge.get("/v2/models/iris/infer")[0] == 200
        workers.kill(worker)
        for _ in range(300):
            assert edge.get("/v2/models/iris/infer")[0] == 503
        # Longer than HAProxy's lines by default, and full of what JSON escapes.
        path = "/v2/models/other/infer?" + '"' * 1500
        assert edge.get(path, {"X-Request-Id": '"' * 128})[0] == 404
        edge.control.apply(RoutingTable((Route("other", backend("v1", worker)),)))
        assert edge.get(path, {"X-Request-Id": '"' * 128})[0] == 503
        time.sleep(0.2)
        shown_info = ask(edge.files.runtime_socket, "show info").splitlines()
        # What two of its threads would write at once.
        (dropped,) = (int(line.split()[1]) for line in shown_info if line.startswith("DroppedLogs:"))
    finally:
        edge.stop()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    shown = [line for line in lines if line["event"] == "access"]
    omitted = [line for line in lines if line["event"] == "access.omitted"]
    assert {line["status"] for line in shown} == {503}
    assert sum(line["model"] == "iris" for line in shown) < 100
    assert len(shown) + sum(line["lines"] for line in omitted) + dropped == 301
    (other,) = (line for line in shown if line["model"] == "other")
    assert (other["request_id"], other["level"], other["process"]) == ('"' * 128, "warning", "edge")
    assert path.startswith(other["path"])
    assert all({"time", "level", "process", "event"} <= line.keys() for line in lines)
    assert all(line["time"].endswith("+00:00") for line in lines)


def processes_of(directory: Path) -> list[int]:
    """Return the processes with a directory in their command line."""
    processes = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(directory) in file.read_bytes():
                processes.append(int(file.parent.name))
    return processes


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        files = EdgeFiles(tmp_path)
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        EdgeControl(EdgeSettings(address), files).write_first(RoutingTable())
        with pytest.raises(EdgeError, match="in use"):
            EdgeProcess(files, lambda _: None).start()


def test_the_access_log_says_which_calls_chance_placed(
    tmp_path: Path, workers: Workers, capfd: pytest.CaptureFixture[str]
) -> None:
    edge = RunningEdge(tmp_path, access_log="all")
    try:
        stable, canary = (backend(version, workers.start(version)) for version in ("v1", "v2"))
        edge.control.apply(RoutingTable((Route("iris", stable, canary, 50),)))
        for path in ("/v2/models/iris/infer", "/v2/models/iris/versions/v2/infer"):
            for _ in range(20):
                assert edge.get(path)[0] == 200
    finally:
        edge.stop()
    lines = [line for line in capfd.readouterr().err.splitlines() if '"event":"access"' in line]
    records = list(Converter("iris").convert(line.encode() for line in lines))
    assert sum(record["weighted"] for record in records) == 20
    assert {record["version"] for record in records if record["weighted"]} == {"stable", "canary"}
    assert {record["version"] for record in records if not record["weighted"]} == {"canary"}
    assert all(abs(record["time"] - time.time()) < 60 for record in records)
    assert len({record["time"] for record in records}) > 20, "times are finer than seconds"

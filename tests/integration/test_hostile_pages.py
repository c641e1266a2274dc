"""Pages in the browser of whoever runs Kitserve: names that lead to this machine, and pages that post."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from gateway.edge.access import Access
from gateway.edge.routes import Route, RoutingTable
from tests.support.edge import RunningEdge, Workers, backend

INFER = "/v2/models/iris/infer"
APP = "https://app.example.com"


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    workers.stop()


def _running(directory: Path, workers: Workers, access: Access) -> Iterator[RunningEdge]:
    running = RunningEdge(directory, access=access)
    running.control.apply(RoutingTable((Route("iris", backend("v1", workers.start("v1"))),)))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory, workers: Workers) -> Iterator[RunningEdge]:
    yield from _running(tmp_path_factory.mktemp("default"), workers, Access())


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, workers: Workers) -> Iterator[RunningEdge]:
    access = Access(hosts=("models.example.com", "*.lab.example.com"), origins=(APP,))
    yield from _running(tmp_path_factory.mktemp("opened"), workers, access)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example:8080",
        "localhost.evil.example",
        "notlocalhost",
        "10.0.0.1",
        "[::2]:80",
    ],
)
def test_a_name_that_leads_here_is_not_answered_to(default: RunningEdge, host: str) -> None:
    for path in ("/v2", "/v2/health/live", INFER, "/docs"):
        status, _, body = default.get(path, {"Host": host})
        assert (status, json.loads(body)["error"]) == (
            403,
            "this host name is not answered to; the config lists others in allowed_hosts",
        ), path
    status, _, body = default.get("/v1/models", {"Host": host})
    assert (status, json.loads(body)["error"]["type"]) == (403, "permission_error")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1:9", "127.0.0.53", "[::1]:8080", "iris.localhost:8080"]
)
def test_names_of_this_machine_are_answered_to(default: RunningEdge, host: str) -> None:
    assert default.get(INFER, {"Host": host})[0] == 200


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost:3000",
        "http://127.0.0.1",
        "file://",
        "http://evil@127.0.0.1",
    ],
)
def test_a_page_of_elsewhere_may_not_post(default: RunningEdge, origin: str) -> None:
    for method, headers in (
        ("POST", {"Origin": origin, "Content-Type": "text/plain"}),
        ("OPTIONS", {"Origin": origin, "Access-Control-Request-Method": "POST"}),
        ("GET", {"Origin": origin}),
    ):
        status, answered, body = default.get(INFER, headers, method)
        assert status == 403, method
        assert "allowed_origins" in json.loads(body)["error"]
        assert answered["Access-Control-Allow-Origin"] is None


def test_our_own_page_may_post(default: RunningEdge) -> None:
    for name in ("127.0.0.1", "localhost"):
        host = f"{name}:{default.port}"
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert default.get(INFER, headers, "POST")[0] == 200
    # The same page under a name that leads here is one of elsewhere.
    headers = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert default.get(INFER, headers, "POST")[0] == 403


def test_a_program_may_leave_the_host_out(default: RunningEdge) -> None:
    command = ["curl", "-s", "--http1.0", "-H", "Host:", f"{default.url}/v2/health/live"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == '{"live":true}'


def test_grpc_is_told_so_too(default: RunningEdge) -> None:
    options = [("grpc.default_authority", "evil.example")]
    with grpc.insecure_channel(f"127.0.0.1:{default.port}", options) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        with pytest.raises(grpc.RpcError) as error:
            call(b"", timeout=5)
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "allowed_hosts" in error.value.details()


def test_a_page_that_the_config_lists_may_call(opened: RunningEdge) -> None:
    preflight = {
        "Origin": APP,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    status, headers, body = opened.get(INFER, preflight, "OPTIONS")
    assert (status, body) == (204, b"")
    assert headers["Access-Control-Allow-Origin"] == APP
    assert headers["Access-Control-Allow-Headers"] == "authorization, content-type"
    assert "POST" in headers["Access-Control-Allow-Methods"]
    for path, expected in ((INFER, 200), ("/v2/models/none/infer", 404)):
        status, headers, _ = opened.get(path, {"Origin": APP}, "POST")
        assert (status, headers["Access-Control-Allow-Origin"], headers["Vary"]) == (expected, APP, "Origin")
        assert "ModelKit-Version" in headers["Access-Control-Expose-Headers"]
    for origin in ("https://app.example.com.evil.example", "http://app.example.com", f"{APP}:8443"):
        assert opened.get(INFER, {"Origin": origin}, "POST")[0] == 403
    assert opened.get(INFER)[1]["Access-Control-Allow-Origin"] is None


def test_hosts_that_the_config_lists_are_answered_to(opened: RunningEdge) -> None:
    for host, expected in [
        ("models.example.com", 200),
        ("Models.Example.Com:443", 200),
        ("a.lab.example.com", 200),
        ("lab.example.com", 403),
        ("evillab.example.com", 403),
        ("other.example.com", 403),
        ("localhost", 200),
    ]:
        assert opened.get(INFER, {"Host": host})[0] == expected, host


def test_beyond_loopback_any_name_leads_here() -> None:
    for listen in ("0.0.0.0:8080", "192.0.2.1:8080", "[::]:8080"):
        assert not Access().checks_hosts(listen)
        assert not Access().checks_origins(listen)
        assert Access(hosts=("a.example.com",)).checks_hosts(listen)
    for listen in (
        "127.0.0.1:8080",
        "localhost:8080",
        "[::1]:8080",
        "127.0.0.2:8080",
        "127.1:8080",
        "[::ffff:127.0.0.1]:8080",
    ):
        assert Access().checks_hosts(listen)
        assert Access().checks_origins(listen)

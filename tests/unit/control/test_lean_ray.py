"""The parts of Ray that are left out on one machine, and that what is private of it is as expected."""

from __future__ import annotations

import inspect
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ray import _raylet
from ray._private import node, services

from gateway.control.loop import lean_ray
from gateway.control.loop.fork_server_process import PLAIN_VARIABLE, ForkServer, is_wanted
from gateway.control.loop.lean_ray import lean, raylet_command, unexpected

WORKER = "python /ray/setup_worker.py /ray/default_worker.py --a RAY_WORKER_DYNAMIC_OPTION_PLACEHOLDER"
COMMAND = [
    "raylet",
    f"--node_id={'ab' * 28}",
    f"--python_worker_command={WORKER}",
    "--dashboard_agent_command=python agent.py",
    "--runtime_env_agent_command=python main.py",
]


class Told:
    """A fork server that is not started, and what it is told."""

    def __init__(self) -> None:
        self.path = Path("/run/fork.sock")
        self.raylets: list[int] = []

    def serve(self, raylet: int) -> None:
        self.raylets.append(raylet)

    def wait(self) -> None:
        self.raylets.append(0)


def test_what_is_private_of_ray_is_as_expected() -> None:
    assert unexpected() == ""
    head = inspect.getsource(node.Node.start_head_processes)
    assert "self.start_monitor()" in head
    assert "self.start_api_server(" in head
    assert "self.start_log_monitor()" in inspect.getsource(node.Node.start_ray_processes)
    assert "webui=self._webui_url" in inspect.getsource(node.Node.start_raylet)
    source = inspect.getsource(services.start_raylet)
    for text in (
        "process_info = start_ray_process(",
        'f"--session_dir={session_dir}"',
        'f"--node_id={node_id}"',
        'f"--python_worker_command={subprocess.list2cmdline(start_worker_command)}"',
        '"--dashboard_agent_command={}"',
        '"--runtime_env_agent_command={}"',
        "setup_worker_path,",
    ):
        assert text in source, text


def test_the_raylet_gets_no_agents_and_asks_for_its_processes(tmp_path: Path) -> None:
    command = [*COMMAND, f"--session_dir={tmp_path}"]
    changed = raylet_command(command, Path("/run/fork.sock"))
    assert [word for word in changed if "_agent_command=" in word] == [
        "--dashboard_agent_command=sh -c cat",
        "--runtime_env_agent_command=sh -c cat",
    ]
    (worker,) = (word for word in changed if word.startswith("--python_worker_command="))
    assert worker.endswith(f"fork_request.py /run/fork.sock {WORKER}")
    assert changed[:2] == COMMAND[:2]
    assert sorted(file.read_text() for file in tmp_path.iterdir()) == ["-1", "-1", "-1", "1"]


def test_a_raylet_that_is_started_in_another_way_is_left_alone(tmp_path: Path) -> None:
    command = [*COMMAND[:-1], f"--session_dir={tmp_path}"]
    assert raylet_command(command, Path("/run/fork.sock")) == command
    assert list(tmp_path.iterdir()) == []


def test_parts_of_ray_are_replaced_within_the_block_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[list[str], str]] = []
    fork_server: Any = Told()

    def start_ray_process(command: list[str], process_type: str, **_options: Any) -> Any:
        calls.append((command, process_type))
        return type("Info", (), {"process": type("Process", (), {"pid": 7})})

    monkeypatch.setattr(services, "start_ray_process", start_ray_process)
    before = {name: getattr(node.Node, name) for name in lean_ray._STARTS}
    with lean(fork_server):
        head: Any = node.Node.__new__(node.Node)
        head.start_monitor()
        head.start_log_monitor()
        head.start_api_server(include_dashboard=False, raise_on_failure=False)
        assert head.webui_url == ""
        services.start_ray_process(["gcs"], "gcs_server", fate_share=True)
        services.start_ray_process([*COMMAND, f"--session_dir={tmp_path}"], "raylet", fate_share=True)
    assert fork_server.raylets == [7, 0], "told, and then waited for"
    assert [process_type for _, process_type in calls] == ["gcs_server", "raylet"]
    assert "--dashboard_agent_command=sh -c cat" in calls[1][0]
    assert {name: getattr(node.Node, name) for name in before} == before
    assert services.start_ray_process is start_ray_process


def test_the_environment_has_ray_start_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PLAIN_VARIABLE, raising=False)
    assert is_wanted()
    for value, wanted in (("", True), ("0", True), ("1", False), ("yes", False)):
        monkeypatch.setenv(PLAIN_VARIABLE, value)
        assert is_wanted() is wanted


def test_a_fork_server_without_a_raylet_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It imports nothing from where it was started.
    (tmp_path / "fastapi.py").write_text("print('hostile', flush=True)")
    monkeypatch.chdir(tmp_path)
    fork_server = ForkServer(tmp_path)
    assert fork_server.path.is_socket()
    # SIGINT at a terminal is for `kitserve serve` alone, also while Python starts.
    status = Path(f"/proc/{fork_server._process.pid}/status").read_text()
    assert int(status.partition("SigBlk:")[2].split()[0], 16) & 1 << (signal.SIGINT - 1)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    fork_server.close()
    assert fork_server._process.wait(30) == 0
    assert (tmp_path / "fork.log").read_text() == ""


def test_where_ray_is_not_as_expected_it_starts_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fork_server: Any = Told()
    monkeypatch.setattr(node.Node, "start_monitor", lambda self, address: None)
    assert unexpected() == "ray._private.node.Node.start_monitor"
    before = node.Node.start_log_monitor
    with lean(fork_server):
        assert node.Node.start_log_monitor is before
    assert caplog.messages == ["ray.unexpected"]
    monkeypatch.undo()
    monkeypatch.delattr(_raylet, "RUNTIME_ENV_AGENT_PORT_NAME")
    assert unexpected() == "ray._raylet.RUNTIME_ENV_AGENT_PORT_NAME"


def test_what_stands_for_an_agent_ends_with_its_pipe_and_takes_arguments() -> None:
    command = [*lean_ray._NO_AGENT.split(), "--disable-metrics-collection"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as agent:
        with pytest.raises(subprocess.TimeoutExpired):
            agent.wait(0.2)
        assert agent.stdin is not None
        agent.stdin.close()
        assert agent.wait(10) == 0

"""Ray is looked after: processes that have the names of Ray's, and a Ray that fails when it is told to."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.control_plane import ControlPlane
from gateway.cli.supervision import RayProcesses, Supervision, config_in_force
from gateway.config.config import GatewayConfig
from gateway.control.state.database import STATE_FILE, State
from gateway.control.state.desired import desired_from
from gateway.errors import ControlError
from tests.support.clock import Clock
from tests.support.waiting import wait


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ray(tmp_path: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Processes with the names of Ray's, and one that is not needed."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    processes = {}
    for name in ("raylet", "gcs_server", "log_monitor"):
        shutil.copy(sleep, tmp_path / name)
        processes[name] = subprocess.Popen([tmp_path / name, "60"])
    yield processes
    for process in processes.values():
        process.kill()
        process.wait()


def watch(ray: dict[str, subprocess.Popen[bytes]], clock: Clock) -> RayProcesses:
    """Begin to watch, once each process has its own name."""
    names = {Path(f"/proc/{process.pid}/comm") for process in ray.values()}
    wait(lambda: all(name.read_text().strip() in ray for name in names))
    return RayProcesses(clock)


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_process_that_ray_needs_and_that_died_is_named(
    ray: dict[str, subprocess.Popen[bytes]], clock: Clock, name: str
) -> None:
    processes = watch(ray, clock)
    assert processes.failure() == ""
    ray[name].kill()
    # Also as a zombie, of which nobody has taken leave.
    wait(lambda: processes.failure() != "")
    assert processes.failure() == f"Ray's {name} (process {ray[name].pid}) died"
    ray[name].wait()
    assert processes.failure() == f"Ray's {name} (process {ray[name].pid}) died"


def test_a_process_that_ray_can_do_without_may_die(
    ray: dict[str, subprocess.Popen[bytes]], clock: Clock
) -> None:
    processes = watch(ray, clock)
    ray["log_monitor"].kill()
    ray["log_monitor"].wait()
    assert processes.failure() == ""


def test_a_process_that_is_stopped_for_long_counts_as_dead_and_one_that_goes_on_does_not(
    ray: dict[str, subprocess.Popen[bytes]], clock: Clock
) -> None:
    processes = watch(ray, clock)
    process = ray["raylet"].pid
    os.kill(process, signal.SIGSTOP)
    wait(lambda: Path(f"/proc/{process}/stat").read_text().split()[2] == "T")
    assert processes.failure() == ""
    clock.now += 5.0
    os.kill(process, signal.SIGCONT)
    wait(lambda: Path(f"/proc/{process}/stat").read_text().split()[2] != "T")
    assert processes.failure() == ""
    os.kill(process, signal.SIGSTOP)
    wait(lambda: Path(f"/proc/{process}/stat").read_text().split()[2] == "T")
    clock.now += 5.0
    assert processes.failure() == ""
    clock.now += 8.0
    assert processes.failure() == (
        f"Ray's raylet (process {process}) was stopped, and has not gone on for 8 s"
    )
    processes.end_stopped()
    assert ray["raylet"].wait(5) == -signal.SIGKILL
    assert ray["gcs_server"].poll() is None
    assert processes.failure() == f"Ray's raylet (process {process}) died"


class Ray:
    """A Ray that fails when it is told to."""

    def __init__(self) -> None:
        self.failure_: str = ""
        self.done: list[str] = []
        self.error: ControlError | None = None

    def failure(self) -> str:
        return self.failure_

    def end_stopped(self) -> None:
        self.done.append("end stopped")

    def start(self) -> None:
        self.done.append("start")
        if self.error is not None:
            raise self.error
        self.failure_ = ""

    def stop(self) -> None:
        self.done.append("stop")


class Machine:
    """A Ray under supervision, and what people are told."""

    def __init__(self, clock: Clock) -> None:
        self.ray = Ray()
        self.said: list[str] = []
        ray: Any = self.ray
        self.supervision = Supervision(ray.start, ray.stop, self.said.append, lambda: ray, clock)

    def fail(self) -> None:
        self.ray.failure_ = "Ray's raylet (process 7) died"
        self.supervision.check()


def test_where_all_run_nothing_is_done(clock: Clock) -> None:
    machine = Machine(clock)
    machine.supervision.check()
    assert (machine.ray.done, machine.said) == ([], [])


def test_what_died_is_named_and_ray_is_ended_and_started_again(clock: Clock) -> None:
    machine = Machine(clock)
    machine.fail()
    assert machine.ray.done == ["end stopped", "stop", "start"]
    assert machine.said == [
        "Ray's raylet (process 7) died: Ray, the gateway and all workers are started again",
        "Ray runs again",
    ]
    machine.supervision.check()
    assert machine.ray.done == ["end stopped", "stop", "start"]


def test_a_ray_that_cannot_be_started_again_ends_kitserve_with_one_sentence(clock: Clock) -> None:
    machine = Machine(clock)
    machine.ray.error = ControlError("no memory")
    message = r"Ray's raylet \(process 7\) died, and could not be started again: no memory"
    with pytest.raises(ControlError, match=message):
        machine.fail()
    assert machine.ray.done == ["end stopped", "stop", "start"] * 3
    assert machine.said[1:] == ["that failed, and is tried once more: no memory"] * 2


def test_a_ray_that_dies_again_and_again_is_given_up_but_not_one_that_dies_now_and_then(
    clock: Clock,
) -> None:
    machine = Machine(clock)
    for _ in range(10):
        machine.fail()
        clock.now += 201.0
    for _ in range(1):
        clock.now += 601.0
        machine.fail()
    for _ in range(2):
        clock.now += 10.0
        machine.fail()
    with pytest.raises(ControlError, match="Ray failed 4 times within 10 minutes; see whether"):
        machine.fail()


def test_the_config_that_was_applied_last_is_the_one_that_holds(tmp_path: Path) -> None:
    default = GatewayConfig()
    assert config_in_force(tmp_path, default) is default
    kit = "oci-layout:/kits:iris:v1"
    applied = GatewayConfig.model_validate({"models": [{"name": "iris", "kit": kit}]})
    state = State(tmp_path / STATE_FILE)
    state.apply(desired_from(applied), applied.model_dump_json())
    state.close()
    assert config_in_force(tmp_path, default) == applied
    (tmp_path / STATE_FILE).write_bytes(b"no database")
    assert config_in_force(tmp_path, default) is default


def test_a_process_that_dies_while_ray_starts_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli.control_plane.prepare", lambda _address: None)
    monkeypatch.setattr("gateway.cli.control_plane._LOOK_SECONDS", 0.1)
    sleep = shutil.which("sleep")
    assert sleep is not None
    shutil.copy(sleep, tmp_path / "raylet")
    ended = threading.Event()

    class HangingStart(ControlPlane):
        def _start(self) -> None:
            with subprocess.Popen([tmp_path / "raylet", "0.6"]):
                ended.wait()

    plane: Any = HangingStart("cluster", tmp_path, None, None, None, bool)  # type: ignore[arg-type]  # not used
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    message = r"raylet \(process \d+\) died while Ray was being started"
    try:
        for _ in range(2):
            # Another start would hang beside the first.
            with pytest.raises(ControlError, match=message):
                plane.start(print)
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)

"""Versions that are bad in every way: the rollout of each is stopped, with the reason."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import torch

from gateway.control.admin.host_paths import without_paths
from gateway.edge.haproxy import ask
from gateway.errors import EdgeError
from tests.support.artifacts import LayoutBuilder, tar
from tests.support.kitserve import Running
from tests.support.load import Load
from tests.support.model_files import chunk, node, number, onnx_model, save_script, value_info

INT64, FP32 = 7, 1
SIZE = 256
ABORT_SECONDS = 0.1
pytestmark = pytest.mark.soak
LEAK_BYTES = 1 << 20
CALLS_UNTIL_DEATH = 100
ROLLOUT: dict[str, Any] = {
    "steps": [{"weight": 50, "for": "10m"}],
    "checks": {"max_error_rate": 0.01, "max_latency_ratio": 1.5, "min_requests": 20},
    "allow_signature_change": True,
    "scale_down_delay": "2s",
    "max_restarts": 2,
}


def initializer(name: str, shape: tuple[int, ...], value: float) -> bytes:
    """Return an FP32 constant whose elements are all `value`."""
    array = torch.full(shape, value, dtype=torch.float32).numpy()
    return (
        b"".join(number(1, size) for size in shape)
        + number(2, FP32)
        + chunk(8, name)
        + chunk(9, array.tobytes())
    )


def integer(name: str, value: int) -> bytes:
    """Return an attribute of an operator."""
    return chunk(5, chunk(1, name) + number(3, value) + number(20, 2))


def lookup(entries: int) -> bytes:
    """Return a model that takes numbers below `entries`, and fails for others."""
    return onnx_model(
        [
            node("Cast", ["x"], ["index"], attributes=integer("to", INT64)),
            node("Gather", ["table", "index"], ["y"]),
        ],
        [value_info("x", FP32, ("n",))],
        [value_info("y", FP32, ("n",))],
        [initializer("table", (entries,), 1.0)],
    )


def busy(products: int) -> bytes:
    """Return a model that multiplies large matrices `products` times before it answers."""
    steps = [node("Mul", ["large", "x"], ["m0"])]
    steps += [node("MatMul", [f"m{n}", f"m{n}"], [f"m{n + 1}"]) for n in range(products)]
    steps += [
        node("ReduceSum", [f"m{products}"], ["sum"], attributes=integer("keepdims", 0)),
        node("Add", ["x", "sum"], ["y"]),
    ]
    return onnx_model(
        steps,
        [value_info("x", FP32, ("n",))],
        [value_info("y", FP32, ("n",))],
        [initializer("large", (SIZE, SIZE), 0.0)],
    )


class Leak(torch.nn.Module):
    """A model that keeps one more MiB after each call."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Any = torch.jit.Attribute([], list[torch.Tensor])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        # Made of the input: a constant would be made once, and be the same each time.
        self.kept.append(x[0].repeat(1 << 18))
        return {"y": x + self.kept[-1][0]}


def unknown_operator() -> bytes:
    """Return a model that no runtime can load."""
    return onnx_model(
        [node("NoSuchOperator", ["x"], ["y"])],
        [value_info("x", FP32, ("n",))],
        [value_info("y", FP32, ("n",))],
    )


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of kits whose tags say what is wrong with them; `good`, `other` and `quick` are sound."""
    directory = tmp_path_factory.mktemp("kits")
    builder = LayoutBuilder(directory / "layout")
    models = {
        "good": lookup(20),
        "other": lookup(21),
        "errors": lookup(19),
        "quick": busy(4),
        "slow": busy(14),
        "unloadable": unknown_operator(),
    }
    for tag, data in models.items():
        builder.kit(f"test/bad:{tag}", tar(("model", None), ("model/model.onnx", data)))
    leak = save_script(Leak(), directory / "leak.pt").read_bytes()
    builder.kit("test/bad:leak", tar(("model", None), ("model/model.pt", leak)))
    return f"oci-layout:{builder.directory}:test/bad"


def call(value: int) -> bytes:
    return b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[%d]}]}' % value


CALLS = [call(value) for value in range(20)]


class EdgeWatch:
    """A thread that watches which percent of a model's calls the edge gives to the canary."""

    def __init__(self, kitserve: Running, model: str) -> None:
        files = kitserve.edge()
        self._command, self._key = f"show map {files.routes}", f"{model}:weight"
        self._socket = files.runtime_socket
        self._stop = threading.Event()
        self.changes: list[tuple[float, int]] = []
        """Each change: when, in seconds since 1970, and the percent from then on."""
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(EdgeError):
                answer = ask(self._socket, self._command)
                percent = int(answer.partition(f" {self._key} ")[2].partition("\n")[0] or 0)
                if not self.changes or self.changes[-1][1] != percent:
                    self.changes.append((time.time(), percent))
            time.sleep(0.002)


@contextmanager
def on_trial(
    kitserve: Running, name: str, kits: str, stable: str, canary: str, **rollout: object
) -> Iterator[Load]:
    """Call a model while another version is its canary; `rollout` replaces fields of `ROLLOUT`."""
    kitserve.models = {name: {"kit": f"{kits}:{stable}", "rollout": ROLLOUT | rollout}}
    kitserve.apply()
    kitserve.wait_for_rollout(name)
    with Load(f"{kitserve.url}/v2/models/{name}/infer", CALLS, pause=0.002) as load:
        load.wait_for(stable)
        kitserve.models[name]["kit"] = f"{kits}:{canary}"
        kitserve.apply(check=False)
        yield load


def ended(kitserve: Running, name: str, reason: str, seconds: float = 90) -> dict[str, Any]:
    """Wait for the end of the rollout. Return its last event."""
    shown = kitserve.wait_for_rollout(name, seconds, phase="Degraded", reason=reason, weight=0)
    address = f"http://{kitserve.admin}/api/models/{name}/rollout/history"
    event: dict[str, Any] = requests.get(address, timeout=10).json()["events"][0]
    # Over TCP it is without the paths of this machine.
    assert (event["reason"], event["message"]) == (reason, without_paths(shown["message"]))
    return event


def assert_edge_followed(watch: EdgeWatch, event: Mapping[str, Any]) -> None:
    """Check that the edge gave the canary half of the calls, and none right after the event that ended it."""
    assert [percent for _, percent in watch.changes] == [0, 50, 0]
    seconds = watch.changes[-1][0] - event["time"]
    print(f"{event['reason']}: edge at 0 after {seconds * 1000:.0f} ms")
    assert seconds < ABORT_SECONDS


def assert_no_more_calls(load: Load, version: str) -> int:
    """Check that the version answers no more calls. Return how many it answered."""
    time.sleep(0.3)
    answered = load.versions[version]
    time.sleep(0.5)
    assert load.versions[version] == answered
    return answered


@pytest.mark.parametrize(
    ("stable", "canary", "check"), [("good", "errors", "error_rate"), ("quick", "slow", "latency")]
)
def test_errors_and_slowness_are_stopped_by_what_was_seen(
    kitserve: Running, kits: str, stable: str, canary: str, check: str
) -> None:
    name = f"bad-{canary}"
    watch = EdgeWatch(kitserve, name)
    with on_trial(kitserve, name, kits, stable, canary) as load:
        event = ended(kitserve, name, "AnalysisFailed")
        answered = assert_no_more_calls(load, canary)
        watch.stop()
    (verdict,) = (verdict for verdict in event["verdicts"] if verdict["check"] == check)
    assert verdict["outcome"] == "Failed"
    print(f"{canary}: {event['message']}; answered {answered} calls")
    assert_edge_followed(watch, event)
    assert 0 < verdict["numbers"]["canary_calls"] <= answered
    if check == "latency":
        assert load.failures == {}
    else:
        assert load.failures
    for outcome in load.failures:
        assert outcome.startswith("500 ")
        assert "while running Gather node" in outcome, "no failure but the model's own"


def test_an_abort_is_at_the_edge_at_once(kitserve: Running, kits: str) -> None:
    watch = EdgeWatch(kitserve, "aborted")
    with on_trial(kitserve, "aborted", kits, "good", "other") as load:
        kitserve.wait_for_rollout("aborted", step=1)
        load.wait_for("other")
        kitserve.run("rollout", "abort", "aborted", "--admin", kitserve.admin)
        event = ended(kitserve, "aborted", "RolloutAborted")
        assert_no_more_calls(load, "other")
        watch.stop()
    assert_edge_followed(watch, event)
    assert load.failures == {}


def test_a_gateway_that_is_started_again_aborts_before_it_knows_its_workers(
    kitserve: Running, kits: str
) -> None:
    watch = EdgeWatch(kitserve, "again")
    with on_trial(kitserve, "again", kits, "good", "other") as load:
        kitserve.wait_for_rollout("again", step=1)
        load.wait_for("other")
        (gateway,) = kitserve.gateway()
        os.kill(gateway, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while kitserve.gateway() in ([], [gateway]) or not is_up(kitserve):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert requests.get(f"http://{kitserve.admin}/api/status", timeout=5).json()["generation"] == 0
        kitserve.run("rollout", "abort", "again", "--admin", kitserve.admin)
        kitserve.wait(lambda status: status["generation"] > 0)
        event = ended(kitserve, "again", "RolloutAborted")
        assert_no_more_calls(load, "other")
        watch.stop()
    assert_edge_followed(watch, event)
    assert load.failures == {}


def is_up(kitserve: Running) -> bool:
    """Tell whether the gateway answers."""
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"http://{kitserve.admin}/api/status", timeout=5).ok
    return False


def test_a_version_that_runs_out_of_memory_again_and_again_is_stopped(kitserve: Running, kits: str) -> None:
    """The test kills a worker that grows beyond a limit, as the kernel's out-of-memory killer would."""
    done = threading.Event()

    def kill_workers_that_are_too_large() -> None:
        limit = 0
        while not done.wait(0.01):
            sizes = {process: resident(process) for process in kitserve.workers("leaks.leak")}
            if not limit and is_ready():
                limit = max(sizes.values(), default=0) + LEAK_BYTES * CALLS_UNTIL_DEATH
            for process in (process for process, size in sizes.items() if size > limit > 0):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def is_ready() -> bool:
        answer = requests.get(f"http://{kitserve.admin}/api/models/leaks", timeout=10).json()
        return any(version["role"] == "canary" for version in answer.get("versions", ()))

    killer = threading.Thread(target=kill_workers_that_are_too_large, daemon=True)
    killer.start()
    # It is slow after each start too, so latency is not checked: its deaths are to stop it.
    with on_trial(kitserve, "leaks", kits, "good", "leak", checks={"max_error_rate": 0.01}) as load:
        event = ended(kitserve, "leaks", "CanaryLost", 120)
        done.set()
        killer.join()
        answered = assert_no_more_calls(load, "leak")
    print(f"leak: {event['message']}; answered {answered} calls")
    assert "died 3 times" in event["message"]
    assert answered > CALLS_UNTIL_DEATH
    assert load.failures == {}


def resident(process: int) -> int:
    """Return the resident memory of a process in bytes; 0 for a process that is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def test_a_version_that_cannot_be_loaded_gets_no_call(kitserve: Running, kits: str) -> None:
    with on_trial(kitserve, "unloadable", kits, "good", "unloadable") as load:
        event = ended(kitserve, "unloadable", "CanaryFailed")
        assert "NoSuchOperator" in event["message"]
    assert set(load.versions) == {"good"}
    assert load.failures == {}


def test_a_version_whose_process_dies_while_it_loads_gets_no_call(kitserve: Running, kits: str) -> None:
    done = threading.Event()

    def kill_all() -> None:
        while not done.wait(0.01):
            for process in kitserve.workers("dies.quick"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    killer = threading.Thread(target=kill_all, daemon=True)
    killer.start()
    with on_trial(kitserve, "dies", kits, "good", "quick") as load:
        event = ended(kitserve, "dies", "CanaryFailed", 120)
        print(f"dies while it loads: {event['message']}")
        done.set()
        killer.join()
    assert set(load.versions) == {"good"}
    assert load.failures == {}

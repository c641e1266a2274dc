"""Calls and loads that do not end by themselves, on a worker alone: they end all the same."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.engine.first_call import answer_first_call
from gateway.errors import UnusableModel
from gateway.metrics.tally import Tally
from gateway.serving import Batching, QueueLimits
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.hang import HangTimer
from gateway.worker.load_limit import LoadLimit
from gateway.worker.stuck import stuck
from gateway.worker.version import AppOptions, Identity
from runtimes import safetensors_file
from runtimes.base import Array, Resources, Signature, TensorModel, TensorSpec
from runtimes.errors import ExecutionError, InputError, Interrupted, LoadError
from runtimes.memory_errors import is_out_of_memory
from runtimes.onnx import OnnxRuntime
from runtimes.torchscript import TorchScriptRuntime
from tests.support.endless import (
    FOR_A_WHILE,
    FOR_EVER,
    endless_load,
    growing_onnx,
    growing_torchscript,
    looping_onnx,
    looping_torchscript,
)
from tests.support.waiting import wait

LIMIT = 1.0
"""How long a call may compute here."""
SECONDS = 10.0
QUICK_CALLS = 40
"""After so many, an event loop answers calls itself, see `Pace`."""


class Worker:
    """A worker's app and server, and what becomes of it once a call cannot be ended."""

    def __init__(self, model: TensorModel, batching: Batching | None = None, limit: float = LIMIT) -> None:
        limits = QueueLimits(timeout=SECONDS, compute_timeout=limit)
        options = AppOptions(limits=limits, batching=batching)
        self.tally = Tally()
        self.app = build_app(Identity("m", "v1", "sha256:" + "ab" * 32), model, self.tally, options)
        self.server = HttpServer(self.app, "127.0.0.1")
        self.server.start()
        self.reason = ""
        self._watch = threading.Thread(target=self._wait, daemon=True)
        self._watch.start()

    def call(self, rounds: int) -> tuple[int, dict[str, Any]]:
        inputs = [
            {"name": "rounds", "datatype": "INT64", "shape": [1], "data": [rounds]},
            {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.5]},
        ]
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=SECONDS)
        connection.request("POST", "/v2/models/m/infer", json.dumps({"inputs": inputs}))
        answer = connection.getresponse()
        document = json.loads(answer.read())
        connection.close()
        return answer.status, document

    def begun(self, pool: ThreadPoolExecutor, rounds: int) -> Future[tuple[int, dict[str, Any]]]:
        """Send a call in another thread; it is the model's once this returns."""
        call = pool.submit(self.call, rounds)
        wait(lambda: self.tally.ongoing == 1 and not self.app.queued)
        return call

    def given_up(self) -> str:
        """Why the worker is to be killed, "" where it is not."""
        self._watch.join(LIMIT + 3.0)
        return self.reason

    def _wait(self) -> None:
        self.reason = asyncio.run(stuck(self.app, self.server))


@pytest.fixture(scope="module")
def endless_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    path.write_bytes(looping_onnx())
    return path


class TestAnEndlessLoopOfOnnx:
    @pytest.mark.parametrize("quick", [0, QUICK_CALLS], ids=["in the thread", "on the loop"])
    def test_the_call_is_ended_and_the_worker_goes_on(self, endless_onnx: Path, quick: int) -> None:
        worker = Worker(OnnxRuntime().load(endless_onnx, Resources()))
        for _ in range(quick):
            assert worker.call(1)[0] == 200
        began = time.monotonic()
        status, document = worker.call(FOR_EVER)
        assert status == 504
        assert "longer than it may" in document["error"]
        assert LIMIT <= time.monotonic() - began < LIMIT + 2.0
        assert worker.call(3) == (200, worker.call(2)[1])
        assert worker.app.is_alive()
        assert not worker.reason

    def test_who_waits_behind_it_is_answered(self, endless_onnx: Path) -> None:
        worker = Worker(OnnxRuntime().load(endless_onnx, Resources()))
        with ThreadPoolExecutor(2) as pool:
            endless = worker.begun(pool, FOR_EVER)
            assert pool.submit(worker.call, 3).result()[0] == 200
            assert endless.result()[0] == 504

    def test_a_first_call_goes_on_beside_others_and_not_for_ever(self, endless_onnx: Path) -> None:
        model = OnnxRuntime().load(endless_onnx, Resources())
        inputs = {"rounds": np.array([FOR_EVER]), "x": np.ones(1, np.float32)}
        reason = answer_first_call(model, inputs, seconds=0.2, end_seconds=0.5)
        assert reason == "it was not answered within 0.2 s"

        def is_running() -> bool:
            return any(thread.name == "first-call" for thread in threading.enumerate())

        assert is_running()
        wait(lambda: not is_running())


class TestAnEndlessLoopOfTorchScript:
    """PyTorch's interpreter cannot be told to end a run."""

    def test_in_the_thread(self, tmp_path: Path) -> None:
        worker = Worker(TorchScriptRuntime().load(looping_torchscript(tmp_path), Resources()))
        with ThreadPoolExecutor(2) as pool:
            endless = worker.begun(pool, FOR_A_WHILE)
            waiting = pool.submit(worker.call, 1)
            assert endless.result()[0] == 504
            assert waiting.result()[0] == 503
        assert "cannot be ended" in worker.given_up()
        assert not worker.app.is_alive()
        assert worker.call(1)[0] == 503

    def test_on_the_loop(self, tmp_path: Path) -> None:
        worker = Worker(TorchScriptRuntime().load(looping_torchscript(tmp_path), Resources()))
        for _ in range(QUICK_CALLS):
            assert worker.call(1)[0] == 200
        status, document = worker.call(FOR_A_WHILE)
        assert (status, "longer than it may" in document["error"]) == (504, True)
        assert "cannot be ended" in worker.given_up()


class Batched:
    """A model of rows that takes for ever over a row of -1, until it is interrupted.

    Others take until `others_wait` is set.
    """

    signature = Signature(
        (TensorSpec("rounds", "INT64", (-1,)), TensorSpec("x", "FP32", (-1,))),
        (TensorSpec("y", "FP32", (-1,)),),
    )
    platform = "test_batched"
    device = "cpu"

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.others_wait = threading.Event()
        self._interrupted = threading.Event()

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        rounds = inputs["rounds"]
        self.rows.append(len(rounds))
        if self._interrupted.is_set():
            self._interrupted.clear()
            raise Interrupted("late")
        if (rounds < 0).any():
            self._interrupted.wait(SECONDS)
            self._interrupted.clear()
            raise Interrupted("told to end")
        self.others_wait.wait(SECONDS)
        return {"y": inputs["x"]}

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        pass


def test_calls_that_run_together_with_an_endless_one_end_with_it() -> None:
    model = Batched()
    worker = Worker(model, Batching(max_batch_size=8, max_delay=0.1), limit=2.0)
    with ThreadPoolExecutor(4) as pool:
        first = worker.begun(pool, 1)
        others = [pool.submit(worker.call, rounds) for rounds in (1, -1, 1)]
        wait(lambda: worker.app.queued == len(others))
        model.others_wait.set()
        assert first.result()[0] == 200
        assert [other.result()[0] for other in others] == [504, 504, 504]
    assert model.rows == [1, 3]
    assert worker.call(1)[0] == 200


def test_an_interrupt_that_comes_too_late_ends_no_other_call() -> None:
    model = Batched()
    model.others_wait.set()
    worker = Worker(model)
    model.interrupt()
    assert worker.call(1)[0] == 200
    assert model.rows == [1, 1]


class TestWhatKeepsTheInterpreter:
    """C code that never lets other threads of Python run, such as the power of two integers."""

    def test_a_process_that_hangs_ends_and_the_next_one_tells_of_it(self, tmp_path: Path) -> None:
        program = (
            "from pathlib import Path; from gateway.worker.hang import HangTimer; import sys\n"
            "HangTimer(Path(sys.argv[1]), 'app.call').keep(1.0, pause=0.2); import time; time.sleep(2)\n"
            "print('alive', flush=True)\n"
            "9**9**8"
        )
        result = run_python(program, tmp_path)
        assert (result.returncode, result.stdout.strip()) == (1, "alive")
        timer = HangTimer(tmp_path, "app.call")
        assert "line 4 in <module>" in timer.earlier()
        assert timer.earlier() == ""
        assert HangTimer(tmp_path, "app.load").earlier() == ""
        timer.stop()

    def test_what_another_kit_put_in_the_place_of_its_file_is_neither_told_nor_written(
        self, tmp_path: Path
    ) -> None:
        secret, pid, hung = tmp_path / "secret", os.getpid(), tmp_path / "hung"
        secret.write_bytes(b"token")
        hung.mkdir()
        (hung / f"app.call.{pid}").symlink_to(secret)
        (hung / "app.call.999999999").symlink_to(secret)
        os.mkfifo(hung / "app.call.999999998")
        timer = HangTimer(tmp_path, "app.call")
        assert timer.earlier() == ""
        assert [path.name for path in hung.iterdir()] == [f"app.call.{pid}"]
        assert not (hung / f"app.call.{pid}").is_symlink()
        timer.stop()
        assert secret.read_bytes() == b"token"

    def test_an_endless_load_of_torchscript_ends_and_is_not_tried_again(self, tmp_path: Path) -> None:
        path = endless_load(tmp_path)
        program = (
            "from pathlib import Path; import sys\n"
            "from gateway.worker.load_limit import LoadLimit\n"
            "import gateway.worker.load_limit as module; module._GRACE_SECONDS = 0.5\n"
            "from runtimes.base import Resources; from runtimes.torchscript import TorchScriptRuntime\n"
            "import torch\n"
            "with LoadLimit(Path(sys.argv[1]), 'app', 1.0, print).held():\n"
            f"    TorchScriptRuntime().load(Path({str(path)!r}), Resources())\n"
        )
        assert run_python(program, tmp_path).returncode == 1
        failures: list[UnusableModel] = []
        limit = LoadLimit(tmp_path, "app", 1.0, failures.append)
        with pytest.raises(UnusableModel, match=r"did not load within 1 s.*`load_timeout`"), limit.held():
            pytest.fail("it is not to be loaded")
        with limit.held():
            pass
        assert not failures


def test_a_load_that_lets_others_run_is_told_of_at_once(tmp_path: Path) -> None:
    failures: list[UnusableModel] = []
    with LoadLimit(tmp_path, "app", 0.2, failures.append).held():
        time.sleep(0.5)
    assert [str(failure)[:38] for failure in failures] == ["the model did not load within 0.2 s; i"]
    assert not any((tmp_path / "hung").iterdir())


def run_python(program: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, str(home)], capture_output=True, text=True, timeout=60, check=False
    )


class TestMemory:
    """`resources.memory`, in a process of its own, as it bounds the whole process."""

    @pytest.mark.parametrize("engine", ["onnx", "torchscript"])
    def test_a_small_call_that_needs_much_fails_alone(self, tmp_path: Path, engine: str) -> None:
        path = growing_onnx(tmp_path) if engine == "onnx" else growing_torchscript(tmp_path)
        result = run_python(_GROWING_WORKER, path)
        assert result.stdout.split() == ["200", "507", "507", "200", "[2.0,2.0]", "False"], result.stderr

    def test_memory_that_is_lost_bit_by_bit_ends_the_worker_before_it_is_gone(self, tmp_path: Path) -> None:
        result = run_python(_LEAKING_WORKER, tmp_path)
        assert result.stdout.splitlines() == [
            "it has used up the 400 MiB of `resources.memory`; give it more",
            "kit:v1: loaded, the model leaves nothing of the 400 MiB of `resources.memory`; give it more",
        ], result.stderr

    def test_what_a_worker_says(self) -> None:
        texts = {
            "std::bad_alloc": True,
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate": True,
            "Failed to allocate memory for requested buffer of size 2000000000": True,
            "CUDA out of memory. Tried to allocate 2.00 GiB": True,
            "index out of range": False,
        }
        assert {text: is_out_of_memory(ExecutionError(text)) for text in texts} == texts
        assert is_out_of_memory(MemoryError())
        assert not is_out_of_memory(InputError("the text `bad_alloc` of a caller"))


_GROWING_WORKER = """
import sys, http.client, json
from pathlib import Path
from gateway.worker.memory_limit import MemoryLimit
from runtimes.base import Resources
from tests.support.worker import worker
limit = MemoryLimit(700 * 1024**2, False)
path = Path(sys.argv[1])
if path.suffix == ".onnx":
    from runtimes.onnx import OnnxRuntime as Runtime
else:
    from runtimes.torchscript import TorchScriptRuntime as Runtime
model = Runtime().load(path, Resources(memory=700 * 1024**2))
with worker(model) as address:
    for size in (1, 500_000_000, 500_000_000, 2):
        connection = http.client.HTTPConnection(address)
        inputs = [{"name": "n", "datatype": "INT64", "shape": [1], "data": [size]}]
        connection.request("POST", "/v2/models/echo/infer", json.dumps({"inputs": inputs}))
        answer = connection.getresponse()
        text = answer.read()
        print(answer.status)
print(json.dumps(json.loads(text)["outputs"][0]["data"], separators=(",", ":")), limit.is_used_up, flush=True)
"""
_LEAKING_WORKER = """
import asyncio, threading, time
from gateway.errors import UnusableModel
from gateway.worker.memory_limit import MemoryLimit
limit = MemoryLimit(400 * 1024**2, False)
limit.check_loaded("kit:v1")
lost = []
def lose():
    while not limit.is_used_up:
        lost.append(bytearray(1024**2))
        time.sleep(0.001)
threading.Thread(target=lose).start()
print(asyncio.run(limit.used_up()))
lost.append(bytearray(100 * 1024**2))  # of the reserve
try:
    limit.check_loaded("kit:v1")
except UnusableModel as error:
    print(error)
"""


@pytest.mark.parametrize(
    "tensors",
    [
        '{"w":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"w":{"dtype":"F32","shape":[' + ",".join(["9" * 4000] * 2000) + "]}}",
        '{"w":{"dtype":"F32","shape":[' + ",".join(["9"] * 200_000) + "]}}",
    ],
    ids=["depth", "long numbers", "many axes"],
)
def test_headers_of_safetensors_that_take_long_to_read_are_refused(tmp_path: Path, tensors: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(tensors).to_bytes(8, "little") + tensors.encode())
    began = time.monotonic()
    with pytest.raises(LoadError, match="no header of safetensors that can be read"):
        safetensors_file.tensors(path)
    assert time.monotonic() - began < 10.0

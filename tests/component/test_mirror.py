"""Mirroring, from the stable version's server to the canary's: real servers, real models, real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.codec.read_answers import read_answer
from gateway.contract import Mirroring
from gateway.edge.worker_authority import new_worker_tls
from gateway.kits.library import Library
from gateway.kits.model import choose_runtime, load
from gateway.metrics.counts import MirroredCalls
from gateway.metrics.tally import Tally
from gateway.oci.reference import parse_reference
from gateway.rollout.plan import Agreement, Metric
from gateway.wire.headers import PLACED_HEADER
from gateway.wire.server import HttpServer
from gateway.wire.worker_tls import WorkerTls, worker_connection
from gateway.worker.assembly import build_app
from gateway.worker.version import AppOptions, Identity
from runtimes.base import Array, Datatype, LoadedModel, Resources, Signature, TensorSpec
from runtimes.errors import ExecutionError, InputError
from tests.support.ports import free_port
from tests.support.waiting import wait

SECONDS = 10
KEY = "a-secret"
INFER = "/v2/models/iris/infer"
FLOWERS = [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3], [6.9, 3.1, 5.8, 2.1]]


class Serving:
    """A worker's server around a model."""

    def __init__(self, model: LoadedModel, tls: WorkerTls | None = None) -> None:
        self.tally = Tally()
        self._client = None if tls is None else tls.client_context()
        options = AppOptions(edge_key=KEY, tls=self._client)
        self.app = build_app(Identity("iris", "v1", "sha256:12"), model, self.tally, options)
        server = None if tls is None else tls.server_context()
        self.server = HttpServer(self.app, "127.0.0.1", tls=server)
        self.server.start()

    @property
    def address(self) -> tuple[str, int]:
        return self.server.host, self.server.port

    @property
    def mirrored(self) -> MirroredCalls:
        return self.tally.numbers().mirrored

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
        connection = worker_connection(self.address, SECONDS, self._client)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, body, {"Kitserve-Edge": KEY, PLACED_HEADER: "1", **names})
        answer = connection.getresponse()
        result = answer.status, answer.read()
        connection.close()
        return result

    def call(self, number: int = 0, **more: Any) -> None:
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": FLOWERS[number % 3]}
        status, answer = self.post(INFER, json.dumps({"inputs": [tensor], **more}).encode())
        assert status == 200, answer

    def mirror(self, *targets: tuple[str, int], share: float = 1.0, **agreement: Any) -> None:
        self.app.mirror(Mirroring(share, targets, Agreement(**agreement)))

    def wait_for(self, compared: int) -> None:
        wait(lambda: self.mirrored.compared == compared)

    def stop(self) -> None:
        self.app.mirror(None)
        self.server.stop()
        self.app.stop()


class Doing:
    """A model that does what a test says."""

    signature = Signature((TensorSpec("input", "FP32", (-1, 4)),), ())
    platform = "test_doing"
    device = "cpu"

    def __init__(self, work: Callable[[], Mapping[str, Array]]) -> None:
        self._work = work

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        return dict(self._work())

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("library"))


@pytest.fixture
def serve(library: Library, layout: Path) -> Iterator[Callable[[Any], Serving]]:
    """Serves a sample by its tag, or what a function answers."""
    running: list[Serving] = []

    def start(what: Any, tls: WorkerTls | None = None) -> Serving:
        if isinstance(what, str):
            kit = library.open(parse_reference(f"oci-layout:{layout}:samples/iris:{what}"))
            model: LoadedModel = load(kit, choose_runtime(kit, None), Resources())
        else:
            model = Doing(what)
        running.append(Serving(model, tls))
        return running[-1]

    yield start
    for serving in running:
        serving.stop()


def test_the_canary_compares_what_the_stable_version_answered(serve: Callable[[Any], Serving]) -> None:
    stable, good, bad = serve("v1"), serve("v2"), serve("bad")
    for canary, agreeing in ((good, 12), (bad, 0)):
        stable.mirror(canary.address)
        for number in range(12):
            stable.call(number)
        canary.wait_for(12)
        assert canary.mirrored == MirroredCalls(12, agreeing)
    assert stable.mirrored == MirroredCalls()
    assert stable.tally.numbers().requests == {("", 200): 24}
    stable.app.mirror(None)
    stable.call()
    time.sleep(0.1)
    assert bad.mirrored.compared == 12


def test_the_times_of_both_versions_are_counted_without_any_wait(serve: Callable[[Any], Serving]) -> None:
    def answer() -> dict[str, Array]:
        return {"y": np.zeros((1, 1), np.float32)}

    def slow_answer() -> dict[str, Array]:
        time.sleep(0.06)
        return answer()

    stable, canary = serve(answer), serve(slow_answer)
    stable.mirror(canary.address)
    for _ in range(3):
        stable.call()
    canary.wait_for(3)
    paired = canary.tally.numbers().paired
    assert (paired.calls, paired.failed) == (3, 0)
    assert paired.stable.total < 0.06
    # The calls come while the first one is computed.
    assert 0.18 <= paired.canary.total < 0.3

    def fail() -> dict[str, Array]:
        raise ExecutionError("no")

    failing = serve(fail)
    stable.mirror(failing.address)
    stable.call()
    failing.wait_for(1)
    paired = failing.tally.numbers().paired
    assert (paired.calls, paired.failed, paired.canary.observations) == (1, 1, 0)


def test_callers_that_stick_to_a_version_are_told_apart(serve: Callable[[Any], Serving]) -> None:
    stable = serve("v1")
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": FLOWERS[0]}
    for mark in ("-7", "1", "-7", "8"):
        assert stable.post(INFER, json.dumps({"inputs": [tensor]}).encode(), Kitserve_Placed=mark)[0] == 200
    wait(lambda: stable.tally.numbers().evidence.calls == 4)
    assert stable.tally.numbers().bound.calls == 3
    callers = stable.tally.told_windows(0).callers
    assert {caller.caller: caller.calls for caller in callers} == {b"-7": 2, b"8": 1}


def test_raw_tensors_are_mirrored_too(serve: Callable[[Any], Serving]) -> None:
    stable, canary = serve("v1"), serve("v2")
    stable.mirror(canary.address, metric=Metric.PSI)
    rows = np.array(FLOWERS, np.float32)
    tensor = {"name": "input", "datatype": "FP32", "shape": [3, 4]}
    head = json.dumps(
        {
            "inputs": [{**tensor, "parameters": {"binary_data_size": rows.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    status, _ = stable.post(INFER, head + rows.tobytes(), Inference_Header_Content_Length=str(len(head)))
    assert status == 200
    wait(lambda: canary.mirrored.compared == 1)
    assert canary.mirrored.agreeing == 1
    assert canary.mirrored.stable == canary.mirrored.canary == {"0": 1, "1": 1, "2": 1}


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
@pytest.mark.parametrize("is_raw", [False, True], ids=["json", "raw"])
@pytest.mark.parametrize("metric", [Metric.AUTO, Metric.TOLERANCE])
def test_equal_answers_agree_whatever_they_hold(
    serve: Callable[[Any], Serving], datatype: str, is_raw: bool, metric: Metric
) -> None:
    dtype = Datatype(datatype).numpy
    logits = np.array([[np.nan, np.inf, -np.inf, 0.1], [1.0, 2.0, -np.inf, -np.inf]]).astype(dtype)
    scores = np.array([np.nan, -np.inf]).astype(dtype)
    stable, canary = (serve(lambda: {"logits": logits, "scores": scores}) for _ in range(2))
    other = serve(lambda: {"logits": -logits, "scores": scores})
    parameters = {"binary_data_output": is_raw}
    for target, agreeing in ((canary, 3), (other, 0)):
        stable.mirror(target.address, metric=metric)
        for number in range(3):
            stable.call(number, parameters=parameters)
        target.wait_for(3)
        assert target.mirrored == MirroredCalls(3, agreeing)


def test_calls_with_missing_values_are_mirrored(serve: Callable[[Any], Serving]) -> None:
    stable, canary = serve("v1"), serve("v2")
    stable.mirror(canary.address)
    body = b'{"inputs":[{"name":"input","datatype":"FP32","shape":[1,4],"data":[%s,1,null,"Infinity"]}]}'
    for literal in (b"NaN", b"1"):
        status, answer = stable.post(INFER, body % literal)
        assert status == 200, answer
    canary.wait_for(2)
    assert canary.mirrored == MirroredCalls(2, 2)


def test_a_canary_that_fails_agrees_in_nothing(serve: Callable[[Any], Serving]) -> None:
    def fail() -> Mapping[str, Array]:
        raise ExecutionError("no")

    stable, canary = serve("v1"), serve(fail)
    stable.mirror(canary.address)
    stable.call()
    wait(lambda: canary.mirrored.compared == 1)
    assert canary.mirrored == MirroredCalls(1, 0.0, failed=1)


def test_what_is_too_large_is_not_mirrored(serve: Callable[[Any], Serving]) -> None:
    stable = serve(lambda: {"Y": np.zeros(3_000_000, "f4")})
    stable.mirror(serve(lambda: {"Y": np.zeros(1, "f4")}).address)
    stable.call()
    wait(lambda: stable.mirrored.dropped == 1)


def test_classes_are_not_compared(serve: Callable[[Any], Serving]) -> None:
    stable, canary = serve("v1"), serve("v2")
    stable.mirror(canary.address)
    output = {"name": "probabilities", "parameters": {"classification": 1}}
    stable.call(outputs=[output])
    stable.call()
    wait(lambda: canary.mirrored.compared == 1)
    assert canary.mirrored == MirroredCalls(1, 1.0)


def test_no_caller_waits_for_a_canary_that_hangs_or_is_gone(serve: Callable[[Any], Serving]) -> None:
    release = threading.Event()

    def hang() -> Mapping[str, Array]:
        release.wait(SECONDS)
        return {}

    stable, canary = serve("v1"), serve(hang)
    stable.mirror(canary.address)
    began = time.monotonic()
    for number in range(200):
        stable.call(number)
    assert time.monotonic() - began < 5
    assert stable.mirrored.dropped >= 100, "what does not fit is dropped"
    release.set()
    before = stable.mirrored.dropped
    stable.mirror(("127.0.0.1", free_port()))
    stable.call()
    wait(lambda: stable.mirrored.dropped > before)


def test_workers_mirror_to_each_other_over_tls(serve: Callable[..., Serving]) -> None:
    tls = new_worker_tls()
    stable, canary = serve("v1", tls), serve("v2", tls)
    stable.mirror(canary.address)
    for number in range(6):
        stable.call(number)
    canary.wait_for(6)
    # No worker of another start is sent anything, and none that speaks HTTP in clear.
    for stranger in (serve("v2", new_worker_tls()), serve("v2")):
        before = stable.mirrored.dropped
        stable.mirror(stranger.address)
        stable.call()
        wait(lambda before=before: stable.mirrored.dropped > before)  # type: ignore[misc]
        assert stranger.tally.numbers().mirrored == MirroredCalls()


def test_a_share_of_the_calls_is_mirrored(serve: Callable[[Any], Serving]) -> None:
    stable, canary = serve("v1"), serve("v1")
    stable.mirror(canary.address, share=0.2)
    for number in range(300):
        stable.call(number)
        time.sleep(0.002)
    wait(lambda: not stable.app.queued)
    time.sleep(0.3)
    assert 30 <= canary.mirrored.compared + stable.mirrored.dropped <= 95


def test_a_worker_that_is_gone_is_passed_over_for_the_next(serve: Callable[[Any], Serving]) -> None:
    stable, canary = serve("v1"), serve("v2")
    stable.mirror(("127.0.0.1", free_port()), canary.address)
    for _ in range(4):
        stable.call()
    wait(lambda: canary.mirrored.compared >= 2)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{}",
        '{"request": 1}',
        '{"request":1,"json_size":"","answer_json_size":null,"agreement":{"metric":"guess"}}',
    ],
)
def test_what_is_no_mirrored_call_is_refused(serve: Callable[[Any], Serving], header: str) -> None:
    canary = serve("v1")
    status, _ = canary.post("/kitserve/mirror", b"xy", Kitserve_Mirror=header)
    assert status == 400
    with socket.create_connection(canary.address, SECONDS) as connection:
        connection.sendall(b"POST /kitserve/mirror HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 403")


def test_answers_are_read_as_they_were_given() -> None:
    document = {
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.5, None]},
            {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["a"]},
        ]
    }
    outputs = read_answer(memoryview(json.dumps(document).encode()), None)
    assert outputs["y"].tolist()[0][0] == 1.5
    assert np.isnan(outputs["y"][0, 1])
    assert outputs["s"].tolist() == ["a"]
    data = [None, "Infinity", "-Infinity", 1.5]
    for datatype in ("FP16", "BF16", "FP32", "FP64"):
        odd = {"outputs": [{"name": "y", "datatype": datatype, "shape": [4], "data": data}]}
        values = read_answer(memoryview(json.dumps(odd).encode()), None)["y"].astype(np.float64)
        np.testing.assert_array_equal(values, [np.nan, np.inf, -np.inf, 1.5])
    for broken in (
        b"",
        b"{}",
        b'{"outputs":[{}]}',
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[3],"data":[1]}]}',
    ):
        with pytest.raises(InputError, match="no answer"):
            read_answer(memoryview(broken), None)


def test_a_canary_that_comes_back_is_found_again(serve: Callable[[Any], Serving]) -> None:
    stable, first, second = serve("v1"), serve("v2"), serve("v2")
    stable.mirror(first.address, second.address)
    stable.call()
    first.wait_for(1)
    first.server.stop(grace=0.0)
    deadline = time.monotonic() + SECONDS
    while not second.mirrored.compared:
        stable.call()
        time.sleep(0.05)
        assert time.monotonic() < deadline

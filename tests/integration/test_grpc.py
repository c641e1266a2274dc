"""gRPC through a real edge: NVIDIA's clients and gRPC's own, against workers that echo."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import (
    InferenceServerClient,
    InferInput,
    InferRequestedOutput,
    service_pb2,
    service_pb2_grpc,
)
from tritonclient.utils import InferenceServerException, deserialize_bytes_tensor

import gateway
from gateway.contract import AppName
from gateway.control.state.status import ModelState, ModelStatus, Status, VersionStatus
from gateway.edge.routes import Route, RouteState
from gateway.metrics.versions import VersionLabels, VersionSample
from gateway.serving import QueueLimits
from gateway.wire.grpc_messages import message
from gateway.wire.texts import EXTENSIONS
from runtimes.base import ANY, Array, Datatype, TensorSpec
from tests.support.echo import Echo
from tests.support.grpc_plane import Plane, Version, running_plane
from tests.support.ports import free_port
from tests.support.waiting import wait

VALUES: dict[str, Array] = {
    "BOOL": np.array([[True, False], [False, True]]),
    "UINT8": np.array([[0, 255], [1, 2]], "u1"),
    "UINT16": np.array([[0, 2**16 - 1], [1, 2]], "u2"),
    "UINT32": np.array([[0, 2**32 - 1], [1, 2]], "u4"),
    "UINT64": np.array([[0, 2**64 - 1], [1, 2]], "u8"),
    "INT8": np.array([[-128, 127], [1, 2]], "i1"),
    "INT16": np.array([[-(2**15), 2**15 - 1], [1, 2]], "i2"),
    "INT32": np.array([[-(2**31), 2**31 - 1], [1, 2]], "i4"),
    "INT64": np.array([[-(2**63), 2**63 - 1], [1, 2]], "i8"),
    "FP16": np.array([[1.5, -2], [0, 65504]], "f2"),
    "BF16": np.array([[1.5, -2], [0, 2.0**100]], ml_dtypes.bfloat16),
    "FP32": np.array([[1.5, -2], [0, 1e30]], "f4"),
    "FP64": np.array([[1.5, -2], [0, 1e300]], "f8"),
    "BYTES": np.array([[b"", b"iris"], ["né".encode(), b"x" * 1000]], dtype=object),
}
TYPED = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
SECONDS = 10
ONE = TensorSpec("x", "FP32", (-1, -1))


def version_status(
    model: str, tag: str, digest: str, role: str, state: ModelState = ModelState.READY
) -> VersionStatus:
    return VersionStatus(tag, digest, "", AppName(f"{model}.{tag}"), role, 100, state, 1, "echo")


class World:
    """Model `all` takes every datatype; `two` has a stable version and a canary; `slow` takes its time."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.every = Version(
            "all",
            "v1",
            Echo(*(TensorSpec(f"x_{datatype}", datatype, (-1, 2)) for datatype in VALUES)),
            {"y_FP32": ("cat", "dog")},
        )
        self.typed = Version(
            "typed", "v1", Echo(*(TensorSpec(f"x_{datatype}", datatype, (-1, 2)) for datatype in TYPED))
        )
        self.stable, self.canary = Version("two", "v1", Echo(ONE)), Version("two", "v2", Echo(ONE))
        self.slow_model = Echo(ONE, seconds=0.2)
        scale = TensorSpec("x_scale", "FP32", (1,))
        self.open = Version("open", "v1", Echo(TensorSpec("x", ANY, likely="FP32"), optional=(scale,)))
        self.slow = Version("slow", "v1", self.slow_model, limits=QueueLimits(max_requests=2))
        self.route(0)
        plane.status = Status(
            1,
            (
                ModelStatus(
                    "two",
                    ModelState.READY,
                    "",
                    (
                        version_status("two", "v1", self.stable.digest, "stable"),
                        version_status("two", "v2", self.canary.digest, "canary"),
                    ),
                ),
                ModelStatus("lilac", ModelState.PULLING, "resolving its reference", ()),
            ),
        )
        plane.samples = tuple(
            VersionSample(VersionLabels("two", tag, version.digest[7:19], "echo"), version.numbers)
            for tag, version in (("v1", self.stable), ("v2", self.canary))
        )

    def route(self, weight: int) -> None:
        self.plane.route(
            Route("all", self.every.backend),
            Route("typed", self.typed.backend),
            Route("two", self.stable.backend, self.canary.backend, weight),
            Route("slow", self.slow.backend),
            Route("open", self.open.backend),
            Route("lilac", state=RouteState.FAILED),
        )

    def stop(self) -> None:
        for version in (self.every, self.typed, self.stable, self.canary, self.slow):
            version.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_plane(tmp_path_factory.mktemp("plane"), free_port()) as plane:
        world = World(plane)
        yield world
        world.stop()


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(world.plane.address) as client:
        yield client


@pytest.fixture(scope="module")
def channel(world: World) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(world.plane.address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> service_pb2_grpc.GRPCInferenceServiceStub:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def tensor(values: Array, name: str = "x", datatype: str = "FP32") -> InferInput:
    return InferInput(name, list(values.shape), datatype).set_data_from_numpy(values)


def raw_request(model: str = "two", values: Array | None = None, **fields: Any) -> Any:
    array = np.ones((1, 4), np.float32) if values is None else values
    request = service_pb2.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name="x", datatype="FP32", shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    return request


def same(actual: Array, expected: Array) -> bool:
    return (actual.dtype, actual.shape, actual.tolist()) == (
        expected.dtype,
        expected.shape,
        expected.tolist(),
    )


def test_every_datatype_is_here() -> None:
    assert set(VALUES) == set(Datatype)
    assert set(VALUES) - set(TYPED) == {"FP16", "BF16"}


@pytest.mark.parametrize("named", [True, False])
def test_every_datatype_there_and_back(client: InferenceServerClient, named: bool) -> None:
    inputs = [tensor(values, f"x_{datatype}", datatype) for datatype, values in VALUES.items()]
    outputs = [InferRequestedOutput(f"y_{datatype}") for datatype in VALUES] if named else None
    result = client.infer("all", inputs, outputs=outputs, request_id="r-1", client_timeout=SECONDS)
    for datatype, values in VALUES.items():
        assert same(result.as_numpy(f"y_{datatype}"), values), datatype
        described = result.get_output(f"y_{datatype}")
        assert (described.datatype, list(described.shape)) == (datatype, [2, 2])
        assert not described.HasField("contents")
    answer = result.get_response()
    assert (answer.model_name, answer.model_version, answer.id) == ("all", "v1", "r-1")


def test_typed_contents(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    request = service_pb2.ModelInferRequest(model_name="typed")
    for datatype, field in TYPED.items():
        values = VALUES[datatype]
        added = request.inputs.add(name=f"x_{datatype}", datatype=datatype, shape=values.shape)
        getattr(added.contents, field).extend(values.reshape(-1).tolist())
    answer = stub.ModelInfer(request, timeout=SECONDS)
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        values = VALUES[output.datatype]
        if output.datatype == "BYTES":
            assert deserialize_bytes_tensor(raw).tolist() == values.reshape(-1).tolist()
        else:
            assert raw == values.tobytes()
    assert len(answer.outputs) == len(TYPED)


def test_classes(client: InferenceServerClient) -> None:
    inputs = [tensor(values, f"x_{datatype}", datatype) for datatype, values in VALUES.items()]
    outputs = [InferRequestedOutput("y_FP32", class_count=1), InferRequestedOutput("y_INT8", class_count=2)]
    result = client.infer("all", inputs, outputs=outputs, client_timeout=SECONDS)
    assert result.as_numpy("y_FP32").tolist() == [
        [b"1.500000:0:cat"],
        [b"1000000015047466219876688855040.000000:1:dog"],
    ]
    assert result.as_numpy("y_INT8").tolist() == [[b"127:1", b"-128:0"], [b"2:1", b"1:0"]]


def test_what_a_model_says_of_itself(client: InferenceServerClient) -> None:
    assert client.is_model_ready("two", client_timeout=SECONDS)
    assert client.is_model_ready("two", "v2", client_timeout=SECONDS)
    assert not client.is_model_ready("two", "v3", client_timeout=SECONDS)
    assert not client.is_model_ready("lilac", client_timeout=SECONDS)
    assert not client.is_model_ready("nothing", client_timeout=SECONDS)
    metadata = client.get_model_metadata("two", as_json=True, client_timeout=SECONDS)
    assert metadata == {
        "name": "two",
        "versions": ["v1"],
        "platform": "test_echo",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": ["-1", "-1"]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": ["-1", "-1"]}],
    }
    assert client.get_model_metadata("two", "v2", client_timeout=SECONDS).versions == ["v2"]
    config = client.get_model_config("two", client_timeout=SECONDS).config
    assert (config.name, config.platform, config.max_batch_size) == ("two", "test_echo", 0)
    assert (config.input[0].name, config.input[0].data_type, list(config.input[0].dims)) == (
        "x",
        11,
        [-1, -1],
    )


def test_a_model_that_does_not_say_its_datatypes(client: InferenceServerClient) -> None:
    metadata = client.get_model_metadata("open", client_timeout=SECONDS)
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] == [
        ("x", "ANY", [-1]),
        ("x_scale", "FP32", [1]),
    ]
    config = client.get_model_config("open", client_timeout=SECONDS).config
    assert [(tensor.data_type, tensor.optional) for tensor in config.input] == [(0, False), (11, True)]
    for datatype, array in VALUES.items():
        tensor = InferInput("x", list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        if datatype == "BYTES":
            with pytest.raises(InferenceServerException, match=r"'x' must be .*, not BYTES"):
                client.infer("open", [tensor], client_timeout=SECONDS)
        else:
            answer = client.infer("open", [tensor], client_timeout=SECONDS)
            assert answer.get_output("y").datatype == datatype
            np.testing.assert_array_equal(answer.as_numpy("y").astype("f8"), array.astype("f8"))


def test_what_the_server_says_of_itself(world: World, client: InferenceServerClient) -> None:
    assert client.is_server_live(client_timeout=SECONDS)
    assert not client.is_server_ready(client_timeout=SECONDS)
    metadata = client.get_server_metadata(client_timeout=SECONDS)
    assert (metadata.name, metadata.version) == ("kitserve", gateway.__version__)
    assert tuple(metadata.extensions) == EXTENSIONS
    index = client.get_model_repository_index(as_json=True, client_timeout=SECONDS)["models"]
    assert [(entry["name"], entry.get("version"), entry["state"]) for entry in index] == [
        ("two", "v1", "READY"),
        ("two", "v2", "READY"),
        ("lilac", None, "LOADING"),
    ]
    statistics = client.get_inference_statistics("two", "v1", client_timeout=SECONDS).model_stats
    assert [(entry.name, entry.version) for entry in statistics] == [("two", "v1")]
    assert len(client.get_inference_statistics(client_timeout=SECONDS).model_stats) == 2


def test_errors_have_a_status_and_the_words_of_rest(world: World, client: InferenceServerClient) -> None:
    fine, wide = tensor(np.ones((1, 4), np.float32)), tensor(np.ones((1, 2, 2), np.float32))
    other = tensor(np.ones((1, 4), np.float32), "other")
    colour = [InferRequestedOutput("colour")]
    faults: list[tuple[str, str, Callable[[], object]]] = [
        (
            "NOT_FOUND",
            "Request for unknown model: no model is named nothing",
            lambda: client.infer("nothing", [fine]),
        ),
        (
            "NOT_FOUND",
            'Request for unknown model: no model is named "ünicode %',
            lambda: client.infer('"ünicode %', [fine]),
        ),
        (
            "NOT_FOUND",
            "Request for unknown model: no model is named nothing",
            lambda: client.get_model_metadata("nothing"),
        ),
        (
            "NOT_FOUND",
            "Request for unknown model: no model is named nothing",
            lambda: client.get_model_config("nothing"),
        ),
        (
            "NOT_FOUND",
            "Request for unknown model: no model is named nothing",
            lambda: client.get_inference_statistics("nothing"),
        ),
        ("NOT_FOUND", "Request for unknown model: no model is named", lambda: client.infer("", [fine])),
        (
            "NOT_FOUND",
            "model two has no version v9 that is served",
            lambda: client.infer("two", [fine], "v9"),
        ),
        (
            "NOT_FOUND",
            "model two has no version v9 that is served",
            lambda: client.get_inference_statistics("two", "v9"),
        ),
        (
            "UNAVAILABLE",
            "model lilac could not be loaded; its operator sees why with kitserve status",
            lambda: client.infer("lilac", [fine]),
        ),
        (
            "INVALID_ARGUMENT",
            "input 'x' must have shape [-1, -1] (-1: any length), not [1, 2, 2]",
            lambda: client.infer("two", [wide]),
        ),
        (
            "INVALID_ARGUMENT",
            "unknown input 'other'; the model takes 'x'",
            lambda: client.infer("two", [fine, other]),
        ),
        (
            "INVALID_ARGUMENT",
            "unknown output 'colour'; the model gives 'y'",
            lambda: client.infer("two", [fine], outputs=colour),
        ),
        (
            "UNIMPLEMENTED",
            "models are loaded and unloaded by the config: change it, and run kitserve apply",
            lambda: client.load_model("two"),
        ),
        (
            "UNIMPLEMENTED",
            "no such method: /inference.GRPCInferenceService/TraceSetting",
            lambda: client.get_trace_settings(),
        ),
        (
            "UNIMPLEMENTED",
            "compressed messages are not read here; send them uncompressed (identity)",
            lambda: client.infer(
                "two", [tensor(np.ones((64, 64), np.float32))], compression_algorithm="gzip"
            ),
        ),
    ]
    for code, text, call in faults:
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert (caught.value.status(), caught.value.message()[-len(text) :]) == (f"StatusCode.{code}", text)


def test_errors_bring_nothing_of_http(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(raw_request("nothing"), timeout=SECONDS, metadata=[("x-request-id", "r-7")])
    fields = dict(caught.value.trailing_metadata())
    assert fields.pop("x-request-id") == "r-7"
    assert fields == {}


def test_no_worker_is_unavailable(world: World, stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    gone = Version("gone", "v1", Echo(ONE))
    gone.stop()
    world.plane.route(Route("gone", gone.backend))
    try:
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(raw_request("gone"), timeout=SECONDS)
    finally:
        world.route(0)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "no worker of this version is up; one is being started"


def test_headers_say_who_answered(stub: service_pb2_grpc.GRPCInferenceServiceStub, world: World) -> None:
    answer, call = stub.ModelInfer.with_call(
        raw_request(), timeout=SECONDS, metadata=[("x-request-id", "r-8"), ("modelkit-role", "forged")]
    )
    headers = dict(call.initial_metadata())
    assert (headers["modelkit-role"], headers["modelkit-version"], headers["x-request-id"]) == (
        "stable",
        "v1",
        "r-8",
    )
    assert headers["modelkit-digest"] == world.stable.digest
    assert answer.model_version == "v1"


@pytest.mark.parametrize("size", [16_000, 16_384, 70_000, 1_300_000])
def test_large_messages(client: InferenceServerClient, size: int) -> None:
    values = np.random.default_rng(1).random((1, size), np.float32)
    result = client.infer("two", [tensor(values)], "v2", client_timeout=SECONDS)
    assert same(result.as_numpy("y"), values)
    assert result.get_response().model_version == "v2"


def test_too_large_a_message(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(raw_request(values=np.ones((1, 17_000_000), np.float32)), timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == "the body is larger than 67108864 bytes"


def test_weights_and_names_of_versions(world: World, stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    world.route(20)
    request = raw_request()
    before = world.canary.numbers.requests["canary", 200]
    counts = Counter(stub.ModelInfer(request, timeout=SECONDS).model_version for _ in range(1500))
    assert abs(counts["v2"] / 1500 - 0.2) < 0.05, counts
    assert world.canary.numbers.requests["canary", 200] - before == counts["v2"]
    for name, version in (
        ("v1", "v1"),
        ("v2", "v2"),
        (world.canary.digest, "v2"),
        (world.canary.digest[:19], "v2"),
    ):
        answer, call = stub.ModelInfer.with_call(raw_request(model_version=name), timeout=SECONDS)
        assert answer.model_version == version
        assert dict(call.initial_metadata())["modelkit-role"] == ("canary" if version == "v2" else "stable")
    world.route(0)


def test_a_deadline_passes(world: World, stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    calls = [stub.ModelInfer.future(raw_request("slow"), timeout=SECONDS)]
    time.sleep(0.05)
    done = world.slow_model.calls
    late = stub.ModelInfer.future(raw_request("slow"), timeout=0.1)
    assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    timed = raw_request("slow")
    timed.parameters["timeout"].int64_param = 20_000
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(timed, timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "longer than its 0.02 s" in caught.value.details()
    for call in calls:
        call.result()
    assert world.slow_model.calls == done


def test_a_cancelled_call_leaves_the_queue(
    world: World, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    first = stub.ModelInfer.future(raw_request("slow"), timeout=SECONDS)
    time.sleep(0.05)
    done, before = world.slow_model.calls, world.slow.numbers.dropped["cancelled"]
    second = stub.ModelInfer.future(raw_request("slow"), timeout=SECONDS)
    time.sleep(0.05)
    second.cancel()
    first.result()
    time.sleep(0.3)
    assert world.slow_model.calls == done
    assert world.slow.numbers.dropped["cancelled"] == before + 1
    assert world.slow.tally.ongoing == 0


def test_a_full_queue(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    calls = [stub.ModelInfer.future(raw_request("slow"), timeout=SECONDS) for _ in range(6)]
    codes = Counter(call.code() for call in calls)
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert codes[grpc.StatusCode.OK] >= 2
    refused = next(call for call in calls if call.code() is grpc.StatusCode.UNAVAILABLE)
    assert refused.details().startswith("too many calls wait for the model")


class Answers:
    """The answers of a stream: the callback that NVIDIA's client calls with each."""

    def __init__(self) -> None:
        self.queue: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def __call__(self, result: Any, error: Any) -> None:
        self.queue.put((result, error))

    def next(self) -> tuple[Any, Any]:
        return self.queue.get(timeout=SECONDS)


def test_a_stream(world: World) -> None:
    answers = Answers()
    with InferenceServerClient(world.plane.address) as client:
        client.start_stream(answers)
        for number in range(5):
            started = time.monotonic()
            values = np.full((1, 2 + number), number, np.float32)
            client.async_stream_infer("two", [tensor(values)], request_id=str(number))
            result, error = answers.next()
            assert error is None
            assert same(result.as_numpy("y"), values)
            assert result.get_response().id == str(number)
            assert result.get_response().parameters["triton_final_response"].bool_param
            # Nothing on the way may wait for more messages.
            assert time.monotonic() - started < 0.15
        client.async_stream_infer("two", [tensor(np.ones((1, 2, 2), np.float32))], request_id="bad")
        result, error = answers.next()
        assert "must have shape [-1, -1] (-1: any length), not [1, 2, 2]" in str(error)
        client.async_stream_infer("two", [tensor(np.ones((1, 2), np.float32))], "v2", request_id="other")
        assert "open another stream" in str(answers.next()[1])
        client.async_stream_infer("slow", [tensor(np.ones((1, 2), np.float32))], request_id="elsewhere")
        assert "the call came to 'two'" in str(answers.next()[1])
        for number in range(100):
            client.async_stream_infer(
                "two", [tensor(np.full((1, 500), number, np.float32))], request_id=str(number)
            )
        results = [answers.next() for _ in range(100)]
        assert [result.get_response().id for result, _ in results] == [str(number) for number in range(100)]
        client.stop_stream()


def test_a_stream_to_a_version(world: World) -> None:
    answers = Answers()
    with InferenceServerClient(world.plane.address) as client:
        client.start_stream(answers)
        large = np.random.default_rng(2).random((1, 300_000), np.float32)
        client.async_stream_infer("two", [tensor(large)], "v2")
        result, error = answers.next()
        assert error is None
        assert result.get_response().model_version == "v2"
        assert same(result.as_numpy("y"), large)
        client.stop_stream()


def test_streams_that_go_wrong(
    world: World, stub: service_pb2_grpc.GRPCInferenceServiceStub, channel: grpc.Channel
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ModelStreamInfer(iter([raw_request("nothing")]), timeout=SECONDS))
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.NOT_FOUND,
        "Request for unknown model: no model is named nothing",
    )
    with pytest.raises(grpc.RpcError) as caught:
        list(
            stub.ModelStreamInfer(
                iter([raw_request(values=np.ones((1, 4096), np.float32))]),
                timeout=SECONDS,
                compression=grpc.Compression.Gzip,
            )
        )
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert (
        list(stub.ModelStreamInfer(iter([raw_request()] * 3), timeout=SECONDS))[
            2
        ].infer_response.model_version
        == "v1"
    )
    # When a client goes away, its calls are cancelled.
    before = world.slow.numbers.dropped["cancelled"]
    stream = stub.ModelStreamInfer(iter([raw_request("slow")] * 3), timeout=SECONDS)
    time.sleep(0.05)
    stream.cancel()
    wait(lambda: not world.slow.tally.ongoing, SECONDS)
    assert world.slow.numbers.dropped["cancelled"] > before
    garbage = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    broken = b"\x0a\x03two\xff\xff"
    (answer,) = garbage(iter([broken]), timeout=SECONDS)
    assert b"the message is no ModelInferRequest" in answer


def test_the_asynchronous_client_does_the_same(world: World) -> None:
    async def main() -> None:
        async with tritonclient.grpc.aio.InferenceServerClient(world.plane.address) as client:
            assert await client.is_server_live()
            values = np.ones((1, 8), np.float32)
            results = await asyncio.gather(*(client.infer("two", [tensor(values)]) for _ in range(32)))
            assert all(same(result.as_numpy("y"), values) for result in results)

            async def requests() -> Any:
                for number in range(3):
                    yield {"model_name": "two", "inputs": [tensor(values)], "request_id": str(number)}

            ids = [
                result.get_response().id
                async for result, error in client.stream_infer(requests())
                if error is None
            ]
            assert ids == ["0", "1", "2"]
            with pytest.raises(InferenceServerException, match="no model is named nothing"):
                await client.infer("nothing", [tensor(values)])

    asyncio.run(asyncio.wait_for(main(), SECONDS))


def test_health(world: World, channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)

    def check(name: str) -> int:
        status: int = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=SECONDS).status
        return status

    assert (check("two"), check(""), check("lilac")) == (1, 2, 2)
    with pytest.raises(grpc.RpcError) as caught:
        check("nothing")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    list_all = channel.unary_unary(
        "/grpc.health.v1.Health/List",
        message("grpc.health.v1.HealthListRequest").SerializeToString,
        message("grpc.health.v1.HealthListResponse").FromString,
    )
    listed = list_all(message("grpc.health.v1.HealthListRequest")(), timeout=SECONDS).statuses
    assert {name: entry.status for name, entry in listed.items()} == {
        "": 2,
        "inference.GRPCInferenceService": 2,
        "two": 1,
        "lilac": 2,
    }
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="rose"), timeout=SECONDS)
    assert next(watch).status == 3
    status = world.plane.status
    rose = ModelStatus("rose", ModelState.READY, "", (version_status("rose", "v1", "sha256:0", "stable"),))
    world.plane.status = Status(2, (*status.models, rose))
    assert next(watch).status == 1
    world.plane.status = status
    assert next(watch).status == 3
    watch.cancel()
    world.plane.status = Status()
    with pytest.raises(grpc.RpcError, match="the gateway has just started"):
        service_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryIndex(
            service_pb2.RepositoryIndexRequest(), timeout=SECONDS
        )
    world.plane.status = status


def test_reflection(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    file = database.FindFileContainingSymbol("inference.GRPCInferenceService")
    assert {method.name for method in file.service[0].method} >= {
        "ModelInfer",
        "ModelStreamInfer",
        "ServerLive",
    }
    assert database.FindFileContainingSymbol("inference.GRPCInferenceService.ModelInfer").name == file.name
    assert database.FindFileByName("grpc/health/v1/health.proto").package == "grpc.health.v1"
    with pytest.raises(KeyError):
        database.FindFileByName("nothing.proto")
    with pytest.raises(KeyError):
        database.FindFileContainingSymbol("no.such.Thing")


def test_the_gateway_is_away(world: World) -> None:
    socket = world.plane.files.services_socket
    aside = socket.with_name("aside.sock")
    socket.rename(aside)
    # The edge would keep to a connection that another client of its made it open.
    channel = grpc.insecure_channel(world.plane.address, options=[("grpc.use_local_subchannel_pool", 1)])
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    try:
        with pytest.raises(grpc.RpcError) as caught:
            stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=SECONDS)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "the gateway is being started; ask again"
        assert stub.ModelInfer(raw_request(), timeout=SECONDS).model_version == "v1"
    finally:
        channel.close()
        aside.rename(socket)


def test_rest_is_on_the_same_port(world: World) -> None:
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    request = urllib.request.Request(
        f"http://{world.plane.address}/v2/models/two/infer",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        assert json.load(answer)["outputs"][0]["data"] == [1, 2]


def test_many_calls_at_once_on_one_connection(
    world: World, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    failures: list[str] = []

    def call(number: int) -> None:
        values = np.full((1, 10 + number), number, np.float32)
        for _ in range(20):
            answer = stub.ModelInfer(raw_request(values=values), timeout=SECONDS)
            if answer.raw_output_contents[0] != values.tobytes():
                failures.append(f"{number}")

    threads = [threading.Thread(target=call, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []

"""The worker's server as NVIDIA's clients use it: raw tensors by default, classes, compression, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http.aio
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from gateway.metrics.tally import Tally
from gateway.wire.limits import BODY_BYTES
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.version import AppOptions, Identity
from runtimes.base import Array, Datatype, TensorSpec
from tests.support.echo import Echo

VALUES: Mapping[str, Array] = {
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


@contextmanager
def worker(max_body: int = BODY_BYTES) -> Iterator[str]:
    """Run a worker that echoes a tensor of each datatype, and has labels for its outputs."""
    specs = [TensorSpec(f"x_{datatype}", datatype, (-1, 2)) for datatype in VALUES]
    labels = {"y_FP32": ("cat", "dog"), "": ("no", "yes")}
    identity = Identity("echo", "v1", "sha256:" + "ab" * 32)
    app = build_app(identity, Echo(*specs), Tally(), AppOptions(labels=labels, max_body=max_body))
    server = HttpServer(app, "127.0.0.1")
    server.start()
    yield f"{server.host}:{server.port}"
    server.stop()
    app.stop()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with worker() as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(address) as client:
        yield client


def tensors(binary: bool | Callable[[str], bool]) -> list[InferInput]:
    inputs = []
    for datatype, values in VALUES.items():
        tensor = InferInput(f"x_{datatype}", list(values.shape), datatype)
        # the client itself refuses BF16 in JSON
        as_bytes = datatype == "BF16" or (binary if isinstance(binary, bool) else binary(datatype))
        tensor.set_data_from_numpy(values, binary_data=as_bytes)
        inputs.append(tensor)
    return inputs


def same(actual: Array, expected: Array) -> bool:
    items = [item.encode() if isinstance(item, str) else item for item in actual.reshape(-1).tolist()]
    return (actual.dtype, actual.shape) == (expected.dtype, expected.shape) and items == (
        expected.reshape(-1).tolist()
    )


def test_every_datatype_is_here() -> None:
    assert set(VALUES) == set(Datatype)


@pytest.mark.parametrize("binary_out", [True, False, None], ids=["raw out", "json out", "no outputs named"])
@pytest.mark.parametrize(
    "binary_in",
    [True, False, lambda datatype: datatype.startswith("U")],
    ids=["raw in", "json in", "both in"],
)
def test_every_datatype_there_and_back(
    client: InferenceServerClient, binary_in: Any, binary_out: bool | None
) -> None:
    outputs = (
        None
        if binary_out is None
        else [InferRequestedOutput(f"y_{datatype}", binary_data=binary_out) for datatype in VALUES]
    )
    result = client.infer("echo", tensors(binary_in), outputs=outputs, request_id="r-1")
    for datatype, values in VALUES.items():
        assert same(result.as_numpy(f"y_{datatype}"), values), datatype
        described = result.get_output(f"y_{datatype}")
        assert described["datatype"] == datatype
        assert ("binary_data_size" in described.get("parameters", {})) is (binary_out is not False)
    answer = result.get_response()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("echo", "v1", "r-1")


@pytest.mark.parametrize("binary_out", [True, False], ids=["raw out", "json out"])
@pytest.mark.parametrize("binary_in", [True, False], ids=["raw in", "json in"])
def test_missing_values_and_infinities_there_and_back(
    client: InferenceServerClient, binary_in: bool, binary_out: bool
) -> None:
    inputs = tensors(True)
    odd: dict[str, Array] = {}
    for position, (datatype, zeros) in enumerate(VALUES.items()):
        if datatype.startswith(("FP", "BF")):
            values = odd[datatype] = np.array([[np.nan, np.inf], [-np.inf, 0.1]]).astype(zeros.dtype)
            inputs[position] = InferInput(f"x_{datatype}", [2, 2], datatype)
            # the client itself refuses BF16 in JSON
            inputs[position].set_data_from_numpy(values, binary_data=binary_in or datatype == "BF16")
    # nor does it make BF16 of null
    outputs = [
        InferRequestedOutput(f"y_{datatype}", binary_data=binary_out or datatype == "BF16")
        for datatype in odd
    ]
    result = client.infer("echo", inputs, outputs=outputs)
    for datatype, values in odd.items():
        answer = result.as_numpy(f"y_{datatype}")
        assert answer.dtype == values.dtype
        np.testing.assert_array_equal(answer.view("u1"), values.view("u1"))


def test_outputs_are_chosen_one_by_one(client: InferenceServerClient) -> None:
    outputs = [InferRequestedOutput("y_INT8", binary_data=False), InferRequestedOutput("y_BYTES")]
    result = client.infer("echo", tensors(True), outputs=outputs)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["y_INT8", "y_BYTES"]
    assert same(result.as_numpy("y_INT8"), VALUES["INT8"])
    assert same(result.as_numpy("y_BYTES"), VALUES["BYTES"])
    assert result.as_numpy("y_FP32") is None


@pytest.mark.parametrize("binary", [True, False])
def test_classes(client: InferenceServerClient, binary: bool) -> None:
    outputs = [
        InferRequestedOutput("y_FP32", binary_data=binary, class_count=1),
        InferRequestedOutput("y_INT8", binary_data=binary, class_count=2),
    ]
    result = client.infer("echo", tensors(True), outputs=outputs)

    def classes(name: str) -> list[list[str]]:
        rows = result.as_numpy(name).tolist()
        return [[item.decode() if isinstance(item, bytes) else item for item in row] for row in rows]

    assert classes("y_FP32") == [["1.500000:0:cat"], ["1000000015047466219876688855040.000000:1:dog"]]
    assert classes("y_INT8") == [["127:1:yes", "-128:0:no"], ["2:1:yes", "1:0:no"]]


@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("answer_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_bodies_are_compressed_where_asked(
    client: InferenceServerClient, request_coding: str | None, answer_coding: str | None, binary: bool
) -> None:
    outputs = [InferRequestedOutput(f"y_{datatype}", binary_data=binary) for datatype in VALUES]
    result = client.infer(
        "echo",
        tensors(binary),
        outputs=outputs,
        request_compression_algorithm=request_coding,
        response_compression_algorithm=answer_coding,
    )
    for datatype, values in VALUES.items():
        assert same(result.as_numpy(f"y_{datatype}"), values), datatype


def test_the_asynchronous_client_does_the_same(address: str) -> None:
    async def main() -> None:
        async with tritonclient.http.aio.InferenceServerClient(address) as client:
            assert await client.is_model_ready("echo")
            for coding in (None, "gzip", "deflate"):
                result = await client.infer(
                    "echo",
                    tensors(True),
                    request_compression_algorithm=coding,
                    response_compression_algorithm=coding,
                )
                for datatype, values in VALUES.items():
                    assert same(result.as_numpy(f"y_{datatype}"), values), datatype
            with pytest.raises(InferenceServerException, match="no such path: /v2/models/echo/trace/setting"):
                await client.get_trace_settings("echo")

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize("version", ["", "v1"])
def test_a_model_tells_of_itself(client: InferenceServerClient, version: str) -> None:
    assert client.is_server_ready()
    assert client.is_model_ready("echo", version)
    metadata = client.get_model_metadata("echo", version)
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("echo", ["v1"], "test_echo")
    assert metadata["inputs"][-1] == {"name": "x_BYTES", "datatype": "BYTES", "shape": [-1, 2]}
    config = client.get_model_config("echo", version)
    assert (config["name"], config["max_batch_size"]) == ("echo", 0)
    assert config["output"][-1] == {"name": "y_BYTES", "data_type": "TYPE_STRING", "dims": [-1, 2]}


def test_parameters_that_nobody_knows_change_nothing(client: InferenceServerClient) -> None:
    result = client.infer(
        "echo", tensors(True), parameters={"unknown": "x"}, priority=1, timeout=1000, sequence_id=7
    )
    assert same(result.as_numpy("y_FP32"), VALUES["FP32"])


def test_a_large_tensor_there_and_back(client: InferenceServerClient) -> None:
    inputs = tensors(True)
    large = np.random.default_rng(1).random((1_000_000, 2), np.float32)
    position = list(VALUES).index("FP32")
    inputs[position] = InferInput("x_FP32", list(large.shape), "FP32").set_data_from_numpy(large)
    result = client.infer("echo", inputs, outputs=[InferRequestedOutput("y_FP32")])
    assert same(result.as_numpy("y_FP32"), large)


def test_a_raw_tensor_may_be_made_from_a_file(client: InferenceServerClient) -> None:
    """The client's own helpers, which write and read bodies without sending them."""
    body, json_size = InferenceServerClient.generate_request_body(tensors(True))
    answer = client._client_stub.post(
        "/v2/models/echo/infer", body=body, headers={"Inference-Header-Content-Length": str(json_size)}
    )
    result = InferenceServerClient.parse_response_body(
        bytes(answer.read()), header_length=int(answer["inference-header-content-length"])
    )
    assert same(result.as_numpy("y_FP64"), VALUES["FP64"])


def refused(client: InferenceServerClient, inputs: Sequence[InferInput], **others: Any) -> str:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("echo", inputs, **others)
    assert caught.value.status() == "400"
    return str(caught.value.message())


def test_errors_name_what_is_wrong(client: InferenceServerClient) -> None:
    inputs = tensors(True)
    assert refused(client, inputs[1:]).startswith("input 'x_BOOL' is missing; the model takes 'x_BOOL', ")
    other = InferInput("other", [1], "FP32").set_data_from_numpy(np.zeros(1, "f4"))
    assert refused(client, [*inputs, other]).startswith("unknown input 'other'; the model takes ")
    assert refused(client, [*inputs, inputs[0]]) == "input 'x_BOOL' is there twice"
    wrong = InferInput("x_BOOL", [2, 2], "FP32").set_data_from_numpy(VALUES["FP32"])
    assert refused(client, [wrong, *inputs[1:]]) == ("input 'x_BOOL' must be BOOL, not FP32")
    inputs[0].set_shape([2, 3])
    assert refused(client, inputs) == "input 'x_BOOL': shape [2, 3] of BOOL needs 6 bytes, its data has 4"
    inputs[0].set_shape([2, 2])
    unknown = [InferRequestedOutput("y_BOOL"), InferRequestedOutput("z")]
    assert refused(client, inputs, outputs=unknown).startswith("unknown output 'z'; the model gives 'y_BOOL'")
    twice = [InferRequestedOutput("y_BOOL"), InferRequestedOutput("y_BOOL")]
    assert refused(client, inputs, outputs=twice) == "output 'y_BOOL' is asked for twice"
    classes = [InferRequestedOutput("y_BYTES", class_count=2)]
    assert refused(client, inputs, outputs=classes) == (
        "output 'y_BYTES' holds no numbers; leave out its parameter `classification`"
    )
    shared = InferInput("x_BOOL", [2, 2], "BOOL").set_shared_memory("region", 4)
    assert refused(client, [shared, *inputs[1:]]) == (
        "input 'x_BOOL': shared memory is not supported; send data with the request"
    )
    assert client.infer("echo", inputs).as_numpy("y_BOOL") is not None


def test_a_body_that_is_too_large_once_decompressed_is_refused() -> None:
    zeros = InferInput("x_BYTES", [1, 2], "BYTES")
    zeros.set_data_from_numpy(np.array([[bytes(4000), b""]], dtype=object))
    with worker(max_body=4000) as address, InferenceServerClient(address) as client:
        for coding in ("gzip", "deflate"):
            with pytest.raises(InferenceServerException, match="than 4000 bytes once decompressed") as caught:
                client.infer("echo", [zeros], request_compression_algorithm=coding)
            assert caught.value.status() == "413"

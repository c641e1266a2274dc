"""The worker's HTTP interface: a real server in front of a real model."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import logging
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from gateway.kits.library import Library
from gateway.kits.model import choose_runtime, load
from gateway.metrics.tally import Tally
from gateway.oci.reference import parse_reference
from gateway.serving import Batching, QueueLimits
from gateway.wire.grpc_frames import framed
from gateway.wire.grpc_messages import message
from gateway.wire.server import HttpServer
from gateway.worker import calls
from gateway.worker.assembly import build_app
from gateway.worker.grpc import STREAM_INFER
from gateway.worker.version import AppOptions, Identity
from runtimes.base import Array, LoadedModel, Resources, Signature, TensorSpec
from runtimes.errors import ExecutionError, InputError, LoadError
from runtimes.onnx import OnnxRuntime
from tests.support.model_files import node, onnx_model, value_info
from tests.support.waiting import wait

SECONDS = 10
DIGEST = "sha256:" + "ab" * 32
INFER = "/v2/models/iris/infer"
FLOWER = json.dumps(
    {
        "id": "flower-1",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}],
    }
).encode()

Answer = tuple[int, Mapping[str, str], bytes]


class Serving:
    """A worker's server, app and tally around a model."""

    def __init__(self, model: LoadedModel, **options: Any) -> None:
        self.tally = Tally()
        self.app = build_app(Identity("iris", "v1", DIGEST), model, self.tally, AppOptions(**options))
        self.server = HttpServer(self.app, "127.0.0.1")
        self.server.start()

    def connect(self) -> socket.socket:
        return socket.create_connection((self.server.host, self.server.port), timeout=SECONDS)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=SECONDS)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, names, encode_chunked="Transfer-Encoding" in names)
        answer = connection.getresponse()
        result = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return result

    def infer(self, body: bytes = FLOWER, **headers: str) -> tuple[int, dict[str, Any]]:
        status, _, answer = self.ask("POST", INFER, body, **headers)
        return status, json.loads(answer)

    def stop(self) -> None:
        self.server.stop()
        self.app.stop()


class Doing:
    """A model that does what a test says."""

    signature = Signature((TensorSpec("input", "FP32", (-1, 4)),), ())
    platform = "test_doing"
    device = "cpu"

    def __init__(self, work: Callable[[], Array]) -> None:
        self._work = work

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        return {"Y": self._work()}

    def close(self) -> None:
        pass


class Records(logging.Handler):
    """Keeps the records of a logger."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record)


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Iterator[Serving]:
    """The sample classifier, served for all tests of this file."""
    kit = Library(tmp_path_factory.mktemp("library")).open(
        parse_reference(f"oci-layout:{layout}:samples/iris:v1")
    )
    model = load(kit, choose_runtime(kit, None), Resources())
    serving = Serving(model)
    yield serving
    serving.stop()
    model.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Serving]]:
    """Serve a model that does what a test says."""
    running: list[Serving] = []

    def start(work: Callable[[], Array], **options: Any) -> Serving:
        running.append(Serving(Doing(work), **options))
        return running[-1]

    yield start
    for serving in running:
        serving.stop()


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    records = Records()
    logger = logging.getLogger("gateway.codec.statuses")
    logger.addHandler(records)
    yield records.seen
    logger.removeHandler(records)


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: w", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def read_answer(stream: BinaryIO) -> Answer:
    status = int(stream.readline().split()[1])
    headers: dict[str, str] = {}
    while line := stream.readline().strip():
        name, _, value = line.decode().partition(": ")
        headers[name] = value
    return status, headers, stream.read(int(headers["content-length"]))


def test_a_flower_is_named(iris: Serving) -> None:
    status, answer = iris.infer()
    assert status == 200
    probabilities, label = answer.pop("outputs")
    assert answer == {"model_name": "iris", "model_version": "v1", "id": "flower-1"}
    assert label == {"name": "label", "datatype": "INT64", "shape": [1], "data": [0]}
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [1, 3])
    assert probabilities["data"] == pytest.approx([0.98157287, 0.01842713, 1.4781e-08], rel=1e-4)


@pytest.mark.parametrize("names", [["label"], ["probabilities"], ["probabilities", "label"]])
def test_only_the_outputs_asked_for_are_given(iris: Serving, names: list[str]) -> None:
    document = json.loads(FLOWER) | {"outputs": [{"name": name} for name in names]}
    status, answer = iris.infer(json.dumps(document).encode())
    assert status == 200
    assert [output["name"] for output in answer["outputs"]] == names


def test_the_configuration_is_answered(iris: Serving) -> None:
    for path in ("/v2/models/iris/config", "/v2/models/iris/versions/v1/config"):
        status, _, body = iris.ask("GET", path)
        assert status == 200
        assert json.loads(body)["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": [-1, 4]}]


@pytest.mark.parametrize("role", ["stable", "canary"])
def test_every_answer_names_its_version_and_the_role_the_edge_gave(iris: Serving, role: str) -> None:
    for method, path, body in [
        ("POST", INFER, FLOWER),
        ("POST", INFER, b"{"),
        ("GET", INFER, None),
        ("GET", "/v2/models/iris", None),
        ("GET", "/v2/models/iris/ready", None),
        ("GET", "/nothing", None),
    ]:
        for given, expected in ((role, role), (None, None), ("forged", None)):
            _, headers, _ = iris.ask(method, path, body, **({"ModelKit_Role": given} if given else {}))
            assert headers["modelkit-digest"] == DIGEST
            assert headers["modelkit-version"] == "v1"
            assert headers.get("modelkit-role") == expected
            assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "path", ["/v2/health/ready", "/v2/models/iris/ready", "/v2/models/iris/versions/v1/ready"]
)
def test_ready(iris: Serving, path: str) -> None:
    status, _, body = iris.ask("GET", path)
    assert (status, json.loads(body)) == (200, {"name": "iris", "ready": True})


@pytest.mark.parametrize(
    "path", ["/v2/models/iris", "/v2/models/iris/", "/v2/models/iris/versions/v1", "/v2/models/iris?x=1"]
)
def test_metadata(iris: Serving, path: str) -> None:
    status, _, body = iris.ask("GET", path)
    assert status == 200
    assert json.loads(body) == {
        "name": "iris",
        "versions": ["v1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "label", "datatype": "INT64", "shape": [-1]},
        ],
    }


def test_a_version_is_called_by_its_path_too(iris: Serving) -> None:
    for name in ("v1", DIGEST, "sha256%3Aab"):
        assert iris.ask("POST", f"/v2/models/iris/versions/{name}/infer", FLOWER)[0] == 200


@pytest.mark.parametrize("path", ["/", "/v2", "/v2/models/iris/nothing", "/v2/models/iris/infer/"])
def test_other_paths_are_not_found(iris: Serving, path: str) -> None:
    status, _, body = iris.ask("GET", path)
    assert (status, json.loads(body)) == (404, {"error": f"no such path: {path}"})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/nothing"])
def test_the_openai_api_is_not_for_models_of_tensors(iris: Serving, path: str) -> None:
    for method, sent in (("POST", b'{"model": "iris"}'), ("GET", None)):
        status, headers, body = iris.ask(method, path, sent)
        error = json.loads(body)["error"]
        text = f"no such path: {path}; model iris takes tensors; POST them to /v2/models/iris/infer"
        assert (status, error["message"], error["type"]) == (404, text, "not_found_error")
        assert headers["modelkit-digest"] == DIGEST


@pytest.mark.parametrize(
    ("method", "path", "text"),
    [
        ("GET", INFER, "GET is not allowed here; use POST"),
        ("PUT", INFER, "PUT is not allowed here; use POST"),
        ("POST", "/v2/models/iris", "POST is not allowed here; use GET"),
        ("DELETE", "/v2/models/iris/ready", "DELETE is not allowed here; use GET"),
        ("HEAD", INFER, None),
    ],
)
def test_other_methods_are_not_allowed(iris: Serving, method: str, path: str, text: str | None) -> None:
    status, headers, body = iris.ask(method, path)
    assert (status, headers["allow"]) == (405, "POST" if path == INFER else "GET")
    assert body == (b"" if text is None else json.dumps({"error": text}, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    ("path", "status"), [("/v2/models/iris", 200), ("/v2/models/iris/ready", 200), ("/nothing", 404)]
)
def test_head_tells_what_get_would_without_the_body(iris: Serving, path: str, status: int) -> None:
    whole, bare = iris.ask("GET", path), iris.ask("HEAD", path)
    assert (bare[0], bare[1], bare[2]) == (status, whole[1], b"")
    assert whole[2]


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"inputs": []}, "`inputs` must be a list of one tensor or more"),
        (
            {"outputs": [{"name": "colour"}]},
            "unknown output 'colour'; the model gives 'probabilities', 'label'",
        ),
        (
            {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]},
            "input 'input' must have shape [-1, 4] (-1: any length), not [1, 3]",
        ),
        (
            {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3]}]},
            "input 'input': shape [1, 4] needs 4 elements, data has 3",
        ),
        (
            {"inputs": [{"name": "Z", "datatype": "FP32", "shape": [1], "data": [1]}]},
            "unknown input 'Z', and input 'input' is missing; the model takes 'input'",
        ),
        (
            {"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 4], "data": [1, 2, 3, 4]}]},
            "input 'input' must be FP32, not FP64",
        ),
    ],
)
def test_a_callers_error_is_explained(iris: Serving, changed: dict[str, Any], text: str) -> None:
    assert iris.infer(json.dumps(json.loads(FLOWER) | changed).encode()) == (400, {"error": text})


def test_a_call_without_json_is_a_bad_request(iris: Serving) -> None:
    for body in (b"", b"{", b"\x00"):
        status, answer = iris.infer(body)
        assert status == 400
        assert answer["error"].startswith("the body is not JSON: ")


def test_raw_tensors_come_and_go(iris: Serving) -> None:
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    data = np.array([5.1, 3.5, 1.4, 0.2], "f4").tobytes()
    whole = iris.ask("POST", INFER, text + data, Inference_Header_Content_Length=str(len(text)))
    bare = iris.ask("POST", INFER, data, Inference_Header_Content_Length="0", ModelKit_Role="canary")
    for status, headers, body in (whole, bare):
        assert (status, headers["content-type"]) == (200, "application/octet-stream")
        json_size = int(headers["inference-header-content-length"])
        outputs = json.loads(body[:json_size])["outputs"]
        assert [output["parameters"]["binary_data_size"] for output in outputs] == [12, 8]
        assert np.frombuffer(body, "f4", 3, json_size).argmax() == 0
        assert body[json_size + 12 :] == bytes(8)
    assert bare[1]["modelkit-role"] == "canary"
    assert (whole[1]["modelkit-digest"], whole[1]["modelkit-version"]) == (DIGEST, "v1")


@pytest.mark.parametrize(("coding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_a_large_answer_is_compressed_for_who_asks(
    iris: Serving, coding: str, unpack: Callable[[bytes], bytes]
) -> None:
    rows = {"name": "input", "datatype": "FP32", "shape": [200, 4], "data": [5.1, 3.5, 1.4, 0.2] * 200}
    body = json.dumps({"inputs": [rows]}).encode()
    _, plain, expected = iris.ask("POST", INFER, body, Accept_Encoding="gzip, deflate, br")
    assert "content-encoding" not in plain
    _, headers, packed = iris.ask("POST", INFER, body, Accept_Encoding=coding)
    assert (headers["content-encoding"], headers["content-type"]) == (coding, "application/json")
    assert unpack(packed) == expected
    assert len(packed) < len(expected) / 2
    for small in (FLOWER, b"{"):
        assert "content-encoding" not in iris.ask("POST", INFER, small, Accept_Encoding=coding)[1]


def test_a_compressed_body_is_read_or_its_fault_is_told(iris: Serving) -> None:
    packed = gzip.compress(FLOWER)
    loose = gzip.compress(b"".join(b"%064x" % number**20 + bytes(4000) for number in range(17_000)), 1)
    assert iris.infer(packed, Content_Encoding="gzip")[0] == 200
    assert iris.infer(FLOWER, Content_Encoding="identity")[0] == 200
    for body, coding, status, text in [
        (packed[:-1], "gzip", 400, "the body ends before its gzip stream does"),
        (packed + b"x", "gzip", 400, "the body goes on after the end of its gzip stream"),
        (packed, "deflate", 400, "the body is not deflate, as Content-Encoding says: "),
        (gzip.compress(packed), "gzip", 400, "the body is not JSON: "),
        (packed, "br", 415, "Content-Encoding 'br' is none of gzip, deflate and identity"),
        (packed, "gzip, gzip", 415, "Content-Encoding 'gzip, gzip' is none of gzip, deflate and identity"),
        (loose, "gzip", 413, "the body is larger than 67108864 bytes once "),
        (gzip.compress(bytes(65 * 2**20), 1), "gzip", 413, "the body is more than 200 times as large once "),
    ]:
        answer_status, answer = iris.infer(body, Content_Encoding=coding)
        assert (answer_status, answer["error"][: len(text)]) == (status, text)


@pytest.mark.parametrize("chunked", [False, True], ids=["by length", "chunked"])
def test_a_body_over_the_limit_is_refused_and_the_connection_closed(
    serve: Callable[..., Serving], chunked: bool
) -> None:
    serving = serve(lambda: np.zeros(1, "f4"), max_body=len(FLOWER))

    def send(body: bytes) -> Answer:
        parts = iter([body[:50], body[50:]])
        return (
            serving.ask("POST", INFER, parts, Transfer_Encoding="chunked")
            if chunked
            else serving.ask("POST", INFER, body)
        )

    assert send(FLOWER)[0] == 200
    status, headers, body = send(FLOWER + b" ")
    assert (status, headers["connection"]) == (413, "close")
    assert json.loads(body) == {"error": f"the body is larger than {len(FLOWER)} bytes"}


def test_a_body_may_come_in_pieces(iris: Serving) -> None:
    pieces = iter([FLOWER[:10], FLOWER[10:11], FLOWER[11:]])
    status, _, body = iris.ask("POST", INFER, pieces, Transfer_Encoding="chunked")
    assert (status, json.loads(body)["id"]) == (200, "flower-1")


def test_a_large_body_is_read_whole(iris: Serving) -> None:
    rows = 20_000
    flowers = {"name": "input", "datatype": "FP32", "shape": [rows, 4], "data": [5.1, 3.5, 1.4, 0.2] * rows}
    status, answer = iris.infer(json.dumps({"inputs": [flowers], "outputs": [{"name": "label"}]}).encode())
    assert status == 200
    assert answer["outputs"][0]["data"] == [0] * rows


@pytest.mark.parametrize("batching", [None, Batching(8, 0.001)], ids=["alone", "batched"])
def test_an_index_out_of_range_is_the_callers_error(tmp_path: Path, batching: Batching | None) -> None:
    path = tmp_path / "model.onnx"
    nodes = [node("Add", ["ids", "ids"], ["twice"]), node("GatherElements", ["twice", "ids"], ["y"])]
    path.write_bytes(onnx_model(nodes, [value_info("ids", 7, ["n"])], [value_info("y", 7, ["n"])]))
    serving = Serving(OnnxRuntime().load(path, Resources()), batching=batching)
    try:
        answers = []
        for ids in ([0, 1], [1, 5], [0, 0]):
            tensor = {"name": "ids", "datatype": "INT64", "shape": [2], "data": ids}
            answers.append(serving.infer(json.dumps({"inputs": [tensor]}).encode()))
        assert [status for status, _ in answers] == [200, 400, 200]
        assert answers[1][1]["error"].startswith("the model cannot take one of 1 to 5 in input 'ids': ")
        assert serving.tally.numbers().unfit == 1
    finally:
        serving.stop()


def test_a_model_that_fails_says_why(
    serve: Callable[[Callable[[], Array]], Serving], logged: list[logging.LogRecord]
) -> None:
    def fail() -> Array:
        raise ExecutionError("the model failed: out of range")

    status, answer = serve(fail).infer(X_Request_Id="r-7")
    assert (status, answer) == (500, {"error": "the model failed: out of range"})
    assert [record.getMessage() for record in logged] == ["call.failed"]


@pytest.mark.parametrize("error", [RuntimeError("secret"), OSError("secret"), KeyError("secret")])
def test_what_nobody_expected_is_in_the_log_and_not_in_the_answer(
    serve: Callable[[Callable[[], Array]], Serving], logged: list[logging.LogRecord], error: Exception
) -> None:
    def fail() -> Array:
        raise error

    serving = serve(fail)
    for number in range(2):
        status, answer = serving.infer(X_Request_Id=f"r-{number}")
        assert (status, answer) == (500, {"error": "the worker failed on this call; its log says why"})
    for number, record in enumerate(logged):
        fields = vars(record)
        assert (fields["request_id"], fields["model"], fields["version"]) == (f"r-{number}", "iris", "v1")
        assert fields["digest"] == DIGEST
        assert record.exc_info is not None
        assert record.exc_info[1] is error
    assert len(logged) == 2


@pytest.mark.parametrize("error", [MemoryError("secret"), ExecutionError("the model failed: std::bad_alloc")])
def test_a_call_for_which_there_is_no_memory_says_so(
    serve: Callable[[Callable[[], Array]], Serving], logged: list[logging.LogRecord], error: Exception
) -> None:
    def fail() -> Array:
        raise error

    status, answer = serve(fail).infer(X_Request_Id="r-7")
    text = "the call needs more memory than the model may use; send less in one call"
    assert (status, answer) == (507, {"error": text})
    (record,) = logged
    fields = vars(record)
    assert (fields["request_id"], fields["model"], fields["version"]) == ("r-7", "iris", "v1")
    assert record.exc_info is not None
    assert record.exc_info[1] is not None
    assert record.exc_info[1].__cause__ is error


def test_the_words_of_an_engine_need_not_be_unicode(
    serve: Callable[[Callable[[], Array]], Serving],
) -> None:
    def fail() -> Array:
        raise ExecutionError("no such file: caf\udce9")

    serving = serve(fail)
    for _ in range(2):
        assert serving.infer() == (500, {"error": "no such file: caf\N{REPLACEMENT CHARACTER}"})


@pytest.mark.parametrize("work", ["compress", "decompress"])
def test_a_failure_beside_the_model_is_answered(
    iris: Serving, logged: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("secret")

    monkeypatch.setattr(calls, work, fail)
    status, answer = iris.infer(gzip.compress(FLOWER), Content_Encoding="gzip", Accept_Encoding="gzip")
    assert (status, answer) == (500, {"error": "the worker failed on this call; its log says why"})
    assert [record.getMessage() for record in logged] == ["call.failed"]


@pytest.mark.parametrize(
    ("error", "status"), [(InputError("yours"), 400), (LoadError("ours"), 500), (ExecutionError("ours"), 500)]
)
def test_errors_have_the_status_of_their_family(
    serve: Callable[[Callable[[], Array]], Serving], error: Exception, status: int
) -> None:
    def fail() -> Array:
        raise error

    assert serve(fail).infer() == (status, {"error": str(error)})


def test_an_output_that_the_protocol_cannot_say_is_no_fault_of_the_caller(
    serve: Callable[[Callable[[], Array]], Serving],
) -> None:
    status, answer = serve(lambda: np.zeros(1, "complex64")).infer()
    assert status == 500
    assert answer["error"].startswith("output 'Y': dtype complex64 has no datatype")


def test_calls_are_counted(serve: Callable[[Callable[[], Array]], Serving]) -> None:
    begun, gate = threading.Event(), threading.Event()

    def wait() -> Array:
        begun.set()
        assert gate.wait(SECONDS)
        return np.zeros(1, "f4")

    serving = serve(wait)
    with serving.connect() as connection:
        connection.sendall(request("POST", INFER, FLOWER, "ModelKit-Role: canary"))
        assert begun.wait(SECONDS)
        assert serving.tally.ongoing == 1
        gate.set()
        assert read_answer(connection.makefile("rb"))[0] == 200
    assert serving.infer(b"{", ModelKit_Role="stable")[0] == 400
    assert serving.infer(FLOWER, Content_Encoding="br")[0] == 415
    serving.stop()
    numbers = serving.tally.numbers()
    assert serving.tally.ongoing == 0
    assert numbers.requests == {("canary", 200): 1, ("stable", 400): 1, ("", 415): 1}
    for histogram in (numbers.request, numbers.queue, numbers.compute):
        assert sum(histogram.counts) == 2
    assert numbers.compute.total <= numbers.request.total
    assert (numbers.succeeded.calls, numbers.failed.calls) == (1, 2)
    steps = numbers.succeeded
    assert steps.total >= steps.queue + steps.decode + steps.infer + steps.encode
    assert min(steps.queue, steps.decode, steps.infer, steps.encode) > 0
    assert abs(numbers.last_call - time.time()) < SECONDS


def test_a_client_that_leaves_harms_no_other(serve: Callable[[Callable[[], Array]], Serving]) -> None:
    begun, gate = threading.Event(), threading.Event()

    def wait() -> Array:
        begun.set()
        assert gate.wait(SECONDS)
        return np.zeros(1, "f4")

    serving = serve(wait)
    with serving.connect() as connection:
        connection.sendall(request("POST", INFER, FLOWER))
        assert begun.wait(SECONDS)
    with serving.connect() as connection:
        connection.sendall(request("POST", INFER, FLOWER)[:-5])
    gate.set()
    assert serving.infer()[0] == 200
    serving.stop()
    assert serving.tally.ongoing == 0


def test_a_stream_of_many_small_calls_fills_neither_the_queue_nor_the_loop(
    serve: Callable[..., Serving],
) -> None:
    threads: list[str] = []

    def work() -> Array:
        threads.append(threading.current_thread().name)
        return np.zeros(1, "f4")

    serving = serve(work, limits=QueueLimits(max_requests=64))
    for number in range(2_000):
        assert serving.infer()[0] == 200
        # A pause of the garbage collector makes a call slow, after which 32 must be quick again.
        if number >= 200 and threads[-1] == "http":
            break
    assert threads[-1] == "http", "quick calls are answered on the loop"
    threads.clear()
    call = message("inference.ModelInferRequest")(model_name="iris")
    tensor = call.inputs.add(name="input", datatype="FP32", shape=[0, 4])
    tensor.contents.SetInParent()
    calls = framed([call.SerializeToString()]) * 1000
    head = request("POST", STREAM_INFER, calls, "Content-Type: application/grpc", "Connection: close")
    with serving.connect() as client, client.makefile("rb") as stream:
        client.sendall(head)
        answer = stream.read()
    assert answer.count(b"triton_final_response") == len(threads) == 1000
    assert b"too many calls" not in answer
    assert answer.endswith(b"0\r\ngrpc-status: 0\r\n\r\n")
    assert threads.count("http") < 20
    assert serving.tally.ongoing == 0


def test_bodies_of_clients_that_left_are_not_kept(serve: Callable[[Callable[[], Array]], Serving]) -> None:
    begun, gate = threading.Event(), threading.Event()

    def hold() -> Array:
        begun.set()
        assert gate.wait(SECONDS)
        return np.zeros(1, "f4")

    serving = serve(hold)
    body, size = bytes(2_000_000), 0
    tracemalloc.start()
    try:
        with serving.connect() as busy:
            busy.sendall(request("POST", INFER, FLOWER))
            assert begun.wait(SECONDS)
            for _ in range(10):
                with serving.connect() as leaving:
                    leaving.sendall(request("POST", INFER, body))
                    wait(lambda: serving.app.queued == 1)
                wait(lambda: serving.app.queued == 0)
            size, _ = tracemalloc.get_traced_memory()
            gate.set()
            assert busy.recv(100)
    finally:
        tracemalloc.stop()
    assert size < 2 * len(body)


def test_a_connection_takes_many_calls(iris: Serving) -> None:
    with iris.connect() as connection, connection.makefile("rb") as stream:
        for number in range(100):
            body = FLOWER.replace(b"flower-1", b"flower-%d" % number)
            connection.sendall(request("POST", INFER, body))
            status, headers, answer = read_answer(stream)
            assert (status, json.loads(answer)["id"]) == (200, f"flower-{number}")
            assert "connection" not in headers


def test_calls_that_come_at_once_on_one_connection_are_answered_in_order(iris: Serving) -> None:
    sent = b"".join(
        request("POST", INFER, FLOWER.replace(b"flower-1", b"flower-%d" % number))
        + request("GET", "/v2/models/iris/ready")
        for number in range(20)
    )
    with iris.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(sent)
        for number in range(20):
            assert json.loads(read_answer(stream)[2])["id"] == f"flower-{number}"
            assert json.loads(read_answer(stream)[2])["ready"] is True


def test_many_connections_at_once(iris: Serving) -> None:
    outcomes: list[int] = []

    def call() -> None:
        outcomes.extend(iris.infer()[0] for _ in range(10))

    threads = [threading.Thread(target=call) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert outcomes == [200] * 160


@pytest.mark.parametrize(
    ("sent", "end"),
    [
        (request("POST", INFER, FLOWER), b"]}]}"),
        (request("POST", INFER, b"{"), b'"}'),
        (request("GET", "/v2/health/ready"), b'"ready":true}'),
        (request("GET", "/nothing"), b'"}'),
        (request("GET", INFER), b'"}'),
        (request("HEAD", INFER), b"\r\n\r\n"),
        (b"nonsense\r\n\r\n", b'"}'),
    ],
    ids=["infer", "400", "ready", "404", "405", "HEAD", "no HTTP"],
)
def test_head_and_body_of_an_answer_come_together(iris: Serving, sent: bytes, end: bytes) -> None:
    for _ in range(20):
        with iris.connect() as connection:
            connection.sendall(sent)
            first = connection.recv(65536)
            assert first.startswith(b"HTTP/1.1 ")
            assert first.endswith(end)


def test_a_client_may_ask_before_it_sends_the_body(iris: Serving) -> None:
    whole = request("POST", INFER, FLOWER, "Expect: 100-continue")
    with iris.connect() as connection:
        connection.sendall(whole.removesuffix(FLOWER))
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(FLOWER)
        assert read_answer(connection.makefile("rb"))[0] == 200


def test_a_stopped_server_has_left_its_port_and_its_connections(
    serve: Callable[[Callable[[], Array]], Serving],
) -> None:
    serving = serve(lambda: np.zeros(1, "f4"))
    asyncio.run(serving.server.check())
    with serving.connect() as idle:
        idle.sendall(request("GET", "/v2/health/ready"))
        assert idle.recv(65536)
        serving.stop()
        assert idle.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        serving.connect()
    with pytest.raises(RuntimeError, match="has ended"):
        asyncio.run(serving.server.check())


def test_a_worker_that_knows_its_edge_answers_nobody_else(iris: Serving) -> None:
    guarded = build_app(
        Identity("iris", "v1", DIGEST), Doing(lambda: np.zeros(1)), Tally(), AppOptions(edge_key="secret")
    )
    server = HttpServer(guarded, "127.0.0.1")
    server.start()
    try:
        for key, status in (("secret", 200), ("Secret", 403), ("", 403)):
            connection = http.client.HTTPConnection(server.host, server.port, timeout=SECONDS)
            connection.request("GET", "/v2/models/iris/ready", headers={"Kitserve-Edge": key})
            assert connection.getresponse().status == status
            connection.close()
    finally:
        server.stop()
        guarded.stop()


def test_a_model_may_be_called_like_an_action(iris: Serving) -> None:
    for name in ("infer", "ready", "versions", "models"):
        assert iris.ask("GET", f"/v2/models/{name}")[0] == 200
        assert json.loads(iris.ask("GET", f"/v2/models/{name}/versions/infer")[2])["platform"]
        assert iris.ask("POST", f"/v2/models/{name}/versions/ready/infer", FLOWER)[0] == 200

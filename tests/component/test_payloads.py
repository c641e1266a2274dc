"""Calls of every protocol become records, in a worker's own server: real sockets, real messages."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.codec.infer_request import write_request
from gateway.codec.tensor_documents import read_tensor_documents
from gateway.metrics.tally import Tally
from gateway.payloads.rules import Keep, PayloadRules
from gateway.wire.grpc_frames import framed
from gateway.wire.grpc_messages import message
from gateway.wire.server import HttpServer
from gateway.worker import payloads
from gateway.worker.assembly import build_app
from gateway.worker.version import AppOptions, Identity
from runtimes.base import TensorSpec
from tests.support.echo import Echo
from tests.support.engines import DONE, STREAM, FaultyEngine, chunk, delta, event
from tests.support.waiting import wait

INFER = "/v2/models/echo/infer"
GRPC = "/inference.GRPCInferenceService/"
CHAT = "/v1/chat/completions"
HEADERS = {
    "X-Request-Id": "a-1",
    "Kitserve-Caller": "shop",
    "ModelKit-Role": "stable",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}
NUMBERS = np.array([[1.5, -2.0]], np.float32)
WORDS = np.array([b"\xff\x00"], object)
ASK = {"model": "echo", "user": "ann", "messages": [{"role": "user", "content": "my number is 4711"}]}


class Serving:
    """A worker's server."""

    def __init__(self, model: Any) -> None:
        self.app = build_app(Identity("echo", "v1", "sha256:12"), model, Tally(), AppOptions())
        self.server = HttpServer(self.app, "127.0.0.1")
        self.server.start()
        self.lines: list[dict[str, Any]] = []
        self.dropped = 0

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=20)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, body, {**HEADERS, **names})
        response = connection.getresponse()
        result = response.status, response.read()
        connection.close()
        return result

    def record(self, sample: float = 1.0, **rules: Any) -> None:
        self.app.payloads.set_rules(PayloadRules(sample, **rules))

    def take(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many records, or drops."""

        def has_come() -> bool:
            lines, dropped = self.app.payloads.take()
            self.lines += map(orjson.loads, lines)
            self.dropped += dropped
            return len(self.lines) + self.dropped >= count

        wait(has_come)
        lines, self.lines = self.lines, []
        return lines

    def stop(self) -> None:
        self.server.stop()
        self.app.stop()


@pytest.fixture
def serve() -> Iterator[Callable[[Any], Serving]]:
    running: list[Serving] = []

    def start(model: Any) -> Serving:
        running.append(Serving(model))
        return running[-1]

    yield start
    for serving in running:
        serving.stop()


@pytest.fixture
def echo(serve: Callable[[Any], Serving]) -> Serving:
    return serve(Echo(TensorSpec("x", "FP32", (-1, 2)), optional=(TensorSpec("xw", "BYTES", (-1,)),)))


def infer(values: Any = NUMBERS) -> bytes:
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": list(values.shape),
        "data": values.reshape(-1).tolist(),
    }
    return json.dumps({"inputs": [tensor]}).encode()


def grpc_request() -> Any:
    request = message("inference.ModelInferRequest")(model_name="echo")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    request.inputs.add(name="xw", datatype="BYTES", shape=[1])
    request.raw_input_contents.extend([NUMBERS.tobytes(), b"\x02\x00\x00\x00\xff\x00"])
    return request


def test_each_protocol_of_tensors_is_recorded_in_one_form(echo: Serving) -> None:
    echo.record()
    assert echo.post(INFER, infer())[0] == 200
    body, json_size = write_request({"x": NUMBERS})
    assert echo.post(INFER, b"".join(body), Inference_Header_Content_Length=str(json_size))[0] == 200
    status, answer = echo.post("/v2/models/echo/predict", json.dumps({"instances": [{"x": [1.5, -2.0]}]}))
    assert status == 200, answer
    frame = framed([grpc_request().SerializeToString()])
    assert echo.post(GRPC + "ModelInfer", frame, Content_Type="application/grpc")[0] == 200
    assert echo.post(GRPC + "ModelStreamInfer", frame, Content_Type="application/grpc")[0] == 200
    records = echo.take(5)
    assert [record["protocol"] for record in records] == ["rest", "rest", "predict", "grpc", "grpc"]
    for record in records:
        assert (record["status"], record["role"], record["key"]) == (200, "stable", "shop")
        assert record["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
        assert record["request_id"] == "a-1"
        assert 0 < record["seconds"] < 10
        inputs = read_tensor_documents(record["request"]["inputs"])
        outputs = read_tensor_documents(record["answer"]["outputs"])
        assert inputs["x"].tolist() == outputs["y"].tolist() == NUMBERS.tolist()
        if record["protocol"] == "grpc":
            assert inputs["xw"].tolist() == outputs["yw"].tolist() == WORDS.tolist()


def test_what_is_never_to_be_recorded_does_not_leave_the_worker(echo: Serving) -> None:
    echo.record(redact=("inputs.x", "outputs.y"))
    assert echo.post(INFER, infer())[0] == 200
    (record,) = echo.take()
    assert record["redacted"] == ["inputs.x", "outputs.y"]
    assert b"1.5" not in orjson.dumps([record["request"], record["answer"]])
    assert record["request"]["inputs"][0]["shape"] == [1, 2]
    echo.record(redact=("inputs.X", "outputs.y"))
    assert echo.post(INFER, infer())[0] == 200
    (record,) = echo.take()
    assert "request" not in record
    assert record["omitted"] == {"request": "inputs.X: there is none in this body, which is of tensors"}
    echo.record(redact=("answer",))
    assert echo.post(INFER, infer())[0] == 200
    (record,) = echo.take()
    assert ("answer" in record, record["omitted"]) == (False, {"answer": "redacted"})


def test_bodies_are_left_out_that_failed_or_are_too_large(echo: Serving) -> None:
    echo.record(max_body=1024)
    assert echo.post(INFER, b'{"inputs": "my number is 4711"}')[0] == 400
    (record,) = echo.take()
    assert record["status"] == 400
    assert "4711" not in json.dumps(record)
    assert set(record["omitted"]) == {"request", "answer"}
    assert echo.post(INFER, infer(np.full((200, 2), 1 / 3, np.float32)))[0] == 200
    (record,) = echo.take()
    assert {side: reason[:9] for side, reason in record["omitted"].items()} == {
        "request": "too large",
        "answer": "too large",
    }
    echo.record(keep=Keep.REQUEST)
    assert echo.post(INFER, infer())[0] == 200
    (record,) = echo.take()
    assert ("request" in record, "answer" in record, "omitted" in record) == (True, False, False)


def test_what_is_too_much_is_dropped_and_counted(echo: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "MAX_PER_SECOND", 5)
    echo.record()
    for _ in range(40):
        assert echo.post(INFER, infer())[0] == 200
    lines = echo.take(40)
    assert len(lines) + echo.dropped == 40
    assert echo.dropped > 10
    echo.app.payloads.set_rules(None)
    assert echo.post(INFER, infer())[0] == 200
    assert echo.app.payloads.take() == ([], 0)


def test_a_caller_cannot_choose_whether_a_call_is_recorded(echo: Serving) -> None:
    echo.record(sample=1e-9)
    assert echo.post(INFER, infer(), traceparent=HEADERS["traceparent"], Kitserve_Sample="1")[0] == 200
    assert echo.app.payloads.take() == ([], 0)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_generated_text_is_recorded_as_one_answer(serve: Callable[[Any], Serving], is_streamed: bool) -> None:
    usage = {"id": "1", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    pieces = [delta("Hello"), delta(" Ann"), delta("", "stop"), event(usage), DONE]

    def behave(connection: Any, _request: bytes) -> None:
        connection.sendall(STREAM + b"".join(map(chunk, pieces)) + b"0\r\n\r\n")

    engine = FaultyEngine(behave)
    serving = serve(engine)
    serving.record(redact=("request/user", "request/prompt?"))
    status, body = serving.post(CHAT, json.dumps({**ASK, "stream": is_streamed, "seed": 7}))
    assert status == 200, body
    (record,) = serving.take()
    assert (record["protocol"], record["path"], record["redacted"]) == ("openai", CHAT, ["request/user"])
    assert record["request"] == {**ASK, "user": "[redacted]", "stream": is_streamed, "seed": 7}
    assert record["answer"]["choices"][0]["message"]["content"] == "Hello Ann"
    serving.record(redact=("request/messages/*/text", "answer/choices/*/message/content"))
    assert serving.post(CHAT, json.dumps(ASK))[0] == 200
    (record,) = serving.take()
    assert "4711" not in json.dumps(record)
    assert record["omitted"]["request"].startswith("request/messages/*/text: there is no text")
    assert record["answer"]["choices"][0]["message"]["content"] == "[redacted]"

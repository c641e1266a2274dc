"""Bodies made to take a worker's memory or time: what they cost is bounded, and others are served."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from gateway.control.front.grpc import GrpcServices
from gateway.control.front.grpc_reflection import PATHS
from gateway.edge.routes import Route, RoutingTable, Server
from gateway.wire.protobuf import field
from gateway.wire.server import HttpServer
from gateway.worker.mirror_sender import MIRROR_PATH
from runtimes.base import Array, TensorSpec
from tests.support.echo import Echo
from tests.support.edge import RunningEdge, backend
from tests.support.grpc_plane import Version
from tests.support.limited_worker import LimitedWorker, limited_worker
from tests.support.overview import FixedOverview
from tests.support.waiting import wait

MIB = 1024 * 1024
LARGEST = 64 * MIB
INFER = "/v2/models/iris/infer"
SERVICE = "/inference.GRPCInferenceService"
GRPC = {"Content-Type": "application/grpc", "TE": "trailers"}
CALL = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}).encode()
_SECONDS = 60


@pytest.fixture(scope="module")
def worker() -> Iterator[LimitedWorker]:
    with limited_worker() as worker:
        assert ask(worker.port, CALL) == (200, "")
        yield worker


def ask(
    port: int, body: bytes, path: str = INFER, headers: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Return the status and the error of a call, "" where there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.request("POST", path, body, dict(headers or {}))
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    error = answer.headers["grpc-message"] or ("" if answer.status == 200 else json.loads(content)["error"])
    return answer.status, error


@contextmanager
def others_are_served(worker: LimitedWorker, seconds: float, growth: int) -> Iterator[None]:
    """Call all the while; no call may take longer than that, nor the worker have so much more memory."""
    slowest, is_over, before = 0.0, threading.Event(), worker.forget_peak()
    failures: list[object] = []

    def call() -> None:
        nonlocal slowest
        while not is_over.wait(0.02):
            began = time.monotonic()
            answer = _ready(worker.port)
            if answer != 200:
                failures.append(answer)
            slowest = max(slowest, time.monotonic() - began)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield
    finally:
        is_over.set()
        caller.join()
    assert not failures
    assert slowest < seconds
    assert worker.peak - before < growth, f"{(worker.peak - before) / MIB:.0f} MiB"
    assert ask(worker.port, CALL) == (200, "")


def _ready(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    connection.request("GET", "/v2/models/iris/ready")
    status = connection.getresponse().status
    connection.close()
    return status


def tensor(data: bytes) -> bytes:
    return b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[%s]}]}' % data.rstrip(b",")


def filled(part: bytes, size: int = 60 * MIB) -> bytes:
    return part * (size // len(part))


def test_many_large_bodies_do_not_add_up(worker: LimitedWorker) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: w\r\nContent-Length: {LARGEST}\r\n\r\n".encode()
    statuses: list[bytes] = []
    with others_are_served(worker, 5, 100 * MIB), ExitStack() as stack:
        for _ in range(24):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", worker.port), _SECONDS))
            with suppress(OSError):
                client.sendall(head + bytes(8 * MIB))
            client.settimeout(0.2)
            with suppress(TimeoutError, OSError):
                statuses.append(client.recv(12)[9:12])
    assert statuses.count(b"503") >= 20, "three of 64 MiB have room"


def test_streams_with_messages_that_never_end_do_not_add_up(worker: LimitedWorker) -> None:
    frame = struct.pack(">BI", 0, 60 * MIB) + bytes(1000)
    head = (
        f"POST {SERVICE}/ModelStreamInfer HTTP/1.1\r\nHost: w\r\nContent-Type: application/grpc\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    refused = 0
    with others_are_served(worker, 5, 50 * MIB), ExitStack() as stack:
        for _ in range(30):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", worker.port), _SECONDS))
            client.sendall(head.encode() + b"%x\r\n%s\r\n" % (len(frame), frame))
            client.settimeout(0.2)
            answer = b""
            with suppress(TimeoutError):
                while piece := client.recv(65536):
                    answer += piece
            refused += b"grpc-status: 14" in answer
    assert refused == 27


@pytest.mark.parametrize("part", [b"{},", b"[],", b"[[[[]]]],"])
def test_a_small_body_does_not_inflate_to_objects(part: bytes, worker: LimitedWorker) -> None:
    bomb = gzip.compress(tensor(filled(part)))
    assert len(bomb) < 200_000
    with others_are_served(worker, 5, 120 * MIB), ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: ask(worker.port, bomb, headers={"Content-Encoding": "gzip"}), range(24))
        )
    assert {status for status, _ in answers} <= {413, 503}


def test_members_behind_one_another_and_in_one_another_are_no_way_around(worker: LimitedWorker) -> None:
    member = gzip.compress(tensor(filled(b"{},", MIB)))
    for body in (member * 60, gzip.compress(member * 60), gzip.compress(gzip.compress(filled(b"{}")))):
        with others_are_served(worker, 5, 50 * MIB):
            assert ask(worker.port, body, headers={"Content-Encoding": "gzip"})[0] in (400, 413)


@pytest.mark.parametrize("path", [INFER, "/v2/models/iris/predict"])
@pytest.mark.parametrize("part", [b"[],", b"{},", b'"ab",', b"[1],"])
def test_small_values_without_number_hold_up_nobody(part: bytes, path: str, worker: LimitedWorker) -> None:
    body = tensor(filled(part))
    with others_are_served(worker, 5, 150 * MIB):
        status, error = ask(worker.port, body, path, {"Content-Type": "application/json"})
    assert status == 400
    assert "too many values" in error or "lists and objects" in error


def nested(number: int, data: bytes) -> bytes:
    return b"".join(field(number, [data]))


@pytest.mark.parametrize(
    "message",
    [
        lambda: nested(5, nested(1, b"x") + nested(2, b"BYTES") + nested(5, filled(b"\x42\x00"))),
        lambda: nested(5, nested(1, b"x") + nested(5, nested(3, filled(b"\x01")))),
        lambda: filled(b"\x2a\x00"),
        lambda: filled(b"\x3a\x00"),
        lambda: nested(6, filled(b"\x12\x00")),
    ],
    ids=["strings", "numbers", "inputs", "raw contents", "parameters"],
)
def test_small_fields_without_number_become_no_objects(
    message: Callable[[], bytes], worker: LimitedWorker
) -> None:
    data = nested(1, b"iris") + message()
    body = struct.pack(">BI", 0, len(data)) + data
    with others_are_served(worker, 5, 250 * MIB):
        status, error = ask(worker.port, body, f"{SERVICE}/ModelInfer", GRPC)
    assert status == 400
    assert "more than" in error


def test_calls_of_one_connection_of_http_2_share_the_budget(tmp_path: Path) -> None:
    data = nested(1, b"iris") + nested(5, nested(1, b"x") + nested(2, b"FP32") + nested(3, b"\x80\x80\x20"))
    data += nested(7, bytes(2 * MIB))
    with limited_worker(body_bytes=8 * MIB, seconds=0.5) as worker:
        edge = RunningEdge(tmp_path)
        try:
            server = Server("v1", "127.0.0.1", worker.port)
            edge.control.apply(RoutingTable((Route("iris", backend("v1", server)),)))
            with grpc.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
                infer = channel.unary_unary(f"{SERVICE}/ModelInfer")
                before = worker.forget_peak()
                calls = [infer.future(data, timeout=_SECONDS) for _ in range(30)]
                codes = [call.code() for call in calls]
                texts = {call.details() for call in calls if call.code() is not grpc.StatusCode.OK}
                assert codes.count(grpc.StatusCode.OK) >= 3
                assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
                assert any("the bodies of other calls take" in (text or "") for text in texts)
                assert worker.peak - before < 60 * MIB
                assert infer(data, timeout=_SECONDS)
        finally:
            edge.stop()


def test_fixed_shapes_bound_the_body_of_a_call_but_not_of_a_mirrored_one() -> None:
    with limited_worker((1, 4)) as worker:
        status, error = ask(worker.port, bytes(3 * MIB))
        assert (status, error) == (413, "the body is larger than 1049088 bytes")
        compressed = gzip.compress(bytes(2 * MIB))
        assert ask(worker.port, compressed, headers={"Content-Encoding": "gzip"})[0] == 413
        connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=_SECONDS)
        connection.request("POST", MIRROR_PATH, bytes(3 * MIB))
        assert b"this is no mirrored call" in connection.getresponse().read()
        connection.close()
        assert worker.is_alive
        wait(lambda: worker.resident < 500 * MIB)


def test_answers_of_reflection_are_made_as_they_are_taken() -> None:
    """Each is 200 times as long as its request, and a client may take none of them."""
    request, calls = b"\x22\x1einference.GRPCInferenceService", 1500
    body = (struct.pack(">BI", 0, len(request)) + request) * calls
    head = f"POST {next(iter(PATHS))} HTTP/1.1\r\nContent-Type: application/grpc\r\nConnection: close\r\n"
    server = HttpServer(GrpcServices(FixedOverview()), "127.0.0.1")
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.settimeout(_SECONDS)
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            client.recv(1)
            time.sleep(0.2)
            (connection,) = server._shared.connections
            assert connection._transport.get_write_buffer_size() < MIB
            answers = b"".join(iter(lambda: client.recv(MIB), b""))
        assert answers.count(request) == calls
        assert b"grpc-status: 0\r\n" in answers[-64:]
    finally:
        server.stop()


class Repeating(Echo):
    """Gives back the one number that it is given 262,144 times, which are a MiB."""

    def __init__(self) -> None:
        super().__init__(TensorSpec("x", "FP32", (1,)))
        self.signature = replace(self.signature, outputs=(TensorSpec("y", "FP32", (MIB // 4,)),))

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        return {"y": np.repeat(super().infer(inputs)["y"], MIB // 4)}


def test_answers_of_a_stream_are_made_as_they_are_taken() -> None:
    """The answers may be longer than the calls, and a client may take none of them."""
    calls = 300
    tensor = [*field(1, [b"x"]), *field(2, [b"FP32"]), *field(3, [b"\x01"])]
    message = b"".join((*field(1, [b"big"]), *field(5, tensor), *field(7, [bytes(4)])))
    body = (struct.pack(">BI", 0, len(message)) + message) * calls
    head = (
        f"POST {SERVICE}/ModelStreamInfer HTTP/1.1\r\nContent-Type: application/grpc\r\nConnection: close\r\n"
    )
    version = Version("big", "v1", Repeating())
    try:
        with socket.create_connection(("127.0.0.1", version.server.port)) as client:
            client.settimeout(_SECONDS)
            length = f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + length.encode() + body)
            client.recv(1)
            time.sleep(0.3)
            (connection,) = version.server._shared.connections
            assert connection._transport.get_write_buffer_size() < 80 * MIB
            received = 0
            while piece := client.recv(MIB):
                received += len(piece)
        assert received > calls * MIB
        assert version.numbers.requests[("", 200)] == calls
    finally:
        version.stop()

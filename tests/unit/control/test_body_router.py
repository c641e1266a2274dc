"""Which model a body names, and how a call goes on that names one."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.control.body_router.body_router import MAX_READ_CALLS, BodyRouter
from gateway.control.body_router.named_model import MAX_NAME_BYTES, MAX_PARTS, ModelNotNamed, named_model
from gateway.control.body_router.routed_call import RefusedCall, RoutedCall
from gateway.wire.limits import BODY_BYTES
from tests.support.waiting import wait


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"chat"}',
        b' {\n"model"\t:\r "chat" } ',
        b'{"messages":[{"model":"x"},["model","y"]],"p":{"model":"z"},"model":"chat"}',
        b'{"a":"\\"model\\":\\"x\\"","model":"chat"}',
        b'{"a":"\\\\","model":"chat"}',
        b'{"model ":"x","Model":"y","model":"chat"}',
        b'{"x":"model","model":"chat"}',
        b'{"n":[1,2,3],"t":true,"model":"chat","z":null}',
        b'{"\\u006dode\\u006c":"\\u0063hat"}',
        b'{"a":"}]","model":"chat","b":"{["}',
    ],
)
def test_the_member_of_the_object_itself_names_the_model(body: bytes) -> None:
    assert named_model(body) == "chat"


def test_a_name_may_have_any_character() -> None:
    for name in ("", "é\x00\n", "\U0001f600", '"', "\\", "x" * 900):
        for is_ascii in (True, False):
            assert named_model(json.dumps({"model": name}, ensure_ascii=is_ascii).encode()) == name


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "must be a JSON object"),
        (b"[]", "must be a JSON object"),
        (b'"model"', "must be a JSON object"),
        (b"{}", "say which model"),
        (b'{"x":{"model":"a"}}', "say which model"),
        (b'{"model":"a","model":"a"}', "more than once"),
        (b'{"model":"a","mod\\u0065l":"b"}', "more than once"),
        (b'{"model":1}', "must be a string"),
        (b'{"model":null}', "must be a string"),
        (b'{"model":["a"]}', "must be a string"),
        (b'{"model":', "must be a string"),
        (b'{"model":"a', "ends within a string"),
        (b'{"model":"a\\"', "ends within a string"),
        (b'{"model":"a"', "ends within an object"),
        (b'{"model":"\\x"}', "not a string of JSON"),
        (b'{"model":"\xff"}', "not a string of JSON"),
        (b'{"model":"' + b"a" * MAX_NAME_BYTES + b'"}', "longer than"),
    ],
)
def test_a_body_that_names_no_model_says_why(body: bytes, text: str) -> None:
    with pytest.raises(ModelNotNamed, match=text):
        named_model(body)


def test_a_body_of_many_parts_takes_no_long_time() -> None:
    started = time.thread_time()
    for body in (
        b'{"a":' + b"[" * MAX_PARTS * 2,
        b'{"a":' + b'"",' * MAX_PARTS * 2,
        b'{"a":"' + b'\\"' * MAX_PARTS * 2 + b'","model":"chat"}',
    ):
        with pytest.raises(ModelNotNamed, match="too many parts"):
            named_model(body)
    assert named_model(b'{"a":"' + b"\\" * BODY_BYTES + b'","model":"chat"}') == "chat"
    assert time.thread_time() - started < 10, "seconds on a busy machine"


def read(*pieces: bytes) -> RoutedCall:
    call = RoutedCall()
    for piece in pieces:
        call.feed(piece)
    return call


def test_a_call_goes_on_with_the_model_in_a_header() -> None:
    call = read(
        b"POST /v1/x?y=z HTTP/1.1\r\nHost: edge\r\nExpect: 100-continue\r\nModelKit-Model:\r\n",
        b"X-Gateway-Model-Name: \r\nX-Request-Id: r\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc",
        b"\r\n2\r\nde\r\n",
        b"0\r\nTrailer: x\r\n\r\n",
    )
    assert call.is_complete
    assert call.take_body() == b"abcde"
    assert call.head_for("chat:v1") == (
        b"POST /v1/x?y=z HTTP/1.1\r\nHost: edge\r\nX-Request-Id: r\r\n"
        b"ModelKit-Model: chat:v1\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"
    )


def test_a_call_is_complete_with_its_last_byte() -> None:
    call = read(b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nab")
    assert not call.is_complete
    call.feed(b"cd")
    assert call.is_complete


def test_a_call_that_cannot_go_on_is_refused() -> None:
    with pytest.raises(RefusedCall, match=r"not HTTP/1\.1") as refused:
        read(b"hello\r\n\r\n")
    assert refused.value.answer().startswith(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(RefusedCall) as refused:
        read(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES + 1))
    assert refused.value.status == 413
    call = read(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (BODY_BYTES + 1))
    call.feed(bytes(BODY_BYTES))
    with pytest.raises(RefusedCall) as refused:
        call.feed(b"x")
    assert refused.value.status == 413
    for name in ("a\r\nb: c", "\x00", " a", "", "\x7f"):
        with pytest.raises(RefusedCall, match="unknown model") as refused:
            read(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n").head_for(name)
        assert b'"code":"model_not_found"' in refused.value.answer()
    assert b"retry-after: 1" in RefusedCall(503, "later").answer()


def test_a_body_counts_until_the_edge_has_taken_it(tmp_path: Path) -> None:
    """The edge takes none of a model that sleeps, so bodies wait here, and no more than there is room for."""
    body = b'{"p":"%s","model":"chat"}' % (b"x" * 4 * 2**20)
    call = b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with socket.socket(socket.AF_UNIX) as edge:
        edge.bind(str(tmp_path / "edge"))
        edge.listen()
        router = BodyRouter(tmp_path / "router", tmp_path / "edge")
        router.start()
        try:
            for takes_it in (True, False):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(tmp_path / "router"))
                    client.sendall(call)
                    connection, _ = edge.accept()
                    with connection:
                        connection.recv(1)
                        assert router._budget.used == len(body)
                        received = 0
                        while takes_it and received < len(body):
                            received += len(connection.recv(2**20))
                        if takes_it:
                            wait(lambda: router._budget.used == 0)
                wait(lambda: router._budget.used == 0)
        finally:
            router.stop()


def test_one_caller_does_not_take_all_places_with_bodies_that_come_slowly(tmp_path: Path) -> None:
    def call(stack: ExitStack, source: str) -> socket.socket:
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.settimeout(10)
        client.connect(str(tmp_path / "router"))
        head = (
            f"POST /v1/completions HTTP/1.1\r\nKitserve-Source: {source}\r\nContent-Length: 1000000\r\n\r\n"
        )
        client.sendall(head.encode() + b"{")
        return client

    router = BodyRouter(tmp_path / "router", tmp_path / "edge")
    router.start()
    try:
        with ExitStack() as stack:
            for _ in range(MAX_READ_CALLS):
                call(stack, "10.0.0.1")
            assert call(stack, "10.0.0.1").recv(100).startswith(b"HTTP/1.1 503 ")
            other = call(stack, "10.0.0.2")
            other.sendall(b"x" * 999_999)
            assert other.recv(100).startswith(b"HTTP/1.1 400 "), "it was read, and is no JSON"
        wait(lambda: not router._reading)
        assert router._budget.used == 0
    finally:
        router.stop()

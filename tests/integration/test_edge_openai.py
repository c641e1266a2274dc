"""Calls of the OpenAI API at a real edge: which model and version they are for, and errors in its form."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.control.body_router import body_router
from gateway.control.body_router.body_router import BodyRouter
from gateway.edge.openai import MODEL_HEADERS
from gateway.edge.routes import Backend, Route, RoutingTable, Server
from gateway.wire import limits
from gateway.wire.limits import BODY_BYTES
from tests.support.chat_worker import ChatWorker, chat_worker
from tests.support.edge import RunningEdge
from tests.support.waiting import wait

CHAT = "/v1/chat/completions"
DIGESTS = {version: f"sha256:{hashlib.sha256(version.encode()).hexdigest()}" for version in ("v1", "v2")}
SHORT = {version: digest[7:19] for version, digest in DIGESTS.items()}
LONG = "x" * 300_000


@dataclass
class Plane:
    """A model `chat` with the versions v1 and v2, the second a canary of 0 %; `late` is not ready."""

    edge: RunningEdge
    router: BodyRouter
    workers: Mapping[str, ChatWorker]

    def call(
        self, body: object, path: str = CHAT, headers: Mapping[str, str] | None = None, method: str = "POST"
    ) -> tuple[int, dict[str, str], Any]:
        """Call the edge; a body that is no bytes is written as JSON. Returns status, headers and JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.edge.port, timeout=20)
        if not isinstance(body, bytes):
            body = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
        connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return (
            answer.status,
            {name.lower(): value for name, value in answer.headers.items()},
            json.loads(text),
        )

    def seen(
        self, body: object, path: str = CHAT, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Call the edge, and return what the worker got."""
        status, _, document = self.call(body, path, headers)
        assert status == 200, document
        seen: dict[str, Any] = json.loads(document["choices"][0]["message"]["content"])
        return seen

    def refused(
        self, body: object, path: str = CHAT, headers: Mapping[str, str] | None = None, method: str = "POST"
    ) -> tuple[int, dict[str, Any]]:
        """Call the edge, and return the status and the error, which must be in OpenAI's form."""
        status, answer, document = self.call(body, path, headers, method)
        assert document.keys() == {"error"}
        assert document["error"].keys() == {"message", "type", "param", "code"}
        assert answer["content-type"] == "application/json"
        assert len(answer["x-request-id"]) > 5
        assert ("retry-after" in answer) == (status == 503)
        return status, document["error"]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with ExitStack() as stack:
        edge = RunningEdge(tmp_path_factory.mktemp("edge"), key="secret")
        stack.callback(edge.stop)
        router = BodyRouter(edge.files.router_socket, edge.files.routed_socket)
        router.start()
        stack.callback(router.stop)
        workers, backends = {}, []
        for version in DIGESTS:
            workers[version], server = stack.enter_context(chat_worker(version))
            names = (version, DIGESTS[version], SHORT[version])
            backends.append(Backend(f"chat.{version}", names, (server,)))
        stable, canary = backends
        edge.control.apply(RoutingTable((Route("chat", stable, canary, 0), Route("late"))))
        yield Plane(edge, router, workers)


def test_a_body_names_the_model(plane: Plane) -> None:
    seen = plane.seen({"model": "chat", "messages": []})
    assert (seen["version"], seen["path"], seen["role"]) == ("v1", CHAT, "stable")
    assert plane.seen({"messages": [{"content": '"model": "other"'}], "model": "chat"})["version"] == "v1"
    assert plane.seen(b'{"model":"\\u0063h\\u0061t"}')["version"] == "v1"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_version_follows_the_name(plane: Plane, version: str) -> None:
    for name in (f"chat:{version}", f"chat@{DIGESTS[version]}", f"chat@{SHORT[version]}"):
        for body, headers in (
            ({"model": name}, {}),
            ({"padding": LONG, "model": name}, {}),
            ({}, {"ModelKit-Model": name}),
            ({"model": "chat"}, {"X-Gateway-Model-Name": name}),
        ):
            assert plane.seen(body, headers=headers)["version"] == version, (name, headers)
        assert plane.seen({}, f"/models/{name}{CHAT}")["version"] == version


def test_header_then_path_then_body_name_the_model(plane: Plane) -> None:
    chat = {"model": "chat"}
    for path, headers, body in [
        (CHAT, {"ModelKit-Model": "chat", "X-Gateway-Model-Name": "none"}, {"model": "none"}),
        (CHAT, {"X-Gateway-Model-Name": "chat"}, {"model": "none"}),
        (CHAT, {"ModelKit-Model": ""}, chat),
        (f"/models/chat{CHAT}", {}, {"model": "none"}),
        (f"/models/none{CHAT}", {"ModelKit-Model": "chat"}, chat),
    ]:
        seen = plane.seen(body, path, headers)
        assert (seen["version"], seen["path"]) == ("v1", CHAT), (path, headers)


def test_a_base_url_names_model_and_version(plane: Plane) -> None:
    for path, version in [
        ("/models/chat", "v1"),
        ("/models/chat/versions/v2", "v2"),
        (f"/models/chat/versions/{SHORT['v2']}", "v2"),
        (f"/models/chat/versions/{DIGESTS['v2'].replace(':', '%3A')}", "v2"),
        ("/models/chat:v1/versions/v2", "v2"),
    ]:
        assert plane.seen({}, path + CHAT)["version"] == version, path
    assert plane.seen({}, f"/models/chat{CHAT}", {"ModelKit-Version": "v2"})["version"] == "v2"
    assert plane.seen({"model": "chat:v1"}, headers={"ModelKit-Version": "v2"})["version"] == "v2"
    status, _, document = plane.call(None, "/models/chat/v1/models?x=/models/a/v1/b", method="GET")
    assert (status, json.loads(document["choices"][0]["message"]["content"])["path"]) == (200, "/v1/models")


@pytest.mark.parametrize("form", ["sized", "chunked"])
@pytest.mark.parametrize(
    "document",
    [
        {"model": "chat", "padding": "x" * 1_300_000},
        {"padding": LONG, "model": "chat"},
        {"padding": "x" * 5_000_000, "model": "chat"},
    ],
    ids=["early", "late", "some MB"],
)
def test_a_long_body_reaches_the_worker_as_it_is(plane: Plane, document: dict[str, str], form: str) -> None:
    body = json.dumps(document).encode()
    connection = http.client.HTTPConnection("127.0.0.1", plane.edge.port, timeout=20)
    data = body if form == "sized" else iter([body[:70_000], body[70_000:]])
    connection.request("POST", CHAT, data, {"X-Request-Id": "r-1"})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["X-Request-Id"]) == (200, "r-1")
    seen = json.loads(json.loads(answer.read())["choices"][0]["message"]["content"])
    assert seen == {
        "version": "v1",
        "method": "POST",
        "path": CHAT,
        "role": "stable",
        "request_id": "r-1",
        "digest": hashlib.sha256(body).hexdigest(),
    }
    assert answer.headers["ModelKit-Version"] == "v1"
    connection.close()


@pytest.mark.parametrize("padding", ["", LONG], ids=["short", "long"])
@pytest.mark.parametrize(
    "name",
    [
        "none",
        "chat/v1",
        "chat:v1/x",
        "chat:stable",
        "chat::state",
        "chat:state:x",
        "..",
        "../chat",
        ":ready",
        "chat@",
        "chat@sha256:v1",
        "chat@" + "A" * 12,
        "chät",
        "chat ",
        " chat",
        "%63hat",
        'ch"at',
        "chat\\",
        "chat'; x",
        "%[path]",
        "x" * 900,
    ],
)
def test_an_unknown_name_is_told_as_openai_does(plane: Plane, name: str, padding: str) -> None:
    status, error = plane.refused({"padding": padding, "model": name})
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    shown = name.partition(":")[2] if name == "chat:stable" else name[:150]
    assert shown in error["message"]


@pytest.mark.parametrize("name", ["chat\n", "chat\x00:state", "chat\r\nModelKit-Version: v2", "\x7f"])
@pytest.mark.parametrize("padding", ["", LONG], ids=["short", "long"])
def test_no_name_breaks_out_of_its_place(plane: Plane, name: str, padding: str) -> None:
    status, error = plane.refused({"padding": padding, "model": name})
    assert (status, error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("padding", [b"", LONG.encode()], ids=["short", "long"])
@pytest.mark.parametrize(
    ("member", "statuses"),
    [
        (b"", {400}),
        (b',"model":null', {400}),
        (b',"model":["chat"]', {400}),
        (b',"model":{"model":"chat"}', {400}),
        (b',"x":{"model":"chat"}', {400}),
        (b',"model":5', {400, 404}),
        (b',"model":true', {400, 404}),
        (b',"model":"ch\\u0101t"', {400, 404}),
    ],
)
def test_what_names_no_model_is_refused(
    plane: Plane, member: bytes, statuses: set[int], padding: bytes
) -> None:
    status, error = plane.refused(b'{"p":"%s"%s}' % (padding, member))
    assert status in statuses
    assert error["param"] == "model"


@pytest.mark.parametrize(
    "body", [b"", b"not JSON", b"[]", b'["model"]', b"null", b'{"model"', b'{"p":"' + b"y" * 100_000]
)
def test_what_is_no_object_is_refused(plane: Plane, body: bytes) -> None:
    status, error = plane.refused(body)
    assert (status, error["type"]) == (400, "invalid_request_error")


def test_a_key_may_be_written_with_escapes(plane: Plane) -> None:
    for padding in ("", LONG):
        body = f'{{"p":"{padding}","\\u006dod\\u0065l":"chat:v2"}}'.encode()
        assert plane.seen(body)["version"] == "v2"
    status, error = plane.refused(b'{"\\u006dodels":"chat"}')
    assert (status, error["code"]) == (400, None)


def test_a_compressed_body_must_not_name_the_model(plane: Plane) -> None:
    for padding in ("", LONG):
        body = gzip.compress(json.dumps({"p": padding, "model": "chat"}).encode(), 0)
        status, error = plane.refused(body, headers={"Content-Encoding": "gzip"})
        assert (status, "send the header ModelKit-Model" in error["message"]) == (415, True)
        headers = {"Content-Encoding": "gzip", "ModelKit-Model": "chat"}
        assert plane.seen(body, headers=headers)["digest"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("header", MODEL_HEADERS)
@pytest.mark.parametrize("values", [("chat", "chat:v2"), ("chat", "none"), ("chat", "chat")])
def test_a_header_that_names_two_models_is_refused(
    plane: Plane, header: str, values: tuple[str, str]
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", plane.edge.port, timeout=20)
    connection.putrequest("POST", CHAT)
    for value in values:
        connection.putheader(header, value)
    connection.putheader("Content-Length", "2")
    connection.endheaders(b"{}")
    answer = connection.getresponse()
    assert answer.status == 400
    assert "more than once" in json.loads(answer.read())["error"]["message"]
    connection.close()


def test_a_slow_sender_does_not_keep_its_place(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_router, "READ_SECONDS", 1.0)
    with socket.create_connection(("127.0.0.1", plane.edge.port), timeout=10) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n"
        connection.sendall(head.encode() + b'{"p":"' + b"x" * 100_000)
        answer = b""
        while b'"code"' not in answer and (part := connection.recv(65536)):
            answer += part
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"message":"the request took too long to arrive"' in answer
    wait(lambda: plane.router._server.connections == 0)
    assert plane.router._budget.used == 0


def test_a_late_model_that_is_there_twice_is_refused(plane: Plane) -> None:
    for second in ('"model"', '"mo\\u0064el"'):
        body = f'{{"p":"{LONG}","model":"chat",{second}:"chat"}}'.encode()
        status, error = plane.refused(body)
        assert (status, error["message"]) == (400, "the body has `model` more than once")


def test_errors_of_the_edge_are_in_openais_form(plane: Plane) -> None:
    for body, path, headers, method, expected, text in [
        ({"model": "chat:v9"}, CHAT, {}, "POST", 404, "model chat has no version v9 that is served"),
        ({}, f"/models/chat/versions/v9{CHAT}", {}, "POST", 404, "no version v9"),
        ({}, f"/models/none{CHAT}", {}, "POST", 404, "no model is named none"),
        (None, "/models/none/v1/models", {}, "GET", 404, "no model is named none"),
        ({}, CHAT, {"ModelKit-Model": "none"}, "POST", 404, "no model is named none"),
        ({"model": "late"}, CHAT, {}, "POST", 503, "model late is not ready yet: loading"),
        ({}, CHAT, {}, "POST", 400, "say which model"),
        (None, CHAT, {}, "GET", 405, "GET is not allowed here; use POST"),
        (None, "/v1/nothing", {}, "GET", 404, "no such path: /v1/nothing"),
        (None, "/v1", {}, "GET", 404, "no such path: /v1"),
        ({}, "/v1/nothing", {}, "POST", 404, "no such path: /v1/nothing"),
    ]:
        status, error = plane.refused(body, path, headers, method)
        assert (status, text in error["message"]) == (expected, True), (path, error)
    assert plane.call({"model": "chat"}, CHAT + "?status=429")[0] == 429, "a worker's own answer stays"


def test_who_has_a_wrong_base_url_is_told_the_right_one(plane: Plane) -> None:
    for path in (
        "/chat/completions",
        "/models",
        "/openai/deployments/chat/chat/completions",
        "/models/chat/embeddings",
    ):
        status, error = plane.refused({"model": "chat"}, path)
        assert (status, error["message"]) == (
            404,
            f"no such path: {path}; the base URL of the OpenAI API is http://HOST/v1, "
            "or http://HOST/models/NAME/v1 for one model",
        )
    status, _, document = plane.call({"model": "chat"}, "/api/chat")
    assert (status, document["error"]) == (
        404,
        "no such path: /api/chat; the API of Ollama is not served; call the OpenAI API, at /v1",
    )


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(plane: Plane) -> None:
    with socket.create_connection(("127.0.0.1", plane.edge.port), timeout=10) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY_BYTES + 1}\r\n\r\n"
        connection.sendall(head.encode() + b" " * 100_000)
        answer = b""
        while b'"code"' not in answer and (part := connection.recv(65536)):
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"message":"the body is larger than' in answer


def test_streams_pass_as_they_come(plane: Plane) -> None:
    worker = plane.workers["v1"]
    worker.gap = 0.5
    try:
        for body in ({"stream": True, "model": "chat"}, {"stream": True, "p": LONG, "model": "chat"}):
            connection = http.client.HTTPConnection("127.0.0.1", plane.edge.port, timeout=20)
            connection.request("POST", CHAT, json.dumps(body))
            answer = connection.getresponse()
            assert answer.readline().startswith(b"data: ")
            assert worker.inside == 1, "the first part is here while the rest is made"
            assert answer.read().endswith(b"data: [DONE]\n\n")
            connection.close()
    finally:
        worker.gap = 0.0


@pytest.mark.parametrize("padding", ["", LONG], ids=["direct", "routed"])
@pytest.mark.parametrize("query", ["?hold", ""], ids=["unanswered", "within a stream"])
def test_a_hang_up_reaches_the_worker(plane: Plane, padding: str, query: str) -> None:
    worker = plane.workers["v1"]
    worker.gap = 30.0
    try:
        connection = http.client.HTTPConnection("127.0.0.1", plane.edge.port, timeout=20)
        connection.request("POST", CHAT + query, json.dumps({"stream": True, "p": padding, "model": "chat"}))
        wait(lambda: worker.inside == 1)
        connection.sock.close()
        wait(lambda: worker.inside == 0, 2)
    finally:
        worker.gap = 0.0


def test_an_absent_body_router_is_told(plane: Plane) -> None:
    plane.router.stop()
    try:
        status, error = plane.refused({"p": LONG, "model": "chat"})
        assert (status, error["message"]) == (503, "the gateway is being started; ask again")
        assert plane.seen({"p": LONG, "model": "chat"}, headers={"ModelKit-Model": "chat"})["version"] == "v1"
        assert plane.seen({"model": "chat", "p": LONG})["version"] == "v1"
    finally:
        plane.router = BodyRouter(plane.edge.files.router_socket, plane.edge.files.routed_socket)
        plane.router.start()
    assert plane.seen({"p": LONG, "model": "chat"})["version"] == "v1"


def test_the_way_back_from_the_body_router_leads_nowhere_else(plane: Plane) -> None:
    """What comes on the router's own socket goes to no router, so no call goes round."""
    server = plane.router._server
    wait(lambda: not server.connections)  # the calls of other tests are over
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(plane.edge.files.routed_socket))
        body = json.dumps({"p": LONG, "model": "chat"}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        threading.Thread(target=_send, args=(connection, head.encode() + body), daemon=True).start()
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert not server.connections


def _send(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        connection.sendall(data)


def test_openais_client_finds_models_and_versions(plane: Plane) -> None:
    for model, base_url, version in [
        ("chat", "/v1", "v1"),
        ("chat:v2", "/v1", "v2"),
        (f"chat@{SHORT['v2']}", "/v1", "v2"),
        ("anything", "/models/chat/v1", "v1"),
        ("anything", "/models/chat/versions/v2/v1", "v2"),
    ]:
        client = openai.OpenAI(base_url=plane.edge.url + base_url, api_key="-", max_retries=0)
        for text in ("Hello", LONG):
            answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
            assert json.loads(answer.choices[0].message.content or "")["version"] == version
        stream = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": LONG}], stream=True
        )
        said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert json.loads(said)["version"] == version
    client = openai.OpenAI(base_url=f"{plane.edge.url}/v1", api_key="-", max_retries=0)
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="none", messages=[])
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.InternalServerError, match="model late is not ready yet: loading"):
        client.chat.completions.create(model="late", messages=[])


def test_a_first_token_may_be_long_in_coming_and_other_answers_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CALL_SECONDS", 1)
    monkeypatch.setattr(limits, "STREAM_SECONDS", 3)
    edge = RunningEdge(tmp_path)
    router = BodyRouter(edge.files.router_socket, edge.files.routed_socket)
    router.start()
    garbage = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_answer_with_garbage, args=(garbage,), daemon=True).start()
    try:
        with chat_worker("v1") as (worker, server):
            plane = Plane(edge, router, {})
            broken = Server("broken", "127.0.0.1", garbage.getsockname()[1])
            chat, other = (Backend(name, ("v1",), (place,)) for name, place in (("a", server), ("b", broken)))
            edge.control.apply(RoutingTable((Route("chat", chat), Route("other", other))))
            worker.gap = 2.0
            client = openai.OpenAI(base_url=f"{edge.url}/v1", api_key="-", max_retries=0)
            stream = client.chat.completions.create(model="chat", messages=[], stream=True)
            assert "v1" in "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            status, error = plane.refused({"model": "chat"}, CHAT + "?hold")
            assert (status, error["message"]) == (504, "the worker did not answer in time")
            status, error = plane.refused({"model": "other"})
            assert (status, error["message"][:34]) == (502, "the worker answered no valid HTTP;")
        status, error = plane.refused({"model": "chat"})
        assert (status, error["type"]) == (503, "service_unavailable")
    finally:
        garbage.close()
        router.stop()
        edge.stop()


def _answer_with_garbage(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                head = connection.recv(65536)
                is_check = b"/v2/health/ready" in head
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" if is_check else b"SSH-2.0-OpenSSH\r\n\r\n")

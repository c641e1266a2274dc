"""Every error that HAProxy answers itself, in the form that its caller reads."""

from __future__ import annotations

import json
import socket

import grpc
import pytest

from gateway.codec.openai.errors import error_body
from gateway.edge.error_map import ERRORS
from gateway.edge.routes import Route, RoutingTable
from gateway.wire.grpc_status import CODES
from tests.support.edge import RunningEdge

FIRST_RULE = "    acl of_model   var(txn.model) -m found\n"


@pytest.fixture
def refusing(edge: RunningEdge) -> RunningEdge:
    """An edge that refuses each call with the status that its header X-Refuse names."""
    edge.control.apply(RoutingTable((Route("iris"),)))
    rules = "".join(
        f"    http-request deny deny_status {status} if {{ req.hdr(x-refuse) {status} }}\n"
        for status in ERRORS
    )
    config = edge.files.config.read_text()
    edge.files.config.write_text(config.replace(FIRST_RULE, rules + FIRST_RULE, 2))
    edge.control._haproxy.reload()
    return edge


def test_each_status_is_json_in_the_form_of_its_path(refusing: RunningEdge) -> None:
    for status, text in ERRORS.items():
        for path, body in (
            ("/v2/models/iris/infer", {"error": text}),
            ("/v1/models/x:predict", {"error": text}),
            ("/elsewhere", {"error": text}),
            ("/v1/models", json.loads(error_body(status, text))),
            ("/models/iris/v1/models", json.loads(error_body(status, text))),
        ):
            answer = refusing.get(path, {"X-Refuse": str(status)})
            assert (answer[0], json.loads(answer[2])) == (status, body), path
            assert answer[1]["Content-Type"] == "application/json"


def test_each_status_is_a_code_to_a_grpc_client(refusing: RunningEdge) -> None:
    with grpc.insecure_channel(refusing.url.removeprefix("http://")) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        for status, text in ERRORS.items():
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", metadata=(("x-refuse", str(status)),), timeout=10)
            answer = caught.value
            assert answer.code().value[0] == CODES[status], status
            assert answer.details() == text


@pytest.mark.parametrize(
    "head",
    [
        b"<script>\r\n\r\n",
        b"GET /<script> HTTP/1.1\r\n<script>\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: <script>\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /\x00<script> HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["no request", "no header", "two lengths", "a null byte"],
)
def test_what_is_no_http_is_answered_with_nothing_of_it_and_the_connection_ends(
    edge: RunningEdge, head: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=5) as connection:
        connection.sendall(head)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"script" not in answer


def test_a_nul_in_a_path_is_in_no_name(edge: RunningEdge) -> None:
    edge.control.apply(RoutingTable((Route("iris"),)))
    for path in ("/v2/models/iris%00x/infer", "/v2/models/iris/versions/v1%00/infer", "/v1/models?a=%00"):
        status, headers, body = edge.get(path)
        assert (status, headers["Content-Type"]) == (400, "application/json")
        assert "NUL" in json.loads(body)["error"]

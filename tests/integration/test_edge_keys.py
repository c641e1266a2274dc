"""Who may call: keys and tokens at a real edge, as callers of each protocol see them."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import openai
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
import yaml

from gateway.config.config import GatewayConfig
from gateway.control.body_router.body_router import BodyRouter
from gateway.edge.access_files import AccessFiles
from gateway.edge.files import EdgeFiles
from gateway.edge.keys import hash_of, new_key
from gateway.edge.routes import Backend, Route, RoutingTable, Rules, Server
from runtimes.base import TensorSpec
from tests.support.echo import Echo
from tests.support.edge import RunningEdge, Workers, backend
from tests.support.grpc_plane import Version
from tests.support.jwt import Issuer, with_secret
from tests.support.waiting import wait

INFER = "/v2/models/iris/infer"
CHAT = "/v1/chat/completions"


class Lists(BaseHTTPRequestHandler):
    """Stands for the gateway: says of which models a caller may be told."""

    def do_GET(self) -> None:
        shown = (self.headers.get("Kitserve-Models") or "all").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(shown)))
        self.end_headers()
        self.wfile.write(shown)

    def log_message(self, *_: object) -> None:
        pass


class Guarded:
    """An edge with keys: iris has stable v1 and canary v2, wine has v3, echo takes tensors."""

    def __init__(self, directory: Path, workers: Workers, access_log: Any = "off") -> None:
        names = ("all", "iris", "version", "slow", "minute", "chatty", "canary")
        self.keys = {name: new_key() for name in names}
        self.file = directory / "keys.yaml"
        self.entries: dict[str, dict[str, Any]] = {
            "all": {},
            "iris": {"models": ["iris"]},
            "version": {"models": ["iris@v1", "iris@v2", "wine"]},
            "slow": {"per_second": 3},
            "minute": {"per_minute": 4},
            "chatty": {"per_minute": 3},
            "canary": {"models": ["iris"], "may_choose_canary": True},
        }
        self.write()
        self.issuer, self.other = Issuer(directory, "id"), Issuer(directory, "other", "ES256")
        self.stranger = Issuer(directory, "stranger")
        common = {"issuer": "https://id.example.com", "audience": "kitserve"}
        tokens = [
            {
                "name": "people",
                "algorithm": "RS256",
                "key_file": self.issuer.key_file,
                "per_minute": 30,
                **common,
            },
            {
                "name": "robots",
                "algorithm": "ES256",
                "key_file": self.other.key_file,
                "models": ["iris"],
                **common,
            },
        ]
        config = GatewayConfig.model_validate({"keys": {"file": self.file, "tokens": tokens}})
        files = EdgeFiles(directory / "edge")
        self.access = AccessFiles(config, files)
        self.gateway = ThreadingHTTPServer(("127.0.0.1", 0), Lists)
        threading.Thread(target=self.gateway.serve_forever, daemon=True).start()
        admin = f"127.0.0.1:{self.gateway.server_port}"
        self.edge = RunningEdge(files.directory, admin, access_log=access_log, access=self.access.access)
        self.echo = Version("echo", "v1", Echo(TensorSpec("x_FP32", "FP32", (-1, 2))))
        rules = Rules(match=(("x-canary", "yes"),), watched=(("match", "x-canary"),))
        stable, canary = backend("v1", workers.start("v1")), backend("v2", workers.start("v2"))
        self.routes = (
            Route("iris", stable, canary, rules=rules),
            Route("wine", backend("v3", workers.start("v3"))),
            Route("echo", self.echo.backend),
        )
        self.edge.control.apply(RoutingTable(self.routes))
        self.access.start()

    def write(self) -> None:
        keys = [
            {"name": name, "sha256": hash_of(self.keys[name]), **entry}
            for name, entry in self.entries.items()
        ]
        self.file.write_text(yaml.safe_dump({"keys": keys}))

    def get(
        self, path: str, key: str, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> tuple[int, Any, bytes]:
        bearer = {"Authorization": f"Bearer {self.keys.get(key, key)}"}
        return self.edge.get(path, {**bearer, **(headers or {})}, method)

    def stop(self) -> None:
        self.access.stop()
        self.edge.stop()
        self.echo.stop()
        self.gateway.shutdown()
        self.gateway.server_close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    workers = Workers()
    guarded = Guarded(tmp_path_factory.mktemp("guarded"), workers)
    yield guarded
    guarded.stop()
    workers.stop()


def test_without_a_key_nobody_is_answered(guarded: Guarded) -> None:
    for path in (
        INFER,
        "/v2",
        "/v2/health",
        "/v2/health/ready/",
        "/docs",
        "/openapi.json",
        "/v2/repository/index",
        "/nothing",
    ):
        status, headers, body = guarded.edge.get(path)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer"), path
        assert "Authorization: Bearer KEY" in json.loads(body)["error"]
    status, _, body = guarded.edge.get(CHAT, method="POST")
    error = json.loads(body)["error"]
    assert (status, error["type"], error["code"]) == (401, "authentication_error", "invalid_api_key")
    for probe in ("/v2/health/live", "/v2/health/ready", "/v2/health/ready?any"):
        assert guarded.edge.get(probe)[0] == 200


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Basic {}",
        "{}",
        "Bearer {} ",
        "bearer {}x",
        "Bearer x,{}",
        "Bearer\t{}",
    ],
)
def test_what_is_not_a_key_is_refused(guarded: Guarded, authorization: str) -> None:
    header = authorization.replace("{}", guarded.keys["all"])
    if header == f"Bearer {guarded.keys['all']} ":
        # White space at the end is none of the header's value.
        assert guarded.edge.get(INFER, {"Authorization": header})[0] == 200
        return
    assert guarded.edge.get(INFER, {"Authorization": header})[0] == 401


def test_nothing_that_is_in_the_map_is_a_key(guarded: Guarded) -> None:
    hashed = hash_of(guarded.keys["all"])
    for forged in (hashed, hashed.upper(), "all", "all:any", ":ready"):
        assert guarded.edge.get(INFER, {"Authorization": f"Bearer {forged}"})[0] == 401


def test_a_key_may_call_what_it_is_for(guarded: Guarded) -> None:
    for key, path, expected in [
        ("all", INFER, 200),
        ("all", "/v2/models/wine", 200),
        ("iris", INFER, 200),
        ("iris", "/v2/models/iris/versions/v1/infer", 200),
        ("iris", "/v2/models/wine/infer", 403),
        ("iris", "/v2/models/none/infer", 403),
        ("iris", "/v2/models/iris%2fv1/infer", 403),
        ("iris", "/v2/models/IRIS/infer", 403),
        ("iris", "/v2/models/wine/versions/v3/../../../iris/infer", 403),
        ("iris", "/openapi.json", 403),
        ("version", "/openapi.json", 403),
        ("iris", "/v2/models/stats", 403),
        ("iris", "/v2/models/wine/stats", 403),
        ("iris", "/models/wine/invocations", 403),
        ("iris", "/models/wine/v1/models", 403),
        ("iris", "/v2", 200),
        ("iris", "/v2/health/ready", 200),
        ("version", INFER, 403),
        ("version", "/v2/models/iris/versions/v1/infer", 200),
        ("version", "/v2/models/iris/versions/sha256:v1/infer", 403),
        ("version", "/v2/models/iris/versions/v2/infer", 403),
        ("version", "/v2/models/wine/infer", 200),
        ("canary", "/v2/models/iris/versions/v2/infer", 200),
        ("all", "/v2/models/iris/versions/v2/infer", 403),
        ("all", "/v2/models/none/infer", 404),
    ]:
        status, _, body = guarded.get(path, key)
        assert status == expected, (key, path, body)
        assert guarded.keys[key].encode() not in body


def test_a_key_is_told_of_its_own_models(guarded: Guarded) -> None:
    for path in ("/v1/models", "/v1/models/wine", "/v2/repository/index"):
        for key, shown in (
            ("all", b"all"),
            ("iris", b"iris"),
            ("version", b"iris,wine"),
            ("canary", b"iris"),
        ):
            for forged in ({}, {"Kitserve-Models": "wine"}):
                status, _, body = guarded.get(path, key, forged)
                assert (status, body) == (200, shown), (path, key)


def test_other_ways_to_name_a_model_are_no_way_around(guarded: Guarded) -> None:
    for path, headers, expected in [
        (CHAT, {"ModelKit-Model": "wine"}, 403),
        (CHAT, {"ModelKit-Model": "iris"}, 200),
        (CHAT, {"ModelKit-Model": "iris:v2"}, 403),
        (CHAT, {"X-Gateway-Model-Name": "wine"}, 403),
        ("/models/wine/v1/chat/completions", {}, 403),
        ("/models/iris/v1/chat/completions", {"ModelKit-Model": "wine"}, 403),
        ("/v1/models/wine:predict", {}, 403),
        ("/invocations", {"ModelKit-Model": "wine"}, 403),
        (INFER, {"ModelKit-Version": "v2"}, 403),
        (INFER, {"Kitserve-Caller": "all"}, 200),
    ]:
        assert guarded.get(path, "iris", headers, "POST")[0] == expected, (path, headers)
    for headers in ({"Kitserve-Caller": "all"}, {"Kitserve-Edge": "x", "Kitserve-Client": "127.0.0.1"}):
        assert guarded.edge.get(INFER, headers)[0] == 401
    # A header that leads to the canary is a choice of it too.
    assert guarded.get(INFER, "iris", {"X-Canary": "yes"})[1]["ModelKit-Version"] == "v1"
    assert guarded.get(INFER, "canary", {"X-Canary": "yes"})[1]["ModelKit-Version"] == "v2"


def test_a_model_that_a_long_body_names_late_is_no_way_around(guarded: Guarded) -> None:
    router = BodyRouter(guarded.edge.files.router_socket, guarded.edge.files.routed_socket)
    router.start()
    try:
        for key, model, expected in [
            ("all", "wine", 200),
            ("iris", "iris", 200),
            ("iris", "wine", 403),
            ("iris", "iris:v2", 403),
            ("canary", "iris:v2", 200),
            ("version", "iris", 403),
        ]:
            messages = [{"role": "user", "content": "x" * 200_000}]
            body = json.dumps({"messages": messages, "model": model}).encode()
            headers = {
                "Authorization": f"Bearer {guarded.keys.get(key, key)}",
                "Content-Type": "application/json",
                # What the edge tells itself is not taken from callers.
                "Kitserve-Caller": "all",
            }
            answer = requests.post(guarded.edge.url + CHAT, body, headers=headers, timeout=10)
            assert answer.status_code == expected, (key, model, answer.text)
    finally:
        router.stop()


def test_a_key_that_calls_too_often_waits(guarded: Guarded) -> None:
    statuses = [guarded.get(INFER, "minute")[0] for _ in range(6)]
    assert statuses == [200] * 4 + [429] * 2
    status, headers, body = guarded.get(INFER, "minute")
    assert (status, headers["Retry-After"]) == (429, "1")
    assert json.loads(body) == {"error": "too many calls with this key; ask again later"}
    # What is refused does not count, so that whoever asks again and again is answered in time.
    until = time.monotonic() + 2.6
    answered = 0
    while time.monotonic() < until:
        answered += guarded.get(INFER, "slow")[0] == 200
        time.sleep(0.02)
    assert 5 <= answered <= 12
    assert guarded.get(INFER, "all")[0] == 200


def test_no_key_comes_to_a_worker(guarded: Guarded) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        spy = Backend("spy.v1", ("v1",), (Server("spy", "127.0.0.1", listener.getsockname()[1]),))
        guarded.edge.control.apply(RoutingTable((*guarded.routes, Route("spy", spy))))
        threading.Thread(target=guarded.get, args=("/v2/models/spy/infer", "all"), daemon=True).start()
        # Health checks come to it, too.
        while b"/v2/models/spy/infer" not in (head := _head(listener)):
            pass
        guarded.edge.control.apply(RoutingTable(guarded.routes))
    assert b"kitserve-caller: all\r\n" in head.lower()
    assert b"authorization" not in head.lower()
    assert guarded.keys["all"].encode() not in head


def _head(listener: socket.socket) -> bytes:
    """Take one call, answer it, and return its head."""
    connection, _ = listener.accept()
    with connection:
        head = connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        return head


def test_a_change_of_the_file_is_in_force_without_a_restart(guarded: Guarded) -> None:
    process = guarded.edge.master_pid()
    guarded.keys["fresh"] = new_key()
    with socket.create_connection(("127.0.0.1", guarded.edge.port)) as kept:
        bearer = f"Authorization: Bearer {guarded.keys['fresh']}"
        call = f"GET {INFER} HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n\r\n"
        kept.sendall(call.encode())
        assert kept.recv(4096).startswith(b"HTTP/1.1 401 ")
        guarded.entries["fresh"] = {}
        guarded.write()
        wait(lambda: guarded.get(INFER, "fresh")[0] == 200, seconds=6)
        kept.sendall(call.encode())
        assert kept.recv(4096).startswith(b"HTTP/1.1 200 ")
        # A file that is wrong changes nothing.
        right = guarded.file.read_text()
        guarded.file.write_text(right.replace("sha256", "sha512"))
        time.sleep(2.5)
        assert guarded.get(INFER, "fresh")[0] == 200
        del guarded.entries["fresh"]
        guarded.write()
        wait(lambda: guarded.get(INFER, "fresh")[0] == 401, seconds=6)
    assert guarded.edge.master_pid() == process


def test_tokens_of_the_issuer_stand_in_place_of_a_key(guarded: Guarded) -> None:
    right = guarded.issuer.token()
    assert guarded.get("/v2/models/wine/infer", right)[0] == 200
    assert guarded.get(INFER, guarded.issuer.token(aud=["other", "kitserve"], nbf=int(time.time())))[0] == 200
    assert guarded.get(INFER, guarded.other.token())[0] == 200
    assert guarded.get("/v2/models/wine/infer", guarded.other.token())[0] == 403


def test_tokens_that_are_not_right_are_refused(guarded: Guarded) -> None:
    issuer, now = guarded.issuer, int(time.time())
    right = issuer.token()
    head, payload, signature = right.split(".")
    text = issuer.text(
        {"alg": "HS256"}, {"iss": "https://id.example.com", "aud": "kitserve", "exp": now + 60}
    )
    none = issuer.text({"alg": "none"}, {"iss": "https://id.example.com", "aud": "kitserve", "exp": now + 60})
    refused = {
        "no expiry": issuer.token(exp=None),
        "expired": issuer.token(exp=now - 1),
        "expiry as text": issuer.token(exp="never"),
        "expiry of a list": issuer.token(exp=[now + 60]),
        "not yet": issuer.token(nbf=now + 3600),
        "other issuer": issuer.token(iss="https://id.example.com.evil.example"),
        "issuer in other case": issuer.token(iss="https://ID.example.com"),
        "no issuer": issuer.token(iss=None),
        "other audience": issuer.token(aud="kitserve2"),
        "other audiences": issuer.token(aud=["a", "b", "c", "d"]),
        "no audience": issuer.token(aud=None),
        "critical": issuer.token({"alg": "RS256", "crit": ["b64"], "b64": False}),
        "other algorithm said": issuer.token({"alg": "RS512"}),
        "stranger": guarded.stranger.token(),
        "public key as a secret": with_secret(text, issuer.public),
        "none": f"{none}.",
        "none, signed": f"{none}.{signature}",
        "no signature": f"{head}.{payload}.",
        "signature of another": f"{head}.{payload}.{guarded.stranger.token().split('.')[2]}",
        "other payload": f"{head}.{text.split('.')[1]}.{signature}",
        "key of another issuer": guarded.other.token({"alg": "RS256"}),
        "four parts": f"{right}.x",
    }
    statuses = {what: guarded.get(INFER, token)[0] for what, token in refused.items()}
    assert statuses == dict.fromkeys(refused, 401)


def test_each_subject_of_an_issuer_has_a_rate_of_its_own(guarded: Guarded) -> None:
    busy, quiet = guarded.issuer.token(sub="busy"), guarded.issuer.token(sub="quiet")
    statuses = [guarded.get(INFER, busy)[0] for _ in range(32)]
    assert statuses == [200] * 30 + [429] * 2
    assert guarded.get(INFER, quiet)[0] == 200


def test_workers_are_told_who_calls_by_key_and_subject(guarded: Guarded) -> None:
    """Callers of one address take turns, and add to the evidence, by their keys; a subject is any text."""
    source, forged = f"{INFER}?source", {"Kitserve-Source": "key:other"}
    assert guarded.get(source, "all", forged)[2] == b"key:all"
    assert guarded.get(source, "canary", forged)[2] == b"key:canary"
    tokens = [guarded.issuer.token(sub=sub) for sub in ("ann", "bob", "x\r\nKitserve-Placed: 1\r\n\r\n")]
    subjects = [guarded.get(source, token, forged)[2] for token in tokens]
    assert all(re.fullmatch(rb"key:people/-?[0-9]+", subject) for subject in subjects)
    assert len(set(subjects)) == len(tokens)


def test_openai_clients_raise_their_own_errors(guarded: Guarded) -> None:
    def call(key: str, model: str, text: str = "hi") -> None:
        client = openai.OpenAI(base_url=f"{guarded.edge.url}/v1", api_key=key, max_retries=0)
        with client:
            client.chat.completions.with_raw_response.create(
                model=model, messages=[{"role": "user", "content": text}]
            )

    with pytest.raises(openai.AuthenticationError, match="not valid here"):
        call("sk-none", "iris")
    with pytest.raises(openai.PermissionDeniedError, match="may not call this model"):
        call(guarded.keys["iris"], "wine")
    with pytest.raises(openai.PermissionDeniedError, match="canary"):
        call(guarded.keys["iris"], "iris:v2")
    call(guarded.keys["iris"], "iris")
    for _ in range(3):
        call(guarded.keys["chatty"], "iris")
    with pytest.raises(openai.RateLimitError, match="too many calls"):
        call(guarded.keys["chatty"], "iris")


def test_grpc_metadata_carries_the_key(guarded: Guarded) -> None:
    def infer(key: str, model: str = "echo") -> Any:
        client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{guarded.edge.port}")
        tensor = tritonclient.grpc.InferInput("x_FP32", [1, 2], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 2), np.float32))
        headers = {"authorization": f"Bearer {guarded.keys.get(key, key)}"} if key else None
        with client:
            return client.infer(model, [tensor], headers=headers, client_timeout=10)

    assert infer("all").as_numpy("y_FP32").tolist() == [[1, 1]]
    for _ in range(4):
        guarded.get(INFER, "minute")
    for key, model, status, text in [
        ("", "echo", "StatusCode.UNAUTHENTICATED", "a key is needed"),
        ("x", "echo", "StatusCode.UNAUTHENTICATED", "not valid"),
        ("iris", "echo", "StatusCode.PERMISSION_DENIED", "may not call this model"),
        ("minute", "echo", "StatusCode.RESOURCE_EXHAUSTED", "too many calls"),
    ]:
        with pytest.raises(tritonclient.grpc.InferenceServerException, match=text) as error:
            infer(key, model)
        assert error.value.status() == status
    with grpc.insecure_channel(f"127.0.0.1:{guarded.edge.port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/RepositoryIndex")
        metadata = (("authorization", f"Bearer {guarded.keys['iris']}"),)
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", metadata=metadata, timeout=5)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_triton_clients_over_http_call_with_a_key(guarded: Guarded) -> None:
    tensor = tritonclient.http.InferInput("x_FP32", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 2), np.float32))
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{guarded.edge.port}") as client:
        headers = {"Authorization": f"Bearer {guarded.keys['all']}"}
        assert client.infer("echo", [tensor], headers=headers).as_numpy("y_FP32").tolist() == [[1, 1]]
        with pytest.raises(tritonclient.http.InferenceServerException, match="a key is needed"):
            client.infer("echo", [tensor])


def test_calls_are_counted_by_the_name_of_the_key(guarded: Guarded) -> None:
    def counts() -> Any:
        return guarded.edge.control.statistics().whole.keys

    for key, path in [("all", INFER), ("iris", "/v2/models/wine"), ("ks_x", INFER)]:
        guarded.get(path, key)
    before = counts()
    for key, path in [("all", INFER), ("iris", INFER), ("iris", "/v2/models/wine"), ("ks_x", INFER)]:
        guarded.get(path, key)
    after = counts()
    assert after["all"].calls - before["all"].calls == 1
    assert after["iris"].calls - before["iris"].calls == 2
    assert after["iris"].refused["rights"] - before["iris"].refused["rights"] == 1
    assert after[""].refused["unknown"] - before[""].refused["unknown"] == 1
    assert set(after[""].refused) == {"unknown"}
    # Callers cannot make names: only those of the config are counted.
    assert set(after) <= {"", "people", "robots", *guarded.keys}
    versions = {"iris.v1", "iris.v2", "iris.v3", "echo.v1", "spy.v1"}
    assert guarded.edge.control.statistics().versions.keys() <= versions


def test_the_log_names_the_key_and_never_shows_it(
    tmp_path: Path, workers: Workers, capfd: pytest.CaptureFixture[str]
) -> None:
    guarded = Guarded(tmp_path, workers, access_log="all")
    try:
        token = guarded.issuer.token()
        assert guarded.get(INFER, "iris")[0] == 200
        assert guarded.get(INFER, token)[0] == 200
        assert guarded.get(INFER, "ks_guessed")[0] == 401
    finally:
        guarded.stop()
    logged = capfd.readouterr().err
    lines = [json.loads(line) for line in logged.splitlines() if '"event":"access"' in line]
    # Each thread of HAProxy writes its own lines when it comes to it.
    named = sorted((line["key"], line["status"]) for line in lines)
    assert named == [("-", 401), ("iris", 200), ("people", 200)]
    everything = logged + "".join(
        path.read_text(errors="replace") for path in (tmp_path / "edge").iterdir() if path.is_file()
    )
    for secret in (*guarded.keys.values(), token, "ks_guessed"):
        assert secret not in everything

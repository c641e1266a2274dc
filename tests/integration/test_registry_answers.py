"""Answers that registries give and Debian's does not, from a small HTTP server."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gateway.errors import RegistryUnavailable, SizeMismatch, Unauthorized
from gateway.oci.content import Descriptor
from gateway.oci.options import RegistryOptions
from gateway.oci.reference import Digest, RegistryReference
from gateway.oci.registry import RegistrySource
from gateway.oci.store import Store

DATA = bytes(range(256)) * 40
BLOB = Descriptor("x/y", Digest.of(DATA), len(DATA))


class _Answers(ThreadingHTTPServer):
    """Answers every GET as `answer` does, and remembers path and Authorization of each."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.seen: list[tuple[str, str | None]] = []
        self.answer: Callable[[_Handler], None] = lambda handler: handler.say(200, DATA)

    def source(self, options: RegistryOptions | None = None) -> RegistrySource:
        reference = RegistryReference(self.host, "team/kit", "v1", None)
        return RegistrySource(reference, options or RegistryOptions(plain_http=True))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Answers

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        self.server.answer(self)

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture(autouse=True)
def no_docker_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


@pytest.fixture
def server() -> Iterator[_Answers]:
    with _serving() as running:
        yield running


@pytest.fixture
def elsewhere() -> Iterator[_Answers]:
    with _serving() as running:
        yield running


class _serving:  # noqa: N801 - used as a context manager only
    def __enter__(self) -> _Answers:
        self.running = _Answers()
        threading.Thread(target=self.running.serve_forever, args=(0.01,), daemon=True).start()
        return self.running

    def __exit__(self, *_: object) -> None:
        self.running.shutdown()
        self.running.server_close()


def _read(source: RegistrySource, offset: int = 0) -> tuple[int, bytes]:
    with source.blob(BLOB, offset) as stream:
        return stream.start, b"".join(stream.chunks)


@pytest.mark.parametrize("named", [True, False])
def test_a_token_is_had_and_renewed(server: _Answers, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    issued: list[str] = []

    def answer(handler: _Handler) -> None:
        if handler.path.startswith("/token?"):
            issued.append(f"token{len(issued)}")
            handler.say(200, f'{{"token":"{issued[-1]}"}}'.encode())
        elif issued and handler.headers.get("Authorization") == f"Bearer {issued[-1]}":
            handler.say(200, DATA)
        else:
            challenge = (
                f'Bearer realm="http://{server.host}/token",service="s",scope="repository:team/kit:pull"'
            )
            handler.say(401, WWW_Authenticate=challenge)

    server.answer = answer
    monkeypatch.setenv("PASSWORD", "secret")
    source = server.source(
        RegistryOptions("ci", "PASSWORD", plain_http=True) if named else RegistryOptions(plain_http=True)
    )
    assert _read(source) == (0, DATA)
    assert _read(source) == (0, DATA)
    assert issued == ["token0"]
    issued.append("only the server knows that token0 has expired")
    assert _read(source) == (0, DATA)
    assert len(issued) == 3
    tokens = [entry for entry in server.seen if entry[0].startswith("/token")]
    basic = f"Basic {base64.b64encode(b'ci:secret').decode()}" if named else None
    assert tokens == [("/token?scope=repository%3Ateam%2Fkit%3Apull&service=s", basic)] * 2


def test_a_refused_token_fails_at_once(server: _Answers) -> None:
    challenge = f'Bearer realm="http://{server.host}/token",service="s"'
    server.answer = lambda handler: handler.say(
        *((200, b'{"access_token":"t"}') if handler.path.startswith("/token") else (401, b"")),
        WWW_Authenticate=challenge,
    )
    with pytest.raises(Unauthorized, match=r"team/kit:v1.*answered 401"):
        _read(server.source())
    assert len(server.seen) == 3


@pytest.mark.parametrize("realm", ["http://169.254.169.254/latest", "ftp://r.io/token", "http://[::1]/t", ""])
def test_a_token_server_that_is_not_safe_is_refused(server: _Answers, realm: str) -> None:
    server.answer = lambda handler: handler.say(401, WWW_Authenticate=f'Bearer realm="{realm}",service="s"')
    with pytest.raises(Unauthorized, match="which is not safe"):
        _read(server.source())


def test_a_redirect_leaves_the_password_behind(
    server: _Answers, elsewhere: _Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(handler: _Handler) -> None:
        if handler.headers.get("Authorization") is None:
            handler.say(401, WWW_Authenticate='Basic realm="r"')
        elif handler.path != "/again":
            handler.say(307, Location="/again")
        else:
            handler.say(307, Location=f"http://{elsewhere.host}/signed?secret=1")

    server.answer = answer
    monkeypatch.setenv("PASSWORD", "secret")
    assert _read(server.source(RegistryOptions("ci", "PASSWORD", plain_http=True))) == (0, DATA)
    assert [authorization is not None for _, authorization in server.seen] == [False, True, True]
    assert elsewhere.seen == [("/signed?secret=1", None)]


def test_redirects_end(server: _Answers) -> None:
    server.answer = lambda handler: handler.say(302, Location=handler.path)
    with pytest.raises(RegistryUnavailable, match="redirects more than 5 times"):
        _read(server.source())
    assert len(server.seen) == 6


def test_a_redirect_to_another_scheme_is_refused(server: _Answers) -> None:
    server.answer = lambda handler: handler.say(302, Location="file:///etc/passwd")
    with pytest.raises(RegistryUnavailable, match="which is not safe"):
        _read(server.source())


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_passing_faults_are_tried_again_when_told(server: _Answers, status: int) -> None:
    def answer(handler: _Handler) -> None:
        if len(server.seen) < 2:
            handler.say(status, Retry_After="1")
        else:
            handler.say(200, DATA)

    server.answer = answer
    begun = time.monotonic()
    assert _read(server.source()) == (0, DATA)
    assert 1 <= time.monotonic() - begun < 3


@pytest.mark.parametrize("status", [400, 403, 405, 500])
def test_lasting_faults_are_not(server: _Answers, status: int) -> None:
    server.answer = lambda handler: handler.say(status, b'{"errors":[{"code":"DENIED\x1b[31m"}]}')
    with pytest.raises((Unauthorized, RegistryUnavailable), match=rf"team/kit:v1: .*{status} .*DENIED \[31m"):
        _read(server.source())
    assert len(server.seen) == 1


def test_ranges(server: _Answers) -> None:
    def ranged(handler: _Handler) -> None:
        assert handler.headers["Range"] == "bytes=1000-"
        handler.say(206, DATA[1000:], Content_Range=f"bytes 1000-{len(DATA) - 1}/{len(DATA)}")

    server.answer = ranged
    assert _read(server.source(), 1000) == (1000, DATA[1000:])
    server.answer = lambda handler: handler.say(200, DATA)
    assert _read(server.source(), 1000) == (0, DATA)
    server.answer = lambda handler: handler.say(416) if "Range" in handler.headers else handler.say(200, DATA)
    assert _read(server.source(), 1000) == (0, DATA)
    server.answer = lambda handler: handler.say(
        206, DATA, Content_Range=f"bytes 0-{len(DATA) - 1}/{len(DATA)}"
    )
    with pytest.raises(RegistryUnavailable, match="from byte 1000"):
        _read(server.source(), 1000)


def test_bytes_are_taken_as_they_are(server: _Answers) -> None:
    server.answer = lambda handler: handler.say(200, DATA, Content_Encoding="gzip")
    with pytest.raises(RegistryUnavailable, match="encoded as 'gzip'"):
        _read(server.source())


@pytest.mark.parametrize("sent", [DATA[:-1], DATA + b"x"])
def test_a_blob_of_another_size(server: _Answers, tmp_path: Path, sent: bytes) -> None:
    server.answer = lambda handler: handler.say(200, sent)
    with pytest.raises(SizeMismatch, match=f"team/kit:v1: blob {BLOB.digest}"):
        Store(tmp_path / "store").fetch(BLOB, server.source())
    assert not list((tmp_path / "store" / "ingest").iterdir())


def test_a_manifest_that_never_ends_is_cut(server: _Answers) -> None:
    server.answer = lambda handler: handler.say(200, b"x" * 5_000_000)
    with pytest.raises(SizeMismatch, match="more"):
        server.source().manifest(BLOB)
    with pytest.raises(SizeMismatch, match="4 MiB are allowed"):
        server.source().manifest(Descriptor("x/y", BLOB.digest, 1 << 40))

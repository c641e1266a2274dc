"""Every way in: nobody, passwords, tokens, and token servers that fail or must not be asked."""

from __future__ import annotations

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.errors import RegistryUnavailable, Unauthorized
from gateway.oci import tokens, transport
from tests.support.answers import BLOB, DATA, Answers, Handler, read

_SCOPE = "repository:team/kit:pull"


class _Gate:
    """A registry that lets in who has the last token, which it issues itself at /token."""

    def __init__(self, server: Answers, realm: str | None = None) -> None:
        self.realm = f"{server.url}/token" if realm is None else realm
        self.scope = _SCOPE
        self.issued = 0
        self.valid: str | None = None
        self.answer: dict[str, Any] = {}
        self.statuses: list[int] = []
        server.answer = self

    @property
    def challenge(self) -> str:
        return f'Bearer realm="{self.realm}",service="s",scope="{self.scope}"'

    def __call__(self, handler: Handler) -> None:
        if urlsplit(handler.path).path == "/token":
            self.issue(handler)
        elif self.valid and handler.headers.get("Authorization") == f"Bearer {self.valid}":
            handler.say(200, DATA)
        else:
            handler.say(401, WWW_Authenticate=self.challenge)

    def issue(self, handler: Handler) -> None:
        if self.statuses:
            handler.say(self.statuses.pop(0))
            return
        self.valid = f"token{self.issued}"
        self.issued += 1
        answer = {"token": self.valid, **self.answer}
        handler.say(200, json.dumps({k: v for k, v in answer.items() if v is not None}).encode())


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("PASSWORD", "secret")
    return {"username": "ci", "password_env": "PASSWORD"}


def _basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


def _login(tmp_path: Path, host: str, **entry: str) -> None:
    (tmp_path / "docker").mkdir(exist_ok=True)
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {host: entry}}))


@pytest.mark.parametrize("named", [True, False])
def test_a_token_is_had_and_renewed(server: Answers, password: dict[str, str], named: bool) -> None:
    gate = _Gate(server)
    source = server.source(**(password if named else {}))
    assert read(source) == (0, DATA)
    assert read(source) == (0, DATA)
    assert gate.issued == 1
    gate.valid = "only the server knows that the last one has expired"
    assert read(source) == (0, DATA)
    requests = [seen for seen in server.seen if seen.path.startswith("/token")]
    assert [seen.authorization for seen in requests] == [_basic("ci:secret") if named else None] * 2
    assert {seen.path for seen in requests} == {"/token?scope=repository%3Ateam%2Fkit%3Apull&service=s"}
    shown = [seen.authorization for seen in server.seen if not seen.path.startswith("/token")]
    assert shown == [None, "Bearer token0", "Bearer token0", "Bearer token0", "Bearer token1"]


def test_a_token_that_ends_in_a_transfer_is_renewed_for_the_rest(server: Answers) -> None:
    gate = _Gate(server)
    source = server.source()
    with source.blob(BLOB) as stream:
        assert next(stream.chunks)
        gate.valid = "another"
    assert read(source, 1000) == (0, DATA)
    assert gate.issued == 2


@pytest.mark.parametrize(
    ("expires_in", "renewed"),
    [
        (100, 80),
        (60, 48),
        (1, 48),
        (0, 48),
        (-5, 48),
        ("100", 48),
        (None, 48),
        (1e300, None),
        (10**400, None),
    ],
)
def test_a_token_is_renewed_before_it_ends(
    server: Answers, monkeypatch: pytest.MonkeyPatch, expires_in: object, renewed: float | None
) -> None:
    clock = _Clock()
    monkeypatch.setattr(tokens, "time", clock)
    gate = _Gate(server)
    # A server whose clock is a year off.
    gate.answer = {"expires_in": expires_in, "issued_at": "2001-01-01T00:00:00Z"}
    source = server.source()
    read(source)
    clock.now += (renewed or 1e6) - 1
    read(source)
    assert gate.issued == 1
    clock.now += 2
    read(source)
    assert gate.issued == (1 if renewed is None else 2)


class _Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_a_refused_token_fails_at_once(server: Answers) -> None:
    gate = _Gate(server)
    gate.answer = {"token": None, "access_token": "another"}
    with pytest.raises(Unauthorized, match=r"team/kit:v1.*answered 401.*set username"):
        read(server.source())
    assert len(server.seen) == 3


def test_a_wrong_password_fails_at_once(server: Answers, password: dict[str, str]) -> None:
    gate = _Gate(server)
    gate.statuses = [401]
    with pytest.raises(Unauthorized, match=r"no token: .* answered 401; check the credentials"):
        read(server.source(**password))
    assert len(server.seen) == 2
    server.answer = lambda handler: handler.say(401, WWW_Authenticate='Basic realm="r"')
    with pytest.raises(Unauthorized, match="answered 401; check the credentials") as error:
        read(server.source(**password))
    assert len(server.seen) == 4
    assert "secret" not in str(error.value)


def test_a_token_server_with_a_passing_fault(server: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_FIRST_WAIT", 0.001)
    gate = _Gate(server)
    gate.statuses = [500, 503]
    assert read(server.source()) == (0, DATA)
    gate.statuses, gate.valid = [500] * 6, None
    with pytest.raises(RegistryUnavailable, match="answered 500, 6 time"):
        read(server.source())


@pytest.mark.parametrize("status", [401, 403])
def test_a_scope_that_is_not_enough(server: Answers, status: int) -> None:
    gate = _Gate(server)
    wider = f'{gate.challenge[:-1]} repository:base/kit:pull",error="insufficient_scope"'

    def answer(handler: Handler) -> None:
        if handler.headers.get("Authorization") == "Bearer token0":
            handler.say(status, WWW_Authenticate=wider)
        else:
            gate(handler)

    server.answer = answer
    assert read(server.source()) == (0, DATA)
    scopes = [parse_qs(urlsplit(path).query).get("scope") for path in server.paths()]
    assert scopes == [None, [_SCOPE], None, ["repository:base/kit:pull", _SCOPE], None]


def test_scopes_that_are_never_enough(server: Answers) -> None:
    gate = _Gate(server)

    def answer(handler: Handler) -> None:
        if handler.headers.get("Authorization"):
            more = f'Bearer realm="{gate.realm}",scope="repository:x{len(server.seen)}:pull"'
            handler.say(401, WWW_Authenticate=f'{more},error="insufficient_scope"')
        else:
            gate(handler)

    server.answer = answer
    with pytest.raises(Unauthorized, match="answered 401"):
        read(server.source())
    assert len(server.seen) == 5


def test_threads_share_one_token(server: Answers) -> None:
    gate = _Gate(server)
    source = server.source(connections=8)
    together = threading.Barrier(8)

    def work(_: int) -> tuple[int, bytes]:
        together.wait(5)
        return read(source)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(8))) == [(0, DATA)] * 8
    assert gate.issued == 1


@pytest.mark.parametrize("status", [200, 404, 405])
def test_an_identity_token_is_exchanged(server: Answers, tmp_path: Path, status: int) -> None:
    gate = _Gate(server)
    gate.statuses = [] if status == 200 else [status]
    _login(tmp_path, server.host, identitytoken="refresh", auth=base64.b64encode(b"me:").decode())
    assert read(server.source()) == (0, DATA)
    requests = [seen for seen in server.seen if seen.path.startswith("/token")]
    assert [seen.method for seen in requests] == (["POST"] if status == 200 else ["POST", "GET"])
    form = {name: values[0] for name, values in parse_qs(requests[0].body.decode()).items()}
    assert form == {
        "grant_type": "refresh_token",
        "refresh_token": "refresh",
        "service": "s",
        "scope": _SCOPE,
        "client_id": "kitserve",
    }
    assert requests[0].authorization is None
    if status != 200:
        assert requests[1].authorization == _basic("me:refresh")


def test_a_ready_token_is_shown_as_it_is(
    server: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = _Gate(server)
    gate.valid = "ready"
    monkeypatch.setenv("TOKEN", "ready")
    assert read(server.source(token_env="TOKEN")) == (0, DATA)
    assert [seen.authorization for seen in server.seen] == ["Bearer ready"]
    _login(tmp_path, server.host, registrytoken="ready")
    assert read(server.source()) == (0, DATA)
    assert [seen.authorization for seen in server.seen[1:]] == [None, "Bearer ready"]
    gate.valid = "another"
    with pytest.raises(Unauthorized, match="check the credentials") as error:
        read(server.source(token_env="TOKEN"))
    assert len(server.seen) == 4
    assert "ready" not in str(error.value).replace("already", "")


def test_logins_are_looked_for_only_when_wanted(server: Answers, tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text('{"credsStore": "nowhere"}')
    assert read(server.source()) == (0, DATA)
    _Gate(server)
    with pytest.raises(Unauthorized, match="docker-credential-nowhere"):
        read(server.source())


@pytest.mark.parametrize(
    ("challenge", "shown"),
    [
        ('Negotiate, Basic realm="x"', "Basic"),
        ('Basic realm="x", Bearer realm="REALM",service="s"', "Bearer"),
        ('bearer   realm = "REALM" ,service=s', "Bearer"),
    ],
)
def test_the_best_challenge_is_answered(
    server: Answers, password: dict[str, str], challenge: str, shown: str
) -> None:
    gate = _Gate(server)

    def answer(handler: Handler) -> None:
        if handler.path.startswith("/token"):
            gate(handler)
        elif handler.headers.get("Authorization", "").startswith(shown):
            handler.say(200, DATA)
        else:
            handler.say(401, WWW_Authenticate=challenge.replace("REALM", gate.realm))

    server.answer = answer
    assert read(server.source(**password)) == (0, DATA)


@pytest.mark.parametrize(
    ("challenge", "offered"),
    [(None, "no scheme named"), ("Negotiate", "negotiate"), ('Basic realm="x"', "basic")],
)
def test_nobody_gets_in(server: Answers, challenge: str | None, offered: str) -> None:
    headers = {"WWW_Authenticate": challenge} if challenge else {}
    server.answer = lambda handler: handler.say(401, b"", **headers)
    with pytest.raises(
        Unauthorized, match=rf"asks for credentials \({offered}\); set username and password_env"
    ):
        read(server.source())
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "realm",
    [
        "http://169.254.169.254/latest",
        "http://127.0.0.1:1/t",
        "http://10.1.2.3/t",
        "http://0.0.0.0/t",
        "http://[::1]/t",
        "http://[::ffff:127.0.0.1]/t",
        "http://[fe80::1%25eth0]/t",
        "http://2130706433:PORT/t",
        "http://localhost:PORT/t",
        "http://[::1/t",
        "https://user:password@example.com/t",
        "ftp://r.io/token",
        "file:///etc/passwd",
        "",
    ],
)
def test_a_token_server_that_is_not_safe_is_refused(
    server: Answers, elsewhere: Answers, password: dict[str, str], realm: str
) -> None:
    _Gate(server, realm.replace("PORT", elsewhere.host.partition(":")[2]))
    with pytest.raises(Unauthorized, match="which is not safe"):
        read(server.source(**password))
    assert len(server.seen) == 1
    assert not elsewhere.seen


@pytest.mark.parametrize("listed", ["localhost", "localhost:PORT"])
def test_a_token_server_that_is_listed_is_asked(server: Answers, elsewhere: Answers, listed: str) -> None:
    port = elsewhere.host.partition(":")[2]
    gate = _Gate(server, f"http://localhost:{port}/token")
    elsewhere.answer = gate
    assert read(server.source(token_hosts=("r.io", listed.replace("PORT", port)))) == (0, DATA)
    assert len(elsewhere.seen) == 1
    with pytest.raises(Unauthorized, match="list it in `token_hosts`"):
        read(server.source(token_hosts=("localhost:1",), pull_timeout=5.0), 0)


@pytest.mark.parametrize("identity", [False, True])
def test_credentials_stay_with_the_token_server(
    server: Answers, elsewhere: Answers, tmp_path: Path, identity: bool
) -> None:
    gate = _Gate(server)
    entry = {"identitytoken": "refresh"} if identity else {"auth": base64.b64encode(b"ci:secret").decode()}
    _login(tmp_path, server.host, **entry)

    def answer(handler: Handler) -> None:
        if handler.path.startswith("/token"):
            handler.say(307, Location=f"{elsewhere.url}/token")
        else:
            gate(handler)

    server.answer = answer
    with pytest.raises(RegistryUnavailable, match="credentials are never sent to another server"):
        read(server.source())
    assert not elsewhere.seen


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"token": 5}', b'{"token": "a b"}', b'{"token": "' + b"x" * 200_000 + b'"}'],
)
def test_an_answer_without_a_token(server: Answers, answer: bytes) -> None:
    gate = _Gate(server)
    gate.issue = lambda handler: handler.say(200, answer)  # type: ignore[method-assign]
    with pytest.raises(Unauthorized, match="sent no token"):
        read(server.source())


def test_a_token_server_that_never_ends(server: Answers) -> None:
    gate = _Gate(server)

    def endless(handler: Handler) -> None:
        handler.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not handler.server.stopping.is_set():
            handler.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    gate.issue = endless  # type: ignore[method-assign]
    with pytest.raises(Unauthorized, match="sent no token"):
        read(server.source())

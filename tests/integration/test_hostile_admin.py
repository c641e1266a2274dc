"""Callers of the admin API who are not its owner: other users, other machines, pages, and what they send."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from gateway.cli.admin_client import AdminClient
from gateway.config.admin_tls import AdminTls
from gateway.control.admin.api import AdminApi
from gateway.control.admin.gate import Gate
from gateway.control.admin.socket_file import SOCKET_FILE, bind_socket
from gateway.control.admin.tls import server_context
from gateway.control.admin.token import TOKEN_FILE, TokenCheck, keep_token, make_token, read_token
from gateway.control.state.database import State
from gateway.control.state.status import ModelState, ModelStatus, Status
from gateway.control.web.app import web_app
from gateway.control.web.server import WebServer
from gateway.errors import ControlError, StoreError
from gateway.wire.server import tcp_socket
from tests.support.admin import running_admin
from tests.support.certificates import KeyPair, make_certificates
from tests.support.gate import HOLDER, call, gate
from tests.support.overview import FixedOverview
from tests.support.unix_adapter import UnixAdapter

NOBODY = 65534
KIT = "registry.test/team/iris:v1"
PEM = (
    "-----BEGIN PUBLIC KEY-----\n"
    "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
    "-----END PUBLIC KEY-----\n"
)
SECRET_HOOK = "https://hooks.test/T000/very-secret"
MESSAGE = "cannot read /home/me/kits/my kit/model.onnx: no such file; see https://docs.test/kits and a/b"
STATUS = Status(1, (ModelStatus("iris", ModelState.FAILED, MESSAGE, ()),), trouble="/root/x.db is full")
OPEN = ("/metrics", "/healthz", "/api/status", "/api/models/iris")


class Running:
    """An admin API on loopback and on the socket of a home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True)
        home.chmod(0o755)
        keep_token(home)
        self.state = State(home / "state.db")
        self.state.begin("monday")
        api = AdminApi(self.state, FixedOverview(STATUS), CollectorRegistry(), lambda _: [], lambda: None)
        self.app = web_app(api.routes(), Middleware(Gate, is_token=TokenCheck(home), owner=os.geteuid()))
        self.server = WebServer(self.app, tcp_socket("127.0.0.1", 0), bind_socket(home))
        self.url = f"http://127.0.0.1:{self.server.address[1]}"
        self.server.start()
        self.owner = requests.Session()
        self.owner.mount("http://", UnixAdapter(home / SOCKET_FILE))
        self.token = {"Authorization": f"Bearer {read_token(home)}"}

    def put(self, change: dict[str, Any], **headers: str) -> requests.Response:
        return requests.put(f"{self.url}/api/config", json=config(**change), headers=headers, timeout=5)

    def put_as_owner(self, **change: Any) -> requests.Response:
        return self.owner.put("http://localhost/api/config", json=config(**change), timeout=5)


def config(**change: Any) -> dict[str, Any]:
    return {"models": [{"name": "iris", "kit": KIT}], **change}


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    """A directory that other users may enter, as none of pytest's is."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@pytest.fixture(scope="module")
def running(shared: Path) -> Iterator[Running]:
    running = Running(shared / "home")
    yield running
    running.owner.close()
    running.server.stop()
    running.state.close()


def test_without_the_token_loopback_only_reads(running: Running) -> None:
    for path in OPEN:
        assert requests.get(running.url + path, timeout=5).status_code == 200, path
    for method, path in (
        ("PUT", "/api/config"),
        ("POST", "/api/models/iris/rollout/abort"),
        ("DELETE", "/healthz"),
    ):
        answer = requests.request(method, running.url + path, json=config(), timeout=5)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), path
        assert "kitserve token" in answer.json()["error"]
    for path in (
        "/api/config",
        "/page/",
        "/api/models/iris/secrets",
        "/v2",
        "/api/status/",
    ):
        assert requests.get(running.url + path, timeout=5).status_code == 401, path
    wrong = {"Authorization": "Bearer " + "x" * 43}
    assert requests.get(f"{running.url}/api/status", headers=wrong, timeout=5).status_code == 401
    assert running.state.desired().generation == 0


def test_the_socket_and_the_token_are_for_their_user_alone(running: Running) -> None:
    assert stat.S_IMODE(running.home.stat().st_mode) == 0o700
    assert stat.S_IMODE((running.home / SOCKET_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE((running.home / TOKEN_FILE).stat().st_mode) == 0o600
    assert AdminClient(str(running.home / SOCKET_FILE)).status()["trouble"] == "/root/x.db is full"


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to become another user")
def test_another_user_is_not_let_in_even_where_the_modes_are_wrong(running: Running) -> None:
    program = """
import os, socket, sys
path = sys.argv[1]
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    connected = socket.socket(socket.AF_UNIX); connected.connect(path)
except PermissionError:
    sys.exit(3)
connected.sendall(b"GET /api/status HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
print(connected.recv(65536).decode().splitlines()[0])
"""
    path = running.home / SOCKET_FILE

    def another_user() -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", program, str(path)]
        return subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)

    assert another_user().returncode == 3
    try:
        running.home.chmod(0o755)
        path.chmod(0o666)
        assert another_user().stdout.strip() == "HTTP/1.1 401 Unauthorized"
    finally:
        path.chmod(0o600)
        running.home.chmod(0o700)


def test_beyond_loopback_nothing_is_read_without_the_token(running: Running) -> None:
    for path in OPEN:
        assert call(running.app, path, client="192.0.2.7", server="192.0.2.1")[0] == 401
        # A port of loopback that a container or a tunnel forwards to keeps the other end's address.
        assert call(running.app, path, client="192.0.2.7", server="127.0.0.1")[0] == 401
        assert call(running.app, path, running.token, client="192.0.2.7", server="192.0.2.1")[0] == 200
        assert call(running.app, path, peer=NOBODY)[0] == (401 if os.geteuid() != NOBODY else 200)


@pytest.mark.parametrize("server", ["127.0.0.1", "127.0.0.2", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_on_every_loopback_address_another_host_name_is_refused(running: Running, server: str) -> None:
    for host in (
        "evil.test",
        "evil.test:8081",
        "localhost.evil.test",
        "127.0.0.1.evil.test",
        "192.0.2.1",
        "",
        "[",
    ):
        answer = call(running.app, "/api/status", {"Host": host}, client=server, server=server)
        assert answer == (400, b"Invalid host header"), host
    for host in ("localhost", "LOCALHOST:8081", "127.0.0.2:8081", "[::1]:8081", "[::1]"):
        assert call(running.app, "/api/status", {"Host": host}, client=server, server=server)[0] == 200, host


def test_what_anybody_may_read_has_no_path_of_the_host(running: Running) -> None:
    texts = [requests.get(f"{running.url}{path}", timeout=5).text for path in OPEN]
    assert not any("/home/me" in text or "/root" in text or "my kit" in text for text in texts)
    status = json.loads(texts[2])
    assert status["models"][0]["message"] == (
        "cannot read …/model.onnx: no such file; see https://docs.test/kits and a/b"
    )
    assert status["trouble"] == "…/x.db is full"
    assert "/home/me" in requests.get(f"{running.url}/api/status", headers=running.token, timeout=5).text


def test_a_model_does_not_lose_its_rules_by_coming_back(running: Running) -> None:
    """In two steps, as in one."""
    ruled = {"name": "iris", "kit": KIT, "trust": {"licenses": ["MIT"], "pickles": "never"}}
    wine = {"name": "wine", "kit": KIT}
    assert running.put_as_owner(models=[ruled, wine]).status_code == 200
    for models in ([wine], [{"name": "iris", "kit": KIT}, wine], []):
        answer = running.put({"models": models}, **running.token)
        assert (answer.status_code, "trust of iris" in answer.json()["error"]) == (403, True)
    assert running.put({"models": [ruled]}, **running.token).status_code == 200
    assert running.put_as_owner(models=[wine]).status_code == 200


def test_the_token_changes_models_but_neither_trust_nor_what_is_read(running: Running) -> None:
    layout = [{"name": "iris", "kit": "oci-layout:/home/me/layout:iris:v1"}]
    code = [{"name": "iris", "kit": KIT, "trust": {"allow_code": "sha256:" + "0" * 64}}]
    refused: list[dict[str, Any]] = [
        {"trust": {"allow_code": ["sha256:" + "0" * 64]}},
        {"trust": {"keys": [{"name": "a.pub", "pem": PEM}]}},
        {"models": code},
        {"models": [{"name": "iris", "kit": KIT, "payloads": {"sample": 1.0}}]},
        {"registries": {"registry.test": {"username": "ci", "password_file": "/root/secret"}}},
        {"registries": {"registry.test": {"token_env": "AWS_SECRET_ACCESS_KEY"}}},
        {"registries": {"registry.test": {"proxy": "http://evil.test:3128"}}},
        {"registries": {"registry.test": {"plain_http": True}}},
        {"webhooks": ["https://evil.test/x"]},
        {"kitops_home": "/root/.local/share/kitops"},
        {"models": layout},
        {"models": [{"name": "iris", "kit": "kit:private:v1"}]},
    ]
    before = running.state.desired().generation
    for change in refused:
        answer = running.put(change, **running.token)
        assert answer.status_code == 403, change
        assert "only the user of Kitserve may change this" in answer.json()["error"]
    assert running.state.desired().generation == before
    assert running.put({"models": [{"name": "wine", "kit": KIT}]}, **running.token).status_code == 200
    secrets: dict[str, Any] = {
        "registries": {"registry.test": {"username": "ci", "password_file": "/root/secret"}},
        "webhooks": [SECRET_HOOK],
        "models": layout,
        "kitops_home": "/root/kitops",
    }
    assert running.put_as_owner(**secrets).status_code == 200
    again = {**secrets, "models": [*layout, {"name": "wine", "kit": KIT}]}
    assert running.put(again, **running.token).status_code == 200, "what is in force may stay"
    del again["kitops_home"]
    assert running.put(again, **running.token).status_code == 200
    assert str(running.state.desired().sources.kitops_home) == "/root/kitops"
    assert running.put({"models": layout}, **running.token).status_code == 403, (
        "taking it away is a change too"
    )
    for headers in (running.token, None):
        shown = (requests if headers else running.owner).get(
            f"{running.url}/api/config", headers=headers, timeout=5
        )
        assert "very-secret" not in shown.text
        assert shown.json()["config"]["webhooks"][0].startswith("https://hooks.test/…")


def test_no_caller_makes_the_gateway_open_a_file(running: Running, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.pub").write_text(PEM)
    before = running.state.desired().generation
    for key in (tmp_path / "pipe", "/dev/zero", tmp_path / "a.pub", "/etc/shadow", tmp_path):
        answer = running.put_as_owner(trust={"keys": [str(key)]})
        assert answer.status_code == 400
        assert "a key is sent as {name, pem}: no file is opened here" in answer.json()["error"]
    for change in (
        {"registries": {"registry.test": {"ca_file": "ca.pem"}}},
        {"kitops_home": "kitops"},
        {"models": [{"name": "iris", "kit": "oci-layout:layout:iris:v1"}]},
    ):
        assert "write an absolute path" in running.put_as_owner(**change).json()["error"]
    assert running.state.desired().generation == before
    assert running.put_as_owner(trust={"keys": [{"name": "a.pub", "pem": PEM}]}).status_code == 200


def test_each_change_leaves_a_line_of_who_and_what(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert running.put_as_owner(trust={"licenses": ["MIT"]}).status_code == 200
    assert running.put({}, **running.token).status_code == 403
    assert running.put({}).status_code == 401
    lines = [vars(record) for record in caplog.records if record.getMessage().startswith("admin.")]
    done, refused, unknown = lines
    assert (done["msg"], done["caller"], done["result"]) == ("admin.changed", f"uid {os.geteuid()}", "done")
    assert done["generation"] == running.state.desired().generation
    assert done["config_before"] != done["config_after"]
    assert done["config_after"].startswith("sha256:")
    assert len(done["policy"]) == 16
    assert done["kits_after"] == {} or done["kits_after"] == {"iris": [KIT]}
    assert refused["caller"] == "token from 127.0.0.1"
    assert refused["result"].startswith("refused: only the user of Kitserve")
    assert (unknown["msg"], unknown["method"]) == ("admin.refused", "PUT")


def test_a_page_changes_nothing_even_as_the_owner(running: Running) -> None:
    origin = {"Origin": "http://evil.test", **running.token}
    assert running.put({}, **origin).status_code == 403
    answer = running.owner.put("http://x/api/config", json=config(), headers={"Origin": "null"}, timeout=5)
    assert answer.status_code == 403


def test_a_new_token_holds_at_once_and_one_that_others_may_read_never(running: Running) -> None:
    old = running.token
    running.token = {"Authorization": f"Bearer {make_token(running.home)}"}
    path = running.home / TOKEN_FILE
    assert requests.get(f"{running.url}/api/config", headers=old, timeout=5).status_code == 401
    assert requests.get(f"{running.url}/api/config", headers=running.token, timeout=5).status_code == 200
    path.chmod(0o644)
    with pytest.raises(StoreError, match="may be read by others"):
        read_token(running.home)
    assert requests.get(f"{running.url}/api/config", headers=running.token, timeout=5).status_code == 401
    path.chmod(0o600)


def test_a_home_whose_path_is_too_long_for_a_socket_has_one(tmp_path: Path) -> None:
    home = tmp_path / ("a" * 100) / ("b" * 100)
    home.mkdir(parents=True)
    with bind_socket(home):
        pass
    long = Running(home / "home")
    try:
        assert AdminClient(str(long.home / SOCKET_FILE)).status()["generation"] == 1
    finally:
        long.server.stop()
        long.state.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to become another user")
def test_the_command_sends_nothing_to_another_users_socket(shared: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from gateway.control.admin.socket_file import connect_socket
os.setgroups([]); os.setgid(65533); os.setuid(65533)
try:
    connect_socket(Path(sys.argv[1]), 5.0)
except Exception as error:
    print(repr(error))
"""
    foreign = shared / "admin.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(foreign))
        # The kernel notes who calls listen(2).
        os.seteuid(NOBODY)
        listening.listen()
        os.seteuid(0)
        foreign.chmod(0o666)
        words = [sys.executable, "-c", program, str(foreign)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert "ForeignListener" in done.stdout, done.stderr
    assert f"is another user's (uid {NOBODY})" in done.stdout


def test_without_the_socket_the_error_says_what_to_do(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KITSERVE_TOKEN", raising=False)
    monkeypatch.setenv("KITSERVE_HOME", "/nowhere")
    with pytest.raises(ControlError, match="KITSERVE_HOME"):
        AdminClient(running.url).order_rollout("iris", "abort", {})
    assert call(web_app([], gate()), "/x", HOLDER)[0] == 404


def test_a_clients_certificate_opens_what_the_token_does(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = make_certificates(tmp_path)
    server_pair, client = certificates.server, certificates.client
    tls = AdminTls(
        cert_file=server_pair.cert_file, key_file=server_pair.key_file, client_ca_file=certificates.ca_file
    )
    server = WebServer(running.app, tcp_socket("127.0.0.1", 0), tls=server_context(tls))
    server.start()
    url = f"https://127.0.0.1:{server.address[1]}"

    def get(path: str, pair: KeyPair | None = None, **headers: str) -> int:
        shown = None if pair is None else (str(pair.cert_file), str(pair.key_file))
        ca = str(certificates.ca_file)
        return requests.get(url + path, verify=ca, cert=shown, headers=headers, timeout=5).status_code

    assert get("/api/status") == 200
    assert get("/api/config") == 401
    assert get("/api/config", client) == 200
    assert get("/api/config", None, **running.token) == 200
    with pytest.raises(requests.exceptions.ConnectionError):
        get("/api/status", certificates.stranger)
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(url.replace("https", "http"), timeout=5)
    monkeypatch.setenv("KITSERVE_ADMIN_CA_FILE", str(certificates.ca_file))
    monkeypatch.setenv("KITSERVE_ADMIN_CERT_FILE", str(client.cert_file))
    monkeypatch.setenv("KITSERVE_ADMIN_KEY_FILE", str(client.key_file))
    assert AdminClient(url).config()["models"]
    server.stop()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ControlError, match=r"admin_tls: .*pipe cannot be used"):
        server_context(AdminTls(cert_file=server_pair.cert_file, key_file=tmp_path / "pipe"))


def test_orders_to_a_rollout_leave_a_line_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with running_admin(tmp_path) as admin:
        url = f"http://{admin.address}/api/models/iris/rollout"
        assert requests.get(url, timeout=5).status_code == 200
        assert requests.post(f"{url}/rollback", json={"digest": "v9"}, timeout=5).status_code == 401
        for order in ("retry", "abort"):
            assert requests.post(f"{url}/{order}", json={}, headers=HOLDER, timeout=5).status_code in (
                200,
                409,
            )
        answer = requests.post(f"{url}/rollback", json={"digest": "v9"}, headers=HOLDER, timeout=5)
        assert answer.status_code == 409
    unknown, *lines = [vars(record) for record in caplog.records if record.msg.startswith("admin.")]
    assert unknown["path"] == "/api/models/iris/rollout/rollback"
    assert [line["change"] for line in lines] == ["rollout retry", "rollout abort", "rollout rollback"]
    for line in lines:
        assert (line["caller"], line["model"]) == ("token from 127.0.0.1", "iris")
        assert line["stable_before"].startswith("sha256:")
        assert line["result"] == "done" or line["result"].startswith("refused: ")
    assert "no version that served was called v9" in lines[-1]["result"]

"""The commands that ask a running Kitserve: where it is, and what it is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.admin_address import admin_url
from gateway.control.admin.token import keep_token
from tests.support.admin import Admin, running_admin
from tests.support.answers import Answers
from tests.support.cli import Cli
from tests.support.faults import LEAKED
from tests.support.gate import TOKEN
from tests.support.rollouts import ROLLOUT, kit


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("COLUMNS", "300")
    return Cli(tmp_path / "home", monkeypatch, capsys)


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    with running_admin(tmp_path) as admin:
        yield admin


def write(directory: Path, tag: str, *, wine: bool = False) -> Path:
    """Write a config of `iris` with this tag, and of `wine`."""
    file = directory / "kitserve.yaml"
    models = [{"name": "iris", "kit": str(kit(tag)), "rollout": ROLLOUT}]
    if wine:
        models.append({"name": "wine", "kit": "registry.test/wine:v1"})
    file.write_text(json.dumps({"models": models}))
    return file


@pytest.mark.parametrize("form", ["{}", "{}/", "http://{}", "http://{}/", "HTTP://{}//"])
def test_the_admin_address_may_be_a_url(cli: Cli, admin: Admin, form: str) -> None:
    text, _ = cli("status", "--admin", form.format(admin.address))
    assert "iris" in text
    assert "Healthy" in cli("rollout", "status", "iris", "--admin", form.format(admin.address))[0]


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("h:1", "http://h:1"),
        ("[::1]:8081", "http://[::1]:8081"),
        ("https://kitserve.example.com", "https://kitserve.example.com"),
        ("https://example.com/kitserve/admin/", "https://example.com/kitserve/admin"),
    ],
)
def test_the_url_of_an_address(address: str, url: str) -> None:
    assert admin_url(address) == url


@pytest.mark.parametrize(
    "address",
    [
        "",
        "8081",
        "localhost",
        ":8081",
        "h:",
        "h:http",
        "h:99999",
        "h:0",
        "ftp://h:1",
        "http://",
        "http://:8081",
        "http://[::1:1",
        "http://h:1?x",
        "http://h:1#x",
        "http://user:secret@h:1",
        "a b:1",
        "h:1\n",
    ],
)
def test_an_address_that_cannot_be_one_is_a_wrong_command(cli: Cli, tmp_path: Path, address: str) -> None:
    file = tmp_path / "kitserve.yaml"
    file.write_text("models: []\n")
    for command in (["status"], ["apply", str(file)], ["rollout", "status", "iris"]):
        _, error = cli(*command, "--admin", address, code=2)
        assert "is not an admin address; write HOST:PORT, such as 127.0.0.1:8081, or a URL" in error


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>", "it answers GET /api/status with 200 and no JSON object"),
        (200, b"[]", "it answers GET /api/status with 200 and no JSON object"),
        (301, b"", "it answers GET /api/status with 301 and no JSON object"),
        (404, b'{"error":"no such path: /api/status"}', "it does not know /api/status"),
        (404, b'{"error":"Not Found"}', "it does not know /api/status"),
    ],
    ids=["page", "list", "redirect", "edge", "other"],
)
def test_another_server_is_named(cli: Cli, server: Answers, status: int, body: bytes, words: str) -> None:
    server.answer = lambda handler: handler.say(status, body)
    _, error = cli("status", "--admin", server.host, code=1)
    assert f"the server at {server.host} is no Kitserve's admin API: {words}" in error
    assert "give the address that the config has as `admin`" in error


def test_a_host_name_that_the_gateway_does_not_answer_to_is_explained(cli: Cli, server: Answers) -> None:
    server.answer = lambda handler: handler.say(400, b"Invalid host header")
    _, error = cli("status", "--admin", server.host, code=1)
    assert "listens on loopback, and answers to 127.0.0.1 and localhost only" in error


def test_a_server_that_speaks_no_tls_is_named(cli: Cli, admin: Admin) -> None:
    _, error = cli("status", "--admin", f"https://{admin.address}", code=1)
    assert f"no TLS with https://{admin.address}" in error
    assert "speaks http://" in error


@pytest.mark.parametrize(
    "command",
    [
        ["status", "nope"],
        ["rollout", "status", "nope"],
        ["rollout", "history", "nope"],
        ["rollout", "abort", "nope"],
        ["rollout", "rollback", "nope"],
    ],
)
def test_a_model_that_is_not_there_is_answered_with_those_that_are(
    cli: Cli, admin: Admin, command: list[str]
) -> None:
    _, error = cli(*command, "--admin", admin.address, code=1)
    assert "no model is named nope; the models are iris" in error


@pytest.mark.parametrize("name", ["a/b", "..", "", "a b"])
def test_a_name_that_no_model_can_have_is_a_wrong_command(cli: Cli, name: str) -> None:
    for command in (["status"], ["rollout", "status"], ["rollout", "promote"]):
        assert f"{name!r} cannot be the name of a model" in cli(*command, name, code=2)[1]


def test_status_shows_one_model(cli: Cli, admin: Admin, tmp_path: Path) -> None:
    write(tmp_path, "v1", wine=True)
    cli("apply", str(tmp_path / "kitserve.yaml"), "--admin", admin.address)
    text, _ = cli("status", "wine", "--admin", admin.address)
    assert "wine" in text
    assert "iris" not in text
    text, _ = cli("status", "wine", "--admin", admin.address, "-o", "json")
    assert json.loads(text)["name"] == "wine"


def test_a_model_without_a_rollout_says_why(cli: Cli, admin: Admin) -> None:
    admin.world.apply("v1", None)
    admin.world.tick()
    _, error = cli("rollout", "status", "iris", "--admin", admin.address, code=1)
    assert "model iris has no rollout: give it `rollout:` in the config" in error


def test_an_earlier_version_that_is_not_there_is_answered_with_those_that_are(cli: Cli, admin: Admin) -> None:
    _, error = cli("rollout", "rollback", "iris", "v9", "--admin", admin.address, code=1)
    assert "no version that served was called v9; these served: v1 (" in error


@pytest.mark.parametrize("arguments", [["status", "-o", "yaml"], ["serve", "x", "--log-format", "yaml"]])
def test_a_format_that_there_is_not_is_named(cli: Cli, arguments: list[str]) -> None:
    _, error = cli(*arguments, code=2)
    assert "'yaml' is neither text nor json" in error
    assert not LEAKED.search(error)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [(["aply"], "apply"), (["rollout", "stauts"], "status"), (["status", "--admn"], "--admin")],
)
def test_a_mistyped_command_is_answered_with_the_right_one(cli: Cli, wrong: list[str], right: str) -> None:
    assert right in cli(*wrong, code=2)[1]


def test_the_token_is_printed_and_made_anew(cli: Cli, tmp_path: Path) -> None:
    home = tmp_path / "kept"
    home.mkdir()
    assert "`kitserve serve` makes it" in cli("token", "--home", str(home), code=1)[1]
    keep_token(home)
    first, _ = cli("token", "--home", str(home))
    assert cli("token", "--home", str(home)) == (first, "")
    assert len(first.strip()) == 43
    assert cli("token", "--new", "--home", str(home))[0] != first


def test_the_token_may_be_in_a_file_that_is_its_users_alone(
    cli: Cli, admin: Admin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KITSERVE_TOKEN")
    monkeypatch.setenv("KITSERVE_ADMIN", f"http://{admin.address}")
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    monkeypatch.setenv("KITSERVE_TOKEN_FILE", str(file))
    assert "iris" in cli("apply", str(write(tmp_path, "v2")), "--no-wait")[0]
    file.chmod(0o640)
    _, error = cli("status", code=1)
    assert "$KITSERVE_TOKEN_FILE: " in error
    assert "may be read by others, or is another user's; have it be this user's, with mode 0600" in error
    monkeypatch.setenv("KITSERVE_TOKEN_FILE", str(tmp_path / "absent"))
    assert "no such file" in cli("status", code=1)[1]

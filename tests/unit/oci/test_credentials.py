from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Unauthorized
from gateway.oci import credential_helpers
from gateway.oci.credentials import (
    Basic,
    BearerToken,
    IdentityToken,
    configured_credential,
    stored_credential,
)
from gateway.oci.options import RegistryOptions

_SECRET = "hunter2"


@pytest.fixture(autouse=True)
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "docker"
    directory.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(directory))
    monkeypatch.delenv("KITOPS_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return directory / "config.json"


@pytest.fixture
def kit_config(tmp_path: Path) -> Path:
    (tmp_path / "kitops").mkdir()
    return tmp_path / "kitops" / "credentials.json"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on PATH for credential helpers."""
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory), prepend=":")
    return directory


def _helper(programs: Path, name: str, script: str) -> None:
    path = programs / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def _answering(username: str, secret: str) -> str:
    answer = json.dumps({"ServerURL": "x", "Username": username, "Secret": secret})
    return f'test "$1" = get || exit 3\ncat > "$(dirname "$0")/asked"\necho \'{answer}\''


_MISSING = "cat > /dev/null; echo 'credentials not found in native keychain'; exit 1"


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _auths(**auths: Any) -> str:
    entries = {host: {"auth": entry} if isinstance(entry, str) else entry for host, entry in auths.items()}
    return json.dumps({"auths": entries})


def test_nobody_is_anonymous(docker_config: Path) -> None:
    assert stored_credential("r.io", None) is None
    docker_config.write_text(_auths(**{"other.io": _encoded("a:b")}))
    assert stored_credential("r.io", None) is None
    docker_config.write_text('{"auths": {"r.io": {}}}')
    assert stored_credential("r.io", None) is None
    assert configured_credential("r.io", RegistryOptions()) is None


@pytest.mark.parametrize("key", ["r.io", "https://r.io", "https://r.io/v1/"])
def test_docker_logins_are_found(docker_config: Path, key: str) -> None:
    docker_config.write_text(_auths(**{key: _encoded("me:pass:word")}))
    assert stored_credential("r.io", None) == Basic("me", "pass:word")


def test_docker_hub_is_found_under_its_old_name(docker_config: Path, programs: Path) -> None:
    docker_config.write_text(_auths(**{"https://index.docker.io/v1/": _encoded("me:secret")}))
    assert stored_credential("docker.io", None) == Basic("me", "secret")
    assert stored_credential("r.io", None) is None
    _helper(programs, "hub", _answering("you", "secret"))
    docker_config.write_text('{"credsStore": "hub"}')
    assert stored_credential("docker.io", None) == Basic("you", "secret")
    assert (programs / "asked").read_text() == "https://index.docker.io/v1/"


@pytest.mark.parametrize(
    ("entry", "credential"),
    [
        ({"identitytoken": "t", "auth": _encoded("me:")}, IdentityToken("me", "t")),
        ({"identitytoken": "t"}, IdentityToken("", "t")),
        ({"registrytoken": "t"}, BearerToken("t")),
        ({"username": "me", "password": "p"}, Basic("me", "p")),
    ],
)
def test_every_form_of_a_login(docker_config: Path, entry: dict[str, str], credential: object) -> None:
    docker_config.write_text(_auths(**{"r.io": entry}))
    assert stored_credential("r.io", None) == credential


def test_kit_comes_before_docker(
    docker_config: Path, kit_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker_config.write_text(_auths(**{"r.io": _encoded("docker:x"), "d.io": _encoded("docker:x")}))
    kit_config.write_text(_auths(**{"r.io": _encoded("kit:x")}))
    assert stored_credential("r.io", None) == Basic("kit", "x")
    assert stored_credential("d.io", None) == Basic("docker", "x")
    for name in ("env", "option"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "credentials.json").write_text(_auths(**{"r.io": _encoded(f"{name}:x")}))
    monkeypatch.setenv("KITOPS_HOME", str(tmp_path / "env"))
    assert stored_credential("r.io", None) == Basic("env", "x")
    assert stored_credential("r.io", tmp_path / "option") == Basic("option", "x")


def test_helpers_are_asked_from_the_most_particular_on(docker_config: Path, programs: Path) -> None:
    _helper(programs, "one", _answering("one", "x"))
    _helper(programs, "all", _answering("all", "x"))
    config = {
        "credHelpers": {"r.io": "one"},
        "credsStore": "all",
        **json.loads(_auths(**{"r.io": _encoded("f:x")})),
    }
    docker_config.write_text(json.dumps(config))
    assert stored_credential("r.io", None) == Basic("one", "x")
    assert (programs / "asked").read_text() == "r.io"
    assert stored_credential("other.io:5000", None) == Basic("all", "x")
    assert (programs / "asked").read_text() == "other.io:5000"
    _helper(programs, "one", _MISSING)
    assert stored_credential("r.io", None) == Basic("all", "x")
    _helper(programs, "all", _MISSING)
    assert stored_credential("r.io", None) == Basic("f", "x")
    assert stored_credential("other.io", None) is None


def test_a_helper_may_have_an_identity_token(docker_config: Path, programs: Path) -> None:
    _helper(programs, "x", _answering("<token>", "t"))
    docker_config.write_text('{"credsStore": "x"}')
    assert stored_credential("r.io", None) == IdentityToken("<token>", "t")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (f"echo {_SECRET}", "returned no login that can be read"),
        (f'echo \'{{"Username": "{_SECRET}"}}\'', "returned no login that can be read"),
        ("head -c 1000000 /dev/zero", "failed with status"),
        (f"echo {_SECRET}; exit 2", "failed with status 2"),
        ("exec sleep 20", "did not answer in 0.5 s"),
        ("sleep 20", "did not answer in 0.5 s"),
        ("exec >&-; sleep 20", "did not answer in 0.5 s"),
        ("exec cat /dev/zero >&2", "did not answer in 0.5 s"),
    ],
)
def test_a_helper_that_fails_is_named(
    docker_config: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setattr(credential_helpers, "_TIMEOUT", 0.5)
    _helper(programs, "broken", script)
    docker_config.write_text('{"credsStore": "broken"}')
    begun = time.monotonic()
    with pytest.raises(Unauthorized, match=rf"r\.io.*'broken' of .*config\.json {message}") as error:
        stored_credential("r.io", None)
    assert time.monotonic() - begun < 2
    assert _SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "not on PATH; install docker-credential-nowhere"), ("../../bin/sh", "no name of a program")],
)
def test_a_helper_that_is_not_there_is_named(docker_config: Path, name: str, message: str) -> None:
    docker_config.write_text(json.dumps({"credsStore": name}))
    with pytest.raises(Unauthorized, match=f"r.io: the credential helper {name!r} .*{message}"):
        stored_credential("r.io", None)


def test_options_come_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "from env")
    (tmp_path / "secret").write_text("from-file\n")
    env = RegistryOptions("ci", "SECRET")
    assert configured_credential("r.io", env) == Basic("ci", "from env")
    file = RegistryOptions("ci", password_file=tmp_path / "secret")
    assert configured_credential("r.io", file) == Basic("ci", "from-file")
    token_file = RegistryOptions(token_file=tmp_path / "secret")
    assert configured_credential("r.io", token_file) == BearerToken("from-file")
    with pytest.raises(Unauthorized, match="the token is empty or has spaces"):
        configured_credential("r.io", RegistryOptions(token_env="SECRET"))


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        _auths(**{"r.io": "%%%"}),
        _auths(**{"r.io": _encoded(_SECRET)}),
        _auths(**{"r.io": {"auth": [_SECRET]}}),
    ],
)
@pytest.mark.parametrize("command", ["docker", "kit"])
def test_a_broken_login_is_said_without_its_content(
    docker_config: Path, kit_config: Path, text: str, command: str
) -> None:
    (kit_config if command == "kit" else docker_config).write_text(text)
    with pytest.raises(Unauthorized, match=rf"r\.io.*{command} login") as error:
        stored_credential("r.io", None)
    assert _SECRET not in str(error.value)
    assert _encoded(_SECRET) not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RegistryOptions("ci"), "set password_env or password_file"),
        (RegistryOptions("ci", password_env="NOT_SET"), "NOT_SET is not set; set it to the password"),
        (RegistryOptions("ci", password_file=Path("/nowhere/x")), "password file /nowhere/x cannot be read"),
        (RegistryOptions(token_env="NOT_SET"), "NOT_SET is not set; set it to the token"),
        (RegistryOptions(token_file=Path("/nowhere/x")), "token file /nowhere/x cannot be read"),
    ],
)
def test_a_missing_secret_is_named(options: RegistryOptions, message: str) -> None:
    with pytest.raises(Unauthorized, match=message):
        configured_credential("r.io", options)


def test_secrets_are_not_shown() -> None:
    for credential in (Basic("me", _SECRET), IdentityToken("me", _SECRET), BearerToken(_SECRET)):
        assert _SECRET not in repr(credential)


def test_a_password_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        for options in (RegistryOptions("ci", password_file=path), RegistryOptions(token_file=path)):
            with pytest.raises(Unauthorized, match="not a regular file"):
                configured_credential("registry.test", options)
    os.mkfifo(tmp_path / "credentials.json")
    with pytest.raises(Unauthorized, match="it is a pipe, not a regular file"):
        stored_credential("registry.test", tmp_path)

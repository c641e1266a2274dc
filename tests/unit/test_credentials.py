from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from gateway.errors import Unauthorized
from gateway.oci.credentials import Credential, find_credential
from gateway.oci.options import RegistryOptions


@pytest.fixture(autouse=True)
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


def _auths(**auths: str) -> str:
    return json.dumps({"auths": {host: {"auth": auth} for host, auth in auths.items()}, "credsStore": "x"})


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_nobody_is_anonymous(docker_config: Path) -> None:
    assert find_credential("r.io", RegistryOptions()) is None
    docker_config.write_text(_auths(**{"other.io": _encoded("a:b")}))
    assert find_credential("r.io", RegistryOptions()) is None
    docker_config.write_text('{"auths": {"r.io": {}}}')
    assert find_credential("r.io", RegistryOptions()) is None


@pytest.mark.parametrize("key", ["r.io", "https://r.io", "https://r.io/v1/"])
def test_docker_logins_are_found(docker_config: Path, key: str) -> None:
    docker_config.write_text(_auths(**{key: _encoded("me:pass:word")}))
    assert find_credential("r.io", RegistryOptions()) == Credential("me", "pass:word")


def test_docker_hub_is_found_under_its_old_name(docker_config: Path) -> None:
    docker_config.write_text(_auths(**{"https://index.docker.io/v1/": _encoded("me:secret")}))
    assert find_credential("docker.io", RegistryOptions()) == Credential("me", "secret")
    assert find_credential("r.io", RegistryOptions()) is None


def test_options_come_first(docker_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker_config.write_text(_auths(**{"r.io": _encoded("docker:docker")}))
    monkeypatch.setenv("PASSWORD", "from env")
    assert find_credential("r.io", RegistryOptions("ci", "PASSWORD")) == Credential("ci", "from env")
    (tmp_path / "password").write_text("from file\n")
    options = RegistryOptions("ci", password_file=tmp_path / "password")
    assert find_credential("r.io", options) == Credential("ci", "from file")


@pytest.mark.parametrize(
    "text", ["not json", "[]", _auths(**{"r.io": "%%%"}), _auths(**{"r.io": _encoded("hunter2")})]
)
def test_a_broken_login_is_said_without_its_content(docker_config: Path, text: str) -> None:
    docker_config.write_text(text)
    with pytest.raises(Unauthorized, match=r"r\.io.*docker login") as error:
        find_credential("r.io", RegistryOptions())
    assert "hunter2" not in str(error.value)
    assert _encoded("hunter2") not in str(error.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (RegistryOptions("ci"), "set password_env or password_file"),
        (RegistryOptions("ci", password_env="NOT_SET"), "NOT_SET is not set"),
        (RegistryOptions("ci", password_file=Path("/nowhere/password")), "/nowhere/password cannot be read"),
    ],
)
def test_a_missing_password_is_named(options: RegistryOptions, named: str) -> None:
    with pytest.raises(Unauthorized, match=named):
        find_credential("r.io", options)


def test_passwords_are_not_shown() -> None:
    assert "secret" not in repr(Credential("me", "secret"))

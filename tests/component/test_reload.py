"""`kitserve serve` applies its config file again: on SIGHUP, and where it is watched once it changes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.cli.admin_client import AdminClient
from gateway.cli.reload import ConfigSource, Reload
from gateway.config.config import load_config
from gateway.config.lock import Lock, LockedKit, load_locked, lock_path, lock_text
from gateway.errors import ConfigError
from gateway.oci.reference import Digest
from tests.support.admin import Admin, running_admin
from tests.support.gate import TOKEN
from tests.support.rollouts import kit

Check = Callable[[Reload], str]


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    with running_admin(tmp_path) as admin:
        yield admin


@pytest.fixture
def check(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> Check:
    monkeypatch.setenv("KITSERVE_TOKEN", TOKEN)
    client = AdminClient(admin.address)

    def run(reload: Reload) -> str:
        said: list[str] = []
        reload.check(client, said.append)
        return "\n".join(said)

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kitserve.yaml"
    write(path, "v1")
    return path


def write(path: Path, tag: str, name: str = "iris") -> None:
    path.write_text(f"models:\n- name: {name}\n  kit: {kit(tag)}\n")


def reload_of(path: Path, is_watched: bool = False) -> Reload:
    return Reload(ConfigSource(path, lambda file: load_config(file, needs_models=True)), is_watched)


def test_it_is_applied_when_it_is_asked_for_and_not_before(file: Path, check: Check, admin: Admin) -> None:
    reload = reload_of(file)
    write(file, "v2")
    assert check(reload) == ""
    reload.ask()
    assert check(reload).startswith(f"{file} (SIGHUP): applied\n  iris: ")
    assert str(admin.world.state.desired().models[0].kit) == str(kit("v2"))
    assert check(reload) == ""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "models:\n- name: iris\n  kit: ${ABSENT}\n",
            "models[0].kit: the environment variable ABSENT",
        ),
        ("models:\n- name: ir", "is missing, and must be written"),
        ("", "line 1: models: is missing"),
        ("models: [", "this is no YAML"),
    ],
)
def test_a_file_with_a_fault_changes_nothing(
    file: Path, check: Check, admin: Admin, text: str, fault: str
) -> None:
    reload, before = reload_of(file), admin.world.state.desired()
    file.write_text(text)
    reload.ask()
    said = check(reload)
    assert said.startswith(f"{file} (SIGHUP): not applied, and what was in force stays: ")
    assert fault in said
    assert admin.world.state.desired() == before
    write(file, "v2")
    reload.ask()
    assert "(SIGHUP): applied" in check(reload)


def test_what_the_gateway_refuses_changes_nothing(file: Path, check: Check) -> None:
    reload = reload_of(file)
    reload.ask()
    check(reload)
    file.write_text(file.read_text() + "webhooks: [https://hooks.test/x]\n")
    reload.ask()
    said = check(reload)
    assert "not applied, and what was in force stays: only the user of Kitserve may change this" in said


def test_a_watched_file_is_applied_once_it_has_changed(
    file: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli.file_watch._QUIET_SECONDS", 0.0)
    reload = reload_of(file, is_watched=True)
    assert check(reload) == ""
    write(file, "v2")
    assert check(reload).startswith(f"{file} (it has changed): applied\n")
    write(file, "v3")
    reload.ask()
    assert "(SIGHUP): applied" in check(reload)
    assert check(reload) == "", "it is not applied again as one that has changed"
    file.unlink()
    assert "not applied, and what was in force stays" in check(reload)
    assert check(reload) == "", "what is wrong is told once"


def test_a_lock_is_watched_with_its_file(
    file: Path, check: Check, monkeypatch: pytest.MonkeyPatch, admin: Admin
) -> None:
    monkeypatch.setattr("gateway.cli.file_watch._QUIET_SECONDS", 0.0)
    lock, digest = lock_path(file), Digest.of(b"v2")
    write_lock(file, Digest.of(b"v1"), "v1")
    reload = Reload(ConfigSource(file, load_locked, lock), is_watched=True)
    write(file, "v2")
    assert "bring it up to date with `kitserve lock" in check(reload)
    assert check(reload) == ""
    write_lock(file, digest, "v2")
    assert check(reload).startswith(f"{file} (its lock has changed): applied\n")
    assert str(admin.world.state.desired().models[0].kit).endswith(str(digest))
    lock.chmod(0o666)
    write_lock(file, Digest.of(b"v3"), "v2")
    assert f"not applied, and what was in force stays: {lock}: 1 fault\n  every user may" in check(reload)


def write_lock(file: Path, digest: Digest, tag: str) -> None:
    lock_path(file).write_text(lock_text(Lock({kit(tag): LockedKit(digest)}), file))


def test_a_file_that_others_may_write_is_not_watched(
    file: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli.file_watch._QUIET_SECONDS", 0.0)
    reload = reload_of(file, is_watched=True)
    file.chmod(0o666)
    write(file, "v2")
    assert "not applied, and what was in force stays" in check(reload)
    with pytest.raises(ConfigError, match="every user may write to it, and what others write"):
        reload_of(file, is_watched=True)
    with pytest.raises(ConfigError, match="a pipe cannot be watched"):
        reload_of(Path("-"), is_watched=True)


def test_a_gateway_that_does_not_answer_gets_it_later(file: Path, check: Check) -> None:
    reload, said = reload_of(file), list[str]()
    reload.ask()
    nobody = AdminClient("127.0.0.1:9")
    reload.check(nobody, said.append)
    reload.check(nobody, said.append)
    assert len(said) == 1
    assert f"{file} (SIGHUP): waiting for the gateway: " in said[0]
    assert "(SIGHUP): applied" in check(reload)


def test_a_pipe_is_not_read_again(check: Check) -> None:
    reading, writing = os.pipe()
    reload = reload_of(Path(f"/dev/fd/{reading}"))
    reload.ask()
    assert "it was a pipe, which cannot be read again" in check(reload)
    os.close(reading)
    os.close(writing)

"""What shells offer at the Tab key: models that run, and kits that are here; nothing else, and in silence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.admin import Admin, running_admin
from tests.support.cli import Cli

Offer = Callable[..., list[str]]


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    with running_admin(tmp_path) as admin:
        yield admin


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Offer:
    """Return what bash is offered; its words are as it takes a line apart, and the last is completed."""
    cli = Cli(tmp_path / "home", monkeypatch, capsys)
    monkeypatch.setenv("_KITSERVE_COMPLETE", "complete_bash")

    def complete(*words: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", "\n".join(["kitserve", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        text, error = cli()
        assert error == ""
        return text.split()

    return complete


def test_commands_and_the_names_of_models_that_run(
    offer: Offer, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITSERVE_ADMIN", admin.address)
    assert offer("rest") == ["restart"]
    assert offer("status", "") == ["iris", "wine"][: len(offer("status", ""))]
    assert offer("status", "ir") == ["iris"]
    assert offer("logs", "ir") == ["iris"]
    assert offer("replay", "--model", "ir") == ["iris"]
    assert offer("rollout", "abort", "ir") == ["iris"]
    assert offer("restart", "iris") == ["iris", "iris:v1"]
    # As bash takes it apart: it replaces what follows the colon alone.
    assert offer("restart", "iris", ":", "v") == ["v1"]
    assert offer("restart", "iris", ":") == ["v1"]


def test_an_address_on_the_line_is_asked(offer: Offer, admin: Admin) -> None:
    host, port = admin.address.split(":")
    assert offer("status", "--admin", host, ":", port, "i") == ["iris"]


def test_where_nobody_answers_nothing_is_offered_and_nothing_said(
    offer: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in ("127.0.0.1:9", "no address at all", "/nowhere/admin.sock"):
        monkeypatch.setenv("KITSERVE_ADMIN", address)
        assert offer("status", "i") == []


def layout(directory: Path, *names: str) -> None:
    directory.mkdir(parents=True)
    manifests = [{"annotations": {"org.opencontainers.image.ref.name": name}} for name in names]
    (directory / "index.json").write_text(json.dumps({"manifests": [*manifests, {}]}))


def test_references_of_layouts(offer: Offer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout(tmp_path / "kits" / "samples", "iris:v1", "iris:v2", "wine:v1")
    (tmp_path / "kits" / "plain").mkdir()
    monkeypatch.chdir(tmp_path)
    assert offer("inspect", "oci") == ["oci-layout:"]
    assert offer("replay", "--kit", "oci") == ["oci-layout:"]
    assert offer("inspect", "oci-layout", ":", "kits/") == ["kits/plain/", "kits/samples:"]
    assert offer("pull", "oci-layout", ":", "kits/samples", ":", "iris") == ["iris:v1", "iris:v2"]
    assert offer("pull", "oci-layout", ":", "kits/samples", ":", "iris", ":", "v2") == ["v2"]
    assert offer("pull", "oci-layout", ":", "kits/nowhere", ":", "") == []


def test_what_means_something_to_a_shell_is_not_offered(
    offer: Offer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout(tmp_path / "kits", "$(touch x)", "a;b", "a`b`", "a b", "a'b", "a\nb", "a\x1b[2J", "ok:v1")
    (tmp_path / "$(touch y)").mkdir()
    monkeypatch.chdir(tmp_path)
    assert offer("pull", "oci-layout", ":", "kits", ":", "") == ["ok:v1"]
    assert "$" not in "".join(offer("pull", "oci-layout", ":", ""))


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_references_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shell: str
) -> None:
    layout(tmp_path / "kits", "iris:v1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("_KITSERVE_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "kitserve pull oci-layout:kits:")
    text, _ = Cli(tmp_path / "home", monkeypatch, capsys)()
    assert text.replace("\\\\:", ":").strip().strip("\"'()").endswith("oci-layout:kits:iris:v1")


def test_the_script_of_a_shell_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: "bash")
    text, _ = Cli(tmp_path / "home", monkeypatch, capsys)("--show-completion")
    assert "_KITSERVE_COMPLETE=complete_bash" in text

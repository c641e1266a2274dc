"""`kitserve key new`: a key is printed once, and its hash goes into the file of keys."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.lifecycle import edge_settings
from gateway.cli.main import app
from gateway.config.config import GatewayConfig
from gateway.config.keys import parse_keys
from gateway.edge.access import Access
from gateway.edge.bounds import edge_bounds
from gateway.edge.files import EdgeFiles
from gateway.edge.keys import hash_of
from gateway.errors import ConfigError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["key", "new", *arguments])


def test_a_key_is_printed_once_and_its_hash_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    keys = [
        run("ci", "--file", str(file)),
        run("bob", "--file", str(file), "--model", "iris", "--model", "wine@v1", "--per-minute", "5"),
    ]
    assert [result.exit_code for result in keys] == [0, 0]
    printed = [result.stdout.strip() for result in keys]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    ci, bob = parse_keys(file.read_text(), "keys.yaml")
    assert [ci.sha256, bob.sha256] == [hash_of(key) for key in printed]
    assert (ci.name, ci.models, ci.per_minute, ci.may_choose_canary) == ("ci", ("*",), None, False)
    assert (bob.name, bob.models, bob.per_minute) == ("bob", ("iris", "wine@v1"), 5)
    assert all(key not in file.read_text() and len(key) > 40 for key in printed)
    assert len(set(printed)) == 2


def test_a_file_that_would_be_wrong_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    assert run("ci", "--file", str(file)).exit_code == 0
    before = file.read_text()
    again = run("ci", "--file", str(file))
    assert isinstance(again.exception, ConfigError)
    assert "there twice" in str(again.exception)
    assert isinstance(run("bob", "--file", str(file), "--model", "no model").exception, ConfigError)
    assert run("a b", "--file", str(file)).exit_code == 2
    assert file.read_text() == before
    file.write_text("keys: []\n")
    assert isinstance(run("ci", "--file", str(file)).exception, ConfigError)
    assert file.read_text() == "keys: []\n"


def test_without_a_file_it_says_what_to_add() -> None:
    result = run("ci", "--may-choose-canary")
    entry, key = result.stderr.partition(":\n")[2], result.stdout.strip()
    assert parse_keys(f"keys:\n{entry}", "keys.yaml")[0].sha256 == hash_of(key)
    assert "may_choose_canary: true" in entry


@pytest.mark.parametrize("file", ["/dev/full", "/nowhere/keys.yaml", "/tmp"])
def test_a_file_that_cannot_be_written_is_told(file: str) -> None:
    assert isinstance(run("ci", "--file", file).exception, ConfigError)


def test_workers_always_take_calls_from_the_edge_alone(tmp_path: Path) -> None:
    files, bounds = EdgeFiles(tmp_path), edge_bounds(16384)
    first, second = (edge_settings(GatewayConfig(), Access(), files, bounds, tmp_path) for _ in range(2))
    assert len(first.key) == 64
    assert first.key != second.key
    # Callers stay with their version over a restart.
    assert first.sticky_key == second.sticky_key

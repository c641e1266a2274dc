"""`kitserve logs`: the log of a home, read by its user."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.logs.events import JsonFormatter, log_path
from gateway.logs.files import SharedFile
from tests.support.cli import Cli


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def cli(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(home, monkeypatch, capsys)


def write(home: Path, event: str, level: int = logging.INFO, age: float = 0.0, **fields: object) -> None:
    path = log_path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    created = (datetime.now(UTC) - timedelta(seconds=age)).timestamp()
    names = {"msg": event, "levelno": level, "levelname": logging.getLevelName(level), "created": created}
    record = logging.makeLogRecord({**names, **fields})
    SharedFile(path, max_bytes=2000).write(JsonFormatter("worker").format(record).encode() + b"\n")


def events(text: str) -> list[str]:
    return [line.split()[3] for line in text.splitlines()]


def test_lines_of_a_model_since_a_time_and_of_a_level(home: Path, cli: Cli) -> None:
    write(home, "long.ago", age=7200, model="iris")
    for number in range(30):
        write(home, f"event.{number}", model="iris" if number % 2 else "wine")
    write(home, "bad", logging.WARNING, model="iris", reason="\x1b[2J\u202eevil")
    assert events(cli("logs")[0])[:2] == ["long.ago", "event.0"], "the older files come first"
    assert events(cli("logs", "iris", "--since", "1h", "--tail", "3")[0]) == ["event.27", "event.29", "bad"]
    text = cli("logs", "--level", "warning")[0]
    assert events(text) == ["bad"]
    assert "\x1b" not in text
    assert "\u202e" not in text
    (line,) = cli("logs", "-o", "json", "--tail", "1")[0].splitlines()
    assert json.loads(line)["event"] == "bad"
    tomorrow = (datetime.now() + timedelta(days=1)).isoformat()
    assert cli("logs", "--since", tomorrow)[0] == ""


def test_what_cannot_be_shown_is_said(
    home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "no Kitserve has run from" in cli("logs", code=1)[1]
    assert "neither a time" in cli("logs", "--since", "yesterday", code=2)[1]
    assert "none of debug, info" in cli("logs", "--level", "loud", code=2)[1]
    write(home, "said", model="iris")
    assert "no such line about wine" in cli("logs", "wine")[1]
    assert cli("logs", "iris", "--tail", "0") == ("", "")
    monkeypatch.delenv("KITSERVE_HOME")
    monkeypatch.setenv("KITSERVE_ADMIN", str(home / "admin.sock"))
    assert events(cli("logs")[0]) == ["said"], "the home of the socket that commands ask"
    monkeypatch.setenv("KITSERVE_ADMIN", "https://models.example.com:8081")
    assert "on its machine" in " ".join(cli("logs", code=2)[1].split())


def test_it_follows_until_nobody_reads_it(home: Path) -> None:
    write(home, "first")
    command = [sys.executable, "-m", "gateway.cli", "logs", "--follow", "--home", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "first" in process.stdout.readline()
        write(home, "second")
        assert "second" in process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        for _ in range(3):
            write(home, "third")
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, "")

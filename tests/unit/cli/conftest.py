"""The commands in this process, with a home of their own and lines that are wide enough to compare."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import Cli


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("COLUMNS", "300")
    return Cli(tmp_path / "home", monkeypatch, capsys)

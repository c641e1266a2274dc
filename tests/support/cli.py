"""The command line, run in this process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.admin_client import TOKEN_VARIABLE
from gateway.cli.main import main
from tests.support.gate import TOKEN


class Cli:
    """The command `kitserve`, run in this process, which saves a second for each call."""

    def __init__(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]
    ) -> None:
        self.home = home
        monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
        monkeypatch.setenv("KITSERVE_HOME", str(home))
        self._monkeypatch = monkeypatch
        self._captured = captured

    def __call__(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Return what it printed on standard output and standard error."""
        self._monkeypatch.setattr(sys, "argv", ["kitserve", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        text, error = self._captured.readouterr()
        assert (ended.value.code or 0) == code, text + error
        return text, error

    def inspect(self, reference: str, *options: str, code: int = 0) -> dict[str, Any]:
        """Return what `kitserve inspect` writes as JSON."""
        text, _ = self("inspect", reference, "-o", "json", *options, code=code)
        document: dict[str, Any] = json.loads(text)
        return document

"""Servers that answer as a test says; nobody's logins, and no proxies, but a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.answers import Answers, run_answers


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a user who has logged in nowhere."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("KITOPS_HOME", str(tmp_path / "kitops"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server() -> Iterator[Answers]:
    with run_answers() as running:
        yield running


@pytest.fixture
def elsewhere() -> Iterator[Answers]:
    with run_answers() as running:
        yield running

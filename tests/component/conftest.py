"""Servers that answer as a test says; no logins and no proxies but a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.answers import Answers, run_answers
from tests.support.logins import forget_logins


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_logins(tmp_path, monkeypatch)


@pytest.fixture
def server() -> Iterator[Answers]:
    with run_answers() as running:
        yield running


@pytest.fixture
def elsewhere() -> Iterator[Answers]:
    with run_answers() as running:
        yield running

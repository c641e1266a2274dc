"""Each test has only the logins and proxies that it makes. A real edge, and workers behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.edge import RunningEdge, Workers
from tests.support.logins import forget_logins


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_logins(tmp_path, monkeypatch)


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    workers.stop()


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[RunningEdge]:
    running = RunningEdge(tmp_path)
    yield running
    running.stop()

"""No logins and no proxies but a test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.logins import forget_logins


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_logins(tmp_path, monkeypatch)

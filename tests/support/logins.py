"""The logins and proxies of whoever runs the tests, which no test is to use."""

from __future__ import annotations

from pathlib import Path

import pytest

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def forget_logins(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a user who has logged in nowhere and needs no proxy; `directory` stays empty."""
    monkeypatch.setenv("DOCKER_CONFIG", str(directory / "docker"))
    monkeypatch.setenv("KITOPS_HOME", str(directory / "kitops"))
    for name in _PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

"""What systemd is told: that the service is up, and that it stops; and nothing where it does not ask."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gateway.cli import systemd


@pytest.mark.parametrize("is_abstract", [False, True])
def test_the_service_manager_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool
) -> None:
    path = f"@kitserve-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path.replace("@", "\0", 1) if is_abstract else path)
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        with systemd.running():
            assert manager.recv(1000).startswith(b"READY=1\n")
            assert "NOTIFY_SOCKET" not in os.environ, "no child speaks for this process"
        assert manager.recv(1000).startswith(b"STOPPING=1\n")


def test_where_nobody_listens_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with systemd.running():
        pass
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with systemd.running():
        pass

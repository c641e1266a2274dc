"""Peers live each in a Python environment of its own, since their pins contradict one another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PEERS = Path(__file__).with_name("peers")
_INSTALL_SECONDS = 600


class NotInstalled(Exception):
    """A peer's packages could not be had."""


def script(peer: str) -> Path:
    """The file that serves a model with that peer."""
    return _PEERS / peer / "server.py"


def python(peer: str) -> Path:
    """The interpreter of a peer; installs what its requirements.txt pins where that has changed.

    Raises:
        NotInstalled: with the last that pip said.
    """
    wanted = _PEERS / peer / "requirements.txt"
    directory = Path(sys.prefix) / "peers" / peer
    found = directory / "bin" / "python"
    stamp = directory / ".installed"
    if stamp.is_file() and stamp.read_bytes() == wanted.read_bytes():
        return found
    _run(peer, [sys.executable, "-m", "venv", "--clear", str(directory)])
    _run(peer, [str(found), "-m", "pip", "--disable-pip-version-check", "install", "-q", "-r", str(wanted)])
    stamp.write_bytes(wanted.read_bytes())
    return found


def _run(peer: str, command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"{peer} was not installed after {_INSTALL_SECONDS} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-300:]]
        raise NotInstalled(f"{peer} cannot be installed: {said[0]}")

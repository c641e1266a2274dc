"""A Python environment for each peer, since the pins of one contradict those of another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PEERS = Path(__file__).with_name("peers")
_INSTALL_SECONDS = 600


class NotInstalled(Exception):
    """The packages of a peer cannot be installed."""


def script(peer: str) -> Path:
    """Return the file that serves a model with that peer."""
    return _PEERS / peer / "server.py"


def python(peer: str) -> Path:
    """Return the interpreter of a peer, after installing its requirements.txt where that has changed.

    Raises:
        NotInstalled: with what pip wrote last.
    """
    requirements = _PEERS / peer / "requirements.txt"
    directory = Path(sys.prefix) / "peers" / peer
    interpreter = directory / "bin" / "python"
    stamp = directory / ".installed"
    if stamp.is_file() and stamp.read_bytes() == requirements.read_bytes():
        return interpreter
    _run(peer, [sys.executable, "-m", "venv", "--clear", str(directory)])
    pip = [str(interpreter), "-m", "pip", "--disable-pip-version-check"]
    _run(peer, [*pip, "install", "-q", "-r", str(requirements)])
    stamp.write_bytes(requirements.read_bytes())
    return interpreter


def _run(peer: str, command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"{peer} was not installed after {_INSTALL_SECONDS} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise NotInstalled(f"{peer} cannot be installed: {errors[0] if errors else done.stderr[-300:]}")

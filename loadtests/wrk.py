"""wrk, the load generator: one thread, kept connections, the next call after each answer."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from loadtests.calls import Call

_SCRIPT = Path(__file__).with_name("infer.lua")
_RESULT = "RESULT "
_FAULTS = ("connect", "read", "write", "timeout", "status")
_PATIENCE_SECONDS = 20


class WrkFailed(Exception):
    """wrk is not installed, or failed."""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk measured. `errors` counts answers of status 400 and above, and failures of sockets."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int

    @property
    def rate(self) -> float:
        """The calls a second that were answered without an error."""
        return max(0, self.requests - self.errors) / self.seconds


def find() -> str:
    """Return the path of the program. Raises WrkFailed where it is not installed."""
    program = shutil.which("wrk")
    if program is None:
        raise WrkFailed("wrk is not installed; it is Debian's package `wrk`: apt-get install wrk")
    return program


def run(url: str, call: Call, connections: int, seconds: int) -> Load:
    """Send a call to `url` over and over, for `seconds`. Raises WrkFailed."""
    command = [find(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(_SCRIPT)]
    headers = [f"{name}: {value}" for name, value in call.headers.items()]
    try:
        with tempfile.NamedTemporaryFile() as body:
            body.write(call.body)
            body.flush()
            done = subprocess.run(
                [*command, url, "--", body.name, *headers],
                capture_output=True,
                text=True,
                timeout=seconds + _PATIENCE_SECONDS,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise WrkFailed(f"wrk did not end {_PATIENCE_SECONDS} s after its time on {url}") from None
    if done.returncode != 0:
        raise WrkFailed(f"wrk ended with {done.returncode} on {url}: {done.stdout} {done.stderr}")
    return parse(done.stdout)


def parse(output: str) -> Load:
    """Read the line that `infer.lua` writes. Raises WrkFailed."""
    line = next((line for line in output.splitlines() if line.startswith(_RESULT)), None)
    if line is None:
        raise WrkFailed(f"wrk wrote no result: {output}")
    figures = json.loads(line.removeprefix(_RESULT))
    return Load(
        requests=figures["requests"],
        seconds=figures["microseconds"] / 1e6,
        p50_ms=figures["p50_us"] / 1e3,
        p99_ms=figures["p99_us"] / 1e3,
        errors=sum(figures[fault] for fault in _FAULTS),
    )

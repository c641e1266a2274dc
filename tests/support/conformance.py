"""Whether a server does what its OpenAPI document says, for calls that follow it and calls that do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_CONFIG = Path(__file__).with_name("schemathesis.toml")
_ANSWER_SECONDS = 5


def check_conformance(url: str, seconds: int, seed: int, directory: Path) -> None:
    """Have schemathesis call `url` for `seconds`, the same calls for the same seed. Raises AssertionError."""
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "--config-file",
        str(_CONFIG),
        "--no-color",
        "run",
        f"{url}/openapi.json",
        "--phases=examples,coverage,fuzzing",
        "--checks=all",
        f"--seed={seed}",
        f"--max-time={seconds}",
        f"--max-response-time={_ANSWER_SECONDS}",
        f"--request-timeout={2 * _ANSWER_SECONDS}",
        "--generation-database=none",
        "--warnings=off",
    ]
    environment = {**os.environ, "PYTHONPATH": str(_CONFIG.parents[2])}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        cwd=directory,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Test cases:" in done.stdout, done.stdout

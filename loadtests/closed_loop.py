"""A load generator where wrk is not installed: kept connections, the next call after each answer.

Run as `python -m loadtests.closed_loop URL BODY CONNECTIONS SECONDS [HEADER: VALUE …]`, BODY being a file; it
writes a `wrk.Load` as JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from loadtests.calls import Call
from loadtests.open_loop import Client
from loadtests.wrk import Load, WrkFailed

_PATIENCE_SECONDS = 30
_OK = 200


def run(url: str, call: Call, connections: int, seconds: float) -> Load:
    """Send a call over and over, for `seconds`, from a process of its own. Raises WrkFailed."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(call.body)
        body.flush()
        headers = [f"{name}: {value}" for name, value in call.headers.items()]
        command = [sys.executable, "-m", "loadtests.closed_loop", url, body.name, str(connections)]
        done = subprocess.run(
            [*command, str(seconds), *headers],
            capture_output=True,
            text=True,
            timeout=seconds + _PATIENCE_SECONDS,
            check=False,
            cwd=Path(__file__).parents[1],
        )
    if done.returncode:
        raise WrkFailed(f"the load generator ended with {done.returncode} on {url}: {done.stderr[-500:]}")
    return Load(**json.loads(done.stdout))


async def load(url: str, body: bytes, headers: list[str], connections: int, seconds: float) -> Load:
    """Send a call over and over, on this loop."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}", *headers]
    request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    client = Client(host, port)
    durations: list[float] = []
    errors = 0
    began = time.perf_counter()
    end = began + seconds

    def call() -> None:
        sent = time.perf_counter()

        def then(status: int, _body: bytes) -> None:
            nonlocal errors
            now = time.perf_counter()
            durations.append(now - sent)
            errors += status != _OK
            if now < end:
                call()

        client.call(request, then)

    for _ in range(connections):
        call()
    await asyncio.sleep(seconds)
    await client.close()
    spent = time.perf_counter() - began
    p50, p99 = np.percentile(durations or [0.0], [50, 99]) * 1e3
    return Load(len(durations), spent, float(p50), float(p99), errors)


if __name__ == "__main__":
    url, path, count, duration, *lines = sys.argv[1:]
    figures = asyncio.run(load(url, Path(path).read_bytes(), lines, int(count), float(duration)))
    print(json.dumps(asdict(figures)))

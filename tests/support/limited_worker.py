"""A worker in a process of its own, whose memory is limited and measured."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ADDRESS_SPACE = 4_000_000_000
_PROGRAM = """
import json, resource, sys, threading
limit, body_bytes, shape, seconds = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from gateway.metrics.tally import Tally
from gateway.wire.limits import ARRIVING_BYTES
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.version import Identity
from runtimes.base import TensorSpec
from tests.support.echo import Echo
model = Echo(TensorSpec("x", "FP32", None if shape is None else tuple(shape)), seconds=seconds)
app = build_app(Identity("iris", "v1", "sha256:" + "ab" * 32), model, Tally())
server = HttpServer(app, "127.0.0.1", body_bytes=body_bytes or ARRIVING_BYTES)
server.start()
print(server.port, flush=True)
sys.stdin.read()
"""


class LimitedWorker:
    """One worker of the model `iris`, which gives back its input `x` as `y`."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.port = port

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def resident(self) -> int:
        """How many bytes it has in memory."""
        return self._number("VmRSS")

    @property
    def peak(self) -> int:
        """How many bytes it had in memory at most since `forget_peak`."""
        return self._number("VmHWM")

    def forget_peak(self) -> int:
        """Begin to measure anew, and return how many bytes it has now."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")
        return self.resident

    def _number(self, name: str) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        match = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024


@contextmanager
def limited_worker(
    shape: tuple[int, ...] | None = None, *, body_bytes: int = 0, seconds: float = 0.0
) -> Iterator[LimitedWorker]:
    """Run a worker; `shape` is its input's, `body_bytes` its budget, `seconds` how long a call takes."""
    options = f"[{_ADDRESS_SPACE}, {body_bytes}, {'null' if shape is None else list(shape)}, {seconds}]"
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield LimitedWorker(process, int(process.stdout.readline()))
        finally:
            process.kill()

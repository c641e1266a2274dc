"""The process of a fork server (`fork_server.py`), as it is started and told what it needs to know."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_IMPORT_SECONDS = 30.0
# Where all ends, the raylet has ended so long after it.
_ENDING_SECONDS = 2.0
PLAIN_VARIABLE = "KITSERVE_PLAIN_RAY"
"""The environment variable by which Ray starts as it is: any value but "" and "0"."""

log = logging.getLogger(__name__)


def is_wanted() -> bool:
    """Tell whether the environment allows a fork server, and a Ray without what is not used."""
    return os.environ.get(PLAIN_VARIABLE, "") in ("", "0")


class ForkServer:
    """The fork server of one start of Ray; it lasts as long as the thread that makes it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "fork.sock"
        """Its socket."""
        self.path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(self.path))
            listener.listen(128)
            with (directory / "fork.log").open("w") as log_file, _without_interrupts():
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "gateway.control.loop.fork_server", str(listener.fileno())],
                    # What this process imports, and from nowhere else: not from where it was started.
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    stdin=subprocess.PIPE,
                    stdout=log_file,
                    stderr=log_file,
                    pass_fds=[listener.fileno()],
                )

    def close(self) -> None:
        """Have it end, unless it serves a raylet."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def serve(self, raylet: int) -> None:
        """Have it fork processes for the raylet with this process id."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"{raylet}\n".encode())
            self._process.stdin.flush()
            threading.Thread(target=self._watch, args=(raylet,), name="fork-server", daemon=True).start()

    def _watch(self, raylet: int) -> None:
        """Say when it ends before its raylet: from then on, Ray starts its processes itself."""
        code = self._process.wait()
        time.sleep(_ENDING_SECONDS)
        if Path(f"/proc/{raylet}").exists():
            log.warning("fork_server.ended", extra={"code": code})

    def wait(self, seconds: float = _IMPORT_SECONDS) -> None:
        """Wait until it forks, or has ended: what asks for no process is hung up on then."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(str(self.path))
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Have processes that are started in the block, and their children, get no SIGINT of a terminal.

    It is for `kitserve serve`, which ends them; Ray starts its own processes in the same way.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

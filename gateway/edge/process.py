"""The HAProxy process of this node.

It is a child of `kitserve serve` and not of the gateway: when the gateway dies, calls go on. When
`kitserve serve` ends, even by SIGKILL, HAProxy ends.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from gateway.edge.access_log import AccessLog
from gateway.edge.files import EdgeFiles
from gateway.edge.haproxy import ask
from gateway.edge.haproxy_program import find_haproxy
from gateway.edge.traced_lines import TracedLines
from gateway.errors import EdgeError
from gateway.foreign_text import foreign_text, printable_lines
from gateway.logs.files import backup
from gateway.wire.limits import HEAD_BYTES

_START_SECONDS = 10
_RESTARTS_ALLOWED = 10
_RESTART_WINDOW_SECONDS = 60
# Short enough that one that dies at once is counted often enough within the window.
_MAX_PAUSE_SECONDS = 2.0
_PR_SET_PDEATHSIG = 1
_TRIM_SECONDS = 10.0
_MAX_LOG_BYTES = 1024 * 1024
_LAST_BYTES = 4096
# Of glibc: each buffer is memory of its own, which goes back to the system once HAProxy frees it. Between
# things that stay, it would be kept for good (https://man7.org/linux/man-pages/man3/mallopt.3.html).
_GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": str(HEAD_BYTES)}

log = logging.getLogger(__name__)


class EdgeProcess:
    """The HAProxy process of this node: started, watched, started again when it dies, stopped.

    When it dies again and again it is given up, and the watcher's thread calls `on_lost` with the reason. Its
    access log goes to `sys.stderr` of this process, less what `traced` takes.

    Raises:
        EdgeError: when there is no HAProxy on this machine.
    """

    def __init__(
        self,
        files: EdgeFiles,
        on_lost: Callable[[EdgeError], None],
        traced: TracedLines | None = None,
    ) -> None:
        self._files = files
        self._on_lost = on_lost
        self._program = find_haproxy()
        self._stopping = threading.Event()
        self._spawning = threading.Lock()  # so that no HAProxy is started beside one that is being stopped
        self._process: subprocess.Popen[bytes] | None = None
        self._access_log = AccessLog(_write_stderr, traced=traced)
        self._watcher = threading.Thread(target=self._watch, name="edge-watcher", daemon=True)

    def start(self) -> None:
        """Start HAProxy from its files and wait until it answers.

        Raises:
            EdgeError: when it refuses its configuration, or does not answer in time.
        """
        check = subprocess.run(
            [self._program.path, "-c", "-f", self._files.config], capture_output=True, text=True, check=False
        )
        if check.returncode != 0:
            raise EdgeError(f"HAProxy refuses its configuration {self._files.config}: {check.stderr.strip()}")
        self._process = self._spawn()
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                ask(self._files.runtime_socket, "show info")
                # The master listens a moment later than its worker.
                ask(self._files.master_socket, "show proc")
                break
            except EdgeError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise EdgeError(f"HAProxy did not start: {self._last_words()}") from None
                time.sleep(0.05)
        self._watcher.start()

    @property
    def version(self) -> str:
        """Which HAProxy it is, for people."""
        return str(self._program)

    @property
    def process_id(self) -> int:
        """The id of HAProxy's master process, the last one where it is being started again."""
        assert self._process is not None
        return self._process.pid

    def stop(self, grace: float = 3.0) -> None:
        """Let calls in flight finish for `grace` seconds, then end HAProxy. Safe to call twice."""
        with self._spawning:
            self._stopping.set()
            process = self._process
        if process is not None:
            self._end(process, grace)
        self._access_log.stop()

    def _end(self, process: subprocess.Popen[bytes], grace: float) -> None:
        for signal_, seconds in ((signal.SIGUSR1, grace), (signal.SIGTERM, 1.0), (signal.SIGKILL, 1.0)):
            if process.poll() is not None:
                return
            process.send_signal(signal_)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._files.log.open("ab") as log_file:
            return subprocess.Popen(
                [
                    self._program.path,
                    "-W",
                    "-db",
                    "-S",
                    f"{self._files.master_socket},mode,600",
                    "-f",
                    self._files.config,
                ],
                stdin=subprocess.DEVNULL,
                stdout=self._access_log.file,
                stderr=log_file,
                env={**os.environ, **_GIVEN_BACK},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def _watch(self) -> None:
        starts: list[float] = []
        while True:
            assert self._process is not None
            code = self._wait(self._process)
            if self._stopping.is_set():
                return
            now = time.monotonic()
            starts = [start for start in starts if now - start < _RESTART_WINDOW_SECONDS] + [now]
            if len(starts) > _RESTARTS_ALLOWED:
                self._on_lost(
                    EdgeError(f"HAProxy died {len(starts)} times within a minute: {self._last_words()}")
                )
                return
            log.error("HAProxy ended with %s and is started again: %s", code, self._last_words())
            if self._stopping.wait(min(0.1 * 2 ** len(starts), _MAX_PAUSE_SECONDS)):
                return
            with self._spawning:
                if self._stopping.is_set():
                    return
                self._process = self._spawn()

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """Wait until HAProxy ends; returns how. Meanwhile what it says must not fill the disk."""
        # A process that `stop` has waited for has no handle any more.
        with suppress(OSError):
            handle = os.pidfd_open(process.pid)
            try:
                while not select.select([handle], [], [], _TRIM_SECONDS)[0]:
                    self._trim_log()
            finally:
                os.close(handle)
        return process.wait()

    def _trim_log(self) -> None:
        """Keep the end of a log that is full beside it; HAProxy goes on at the beginning of the same file."""
        if self._files.log.stat().st_size > _MAX_LOG_BYTES:
            with self._files.log.open("rb") as log_file:
                log_file.seek(-_MAX_LOG_BYTES, os.SEEK_END)
                backup(self._files.log, 1).write_bytes(log_file.read(_MAX_LOG_BYTES))
            os.truncate(self._files.log, 0)

    def _last_words(self) -> str:
        try:
            with self._files.log.open("rb") as log_file:
                log_file.seek(max(0, self._files.log.stat().st_size - _LAST_BYTES))
                lines = log_file.read(_LAST_BYTES).decode(errors="replace").splitlines()
        except FileNotFoundError:
            return "it wrote nothing"
        return foreign_text(" ".join(lines[-3:])) or "it wrote nothing"


def _write_stderr(lines: bytes) -> None:
    sys.stderr.write(printable_lines(lines.decode(errors="replace")))
    sys.stderr.flush()


def _die_with_parent() -> None:
    """Have the kernel end this process when the one that started it is killed (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

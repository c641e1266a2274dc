"""The start of an engine as a child process, which answers HTTP on a Unix socket and dies with its parent.

The child's side is `runtimes.engines.child`. Its options are JSON on its standard input, which stays open:
nothing of them is seen in the list of processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, ClassVar

import runtimes
from runtimes.engines import sockets
from runtimes.engines.log import EngineLog
from runtimes.errors import LoadError

_PATIENCE = 600.0
_TERM_SECONDS = 5.0
_KILL_SECONDS = 10.0

# What a child gets of its parent's environment: where its libraries are, the locale, the GPUs. No tokens.
_BASIC = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME")
_OF_LIBRARIES = ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
_VARIABLES = frozenset((*_BASIC, *_OF_LIBRARIES))
_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "HIP_", "ROCR_", "GGML_", "VLLM_", "TORCH", "PYTORCH_")
_SECRETS = ("TOKEN", "SECRET", "PASSWORD", "API_KEY")


class EngineProcess:
    """A child process that serves one model on `socket`, from its start to `close`."""

    name: ClassVar[str] = "the engine"
    """What messages call it."""

    def __init__(
        self,
        command: Sequence[str],
        options: Mapping[str, object],
        *,
        threads: int,
        environment: Mapping[str, str] | None = None,
        log: EngineLog | None = None,
    ) -> None:
        """Start `command`. Raises LoadError where it cannot be.

        Args:
            command: the program and its arguments.
            options: what the child reads as one line of JSON; `socket` and `parent` are added.
            threads: how many threads libraries may compute with (OMP_NUM_THREADS).
            environment: variables that the child gets besides.
            log: what gets all that the child writes; absent, its end is kept and nothing else.
        """
        self.directory = sockets.directory()
        self.socket = self.directory / sockets.NAME
        self.log = EngineLog() if log is None else log
        self._command = [*command]
        self._environment = self._variables(threads) | dict(environment or {})
        self._line = (
            json.dumps({**options, "socket": str(self.socket), "parent": os.getpid()}).encode() + b"\n"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._error: OSError | ValueError | None = None
        self._has_started = threading.Event()
        self._has_ended = threading.Event()
        self._is_closed = False
        threading.Thread(target=self._keep, name="engine-keeper", daemon=True).start()
        self._has_started.wait()
        if self._error is not None:
            self.close()
            raise LoadError(f"{self.name} cannot be started: {self._error}") from self._error

    @property
    def pid(self) -> int:
        """The child's process ID, which is that of its process group, too."""
        assert self._process is not None
        return self._process.pid

    def wait_ready(self, path: str = "/health", patience: float = _PATIENCE) -> None:
        """Return once GET `path` is answered with 200.

        Args:
            path: what is asked for on the socket.
            patience: seconds without progress: nothing written to the log, no memory taken, nothing read.

        Raises:
            LoadError: it ended, was closed, or made no progress; the message has the end of its log.
        """
        pause = 0.02
        progress: tuple[int, ...] = ()
        since = time.monotonic()
        while not self._is_closed and not self._has_ended.wait(pause):
            if sockets.status(self.socket, path) == 200:
                return
            now = time.monotonic()
            if (latest := (self.log.size, *_work(self.pid))) != progress:
                progress, since = latest, now
            elif now - since > patience:
                raise LoadError(f"{self.name} did nothing for {patience:.0f} seconds{self.log.ending()}")
            pause = min(pause * 1.5, 0.5)
        raise LoadError(self.failure() or f"{self.name} was closed while it started")

    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process is not None and not self._has_ended.is_set()

    def failure(self) -> str:
        """Return how the process ended, with the end of its log; "" while it runs."""
        if self.is_alive():
            return ""
        status = None if self._process is None else self._process.returncode
        if status is None or self._is_closed:
            return f"{self.name} was closed"
        # A kill comes from outside: what the engine wrote before has nothing to do with it.
        return f"{self.name} {_ending(status)}" + ("" if status == -signal.SIGKILL else self.log.ending())

    def close(self) -> None:
        """End the process and all that it started, and remove its socket. Closing twice does no harm."""
        self._is_closed = True
        if self._process is not None:
            for number, seconds in ((signal.SIGTERM, _TERM_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
                if self._has_ended.is_set():
                    break
                self._kill(number)
                self._has_ended.wait(seconds)
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _variables(self, threads: int) -> dict[str, str]:
        """Return the variables that the child gets of this process and of our own."""
        return _environment(threads)

    def _keep(self) -> None:
        """Start the process and wait for its end.

        In a thread that lives as long as the process: the kernel tells a child of its parent's death when
        the thread that started it ends.
        """
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=self._environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self._error = error
            self._has_started.set()
            return
        self._process = process
        self._has_started.set()
        assert process.stdin is not None
        assert process.stdout is not None
        reader = threading.Thread(target=self._read, args=(process.stdout,), name="engine-log", daemon=True)
        reader.start()
        with contextlib.suppress(OSError):
            process.stdin.write(self._line)
            process.stdin.flush()
        # Another part of this process may wait for all children; then it is gone already.
        with contextlib.suppress(ChildProcessError):
            # Not reaped yet, so that its number still stands for its group and for no other.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            self._kill(signal.SIGKILL)
        process.wait()
        reader.join(_TERM_SECONDS)
        self._has_ended.set()

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            while chunk := os.read(pipe.fileno(), 65_536):
                self.log.write(chunk)

    def _kill(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def python_module(name: str) -> list[str]:
    """Return the command that runs a module of ours in this interpreter."""
    return [sys.executable, "-m", name]


def passed_variables() -> dict[str, str]:
    """Return the variables of this process that a child may have: none with a secret, none of Kitserve's."""
    return {name: value for name, value in os.environ.items() if is_passed(name)}


def is_passed(name: str) -> bool:
    """Tell whether a child may have the variable of this name."""
    return name in _VARIABLES or (name.startswith(_PREFIXES) and not any(word in name for word in _SECRETS))


def _environment(threads: int) -> dict[str, str]:
    """Return the variables that an engine needs, of those of this process and of our own."""
    variables = passed_variables()
    root = str(Path(runtimes.__file__).parents[1])
    paths = [root, *filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))]
    return variables | {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }


def _work(group: int) -> tuple[int, int]:
    """Return (resident MiB, major page faults) of all processes of a group, from /proc."""
    resident = faults = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name may have spaces and brackets; the state is the first field after it (proc_pid_stat(5)).
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            resident += int(fields[21])
            faults += int(fields[9])
    return resident * os.sysconf("SC_PAGESIZE") >> 20, faults


def _ending(status: int) -> str:
    """Return how a process ended with `status`, as subprocess gives it: "ended with exit code 1"."""
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    if status == -signal.SIGKILL:
        return f"was killed by {name}, as the kernel does where memory is short"
    if status == -signal.SIGILL:
        return f"was killed by {name}: this CPU lacks instructions that it was built for"
    return f"was killed by {name}"

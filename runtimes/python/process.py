"""The worker's side of the kit's Python: its process, and the calls on it; the other side is `child`."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from runtimes.base import Array
from runtimes.engines.log import EngineLog
from runtimes.engines.process import EngineProcess, passed_variables
from runtimes.errors import ExecutionError, InputError, LoadError
from runtimes.python import frames

LOAD_SECONDS = 600.0
"""How long the kit's class may take to be imported and to load its model."""

_LAUNCHER = Path(__file__).with_name("launcher.py")
_CONNECT_SECONDS = 60.0
_PAUSE = 0.01
_DEATH_SECONDS = 2.0
_LINES_PER_SECOND = 50
_LINE_LETTERS = 2_000
# The child has a home of its own, and an environment that needs no paths.
_NOT_PASSED = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME", "LD_PRELOAD", "VIRTUAL_ENV")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

log = logging.getLogger(__name__)


class KitPython(EngineProcess):
    """A process of the kit's Python: isolated from the variables of Kitserve, of its user and of Ray."""

    name: ClassVar[str] = "the kit's Python"

    def _variables(self, threads: int) -> dict[str, str]:
        return {
            name: value
            for name, value in passed_variables().items()
            if name not in _NOT_PASSED and not name.startswith("PYTHON")
        } | dict.fromkeys(_THREADS, str(threads))


class KitOutput(EngineLog):
    """What the kit's Python writes: each line goes to Kitserve's log, at most 50 in a second."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self._names = {"model": model}
        self._rest = b""
        self._second = 0
        self._lines = 0

    def write(self, chunk: bytes) -> None:
        """Add what it wrote, and log the lines that are whole."""
        super().write(chunk)
        *lines, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest[-_LINE_LETTERS:]
        for line in lines:
            text = line[:_LINE_LETTERS].decode(errors="replace").rstrip()
            if text:
                self._log(text)

    def _log(self, text: str) -> None:
        second = int(time.monotonic())
        if second != self._second:
            if self._lines > _LINES_PER_SECOND:
                left_out = self._lines - _LINES_PER_SECOND
                log.warning("kit.output_left_out", extra={**self._names, "lines": left_out})
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines <= _LINES_PER_SECOND:
            log.info("kit.output", extra={**self._names, "line": text})


class KitProcess:
    """The kit's class in a process of its own, loaded; one thread at a time calls it."""

    def __init__(self, process: KitPython, timeout: float) -> None:
        """Connect to a process and wait until it has loaded the class.

        Args:
            process: the process, just started; it is closed where that fails.
            timeout: how many seconds a call may take.

        Raises:
            LoadError: it refuses the class, or ended, or took too long.
        """
        self._process = process
        self._timeout = timeout
        self._lock = threading.Lock()
        self._is_closed = False
        self._hang = ""
        self._connection: socket.socket | None = None
        try:
            self._connection = self._connect()
            self.methods = self._wait_loaded(self._connection)
            """What its methods take and give, by name, as `annotations.Method.document`."""
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The ID of the process."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.is_alive() and not self._hang

    def failure(self) -> str:
        """Return why it takes no more calls, with the end of what it wrote; "" while it does."""
        return self._hang or self._process.failure()

    def call(self, method: str, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Call a method, and return its outputs; the named ones where some are named.

        Raises:
            InputError: the kit's code says that the caller's values are wrong.
            ExecutionError: it failed, ended, was closed, or did not answer in time, which ends it.
        """
        with self._lock:
            if self._is_closed or not self.is_alive():
                raise ExecutionError(
                    "the model is closed" if self._is_closed else f"{self._process.name} has ended"
                )
            assert self._connection is not None
            deadline = time.monotonic() + self._timeout
            try:
                frames.send(self._connection, {"method": method, "outputs": [*outputs]}, inputs, deadline)
                header, tensors = frames.receive(self._connection, deadline)
            except TimeoutError as error:
                self._hang = (
                    f"{self._process.name} did not answer a call within {self._timeout:g} s, and was ended"
                )
                self._process.close()
                raise ExecutionError(self._hang) from error
            except (EOFError, OSError) as error:
                raise self._ended() from error
            except frames.BrokenFrame as error:
                self._hang = f"{self._process.name} sent what cannot be read: {error}"
                self._process.close()
                raise ExecutionError(self._hang) from error
            except ValueError as error:
                raise ExecutionError(f"{method} cannot be called: {error}") from error
        _raise_error(header)
        return tensors

    def close(self) -> None:
        """End the process. Closing twice does no harm."""
        self._is_closed = True
        self._process.close()
        if self._connection is not None:
            self._connection.close()

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + _CONNECT_SECONDS
        while self._process.is_alive() and time.monotonic() < deadline:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._process.socket))
            except OSError:
                connection.close()
                time.sleep(_PAUSE)
            else:
                return connection
        raise LoadError(
            self._process.failure() or f"{self._process.name} does not start{self._process.log.ending()}"
        )

    def _wait_loaded(self, connection: socket.socket) -> dict[str, dict[str, Any]]:
        try:
            header, _ = frames.receive(connection, time.monotonic() + LOAD_SECONDS)
        except TimeoutError as error:
            raise LoadError(
                f"{self._process.name} has not loaded its model within {LOAD_SECONDS:.0f} s"
                f"{self._process.log.ending()}"
            ) from error
        except (EOFError, OSError) as error:
            self._wait_for_end()
            raise LoadError(f"{self.failure()}, while its class was loaded") from error
        except (frames.BrokenFrame, ValueError) as error:
            raise LoadError(f"{self._process.name} sent what cannot be read: {error}") from error
        if "error" in header:
            raise LoadError(str(header.get("message", "")))
        methods = header.get("methods")
        if not isinstance(methods, dict):
            raise LoadError(f"{self._process.name} sent an answer before its class was loaded")
        return methods

    def _ended(self) -> ExecutionError:
        """Return the error for a call during which the process ended; why is in the log."""
        if self._is_closed:
            return ExecutionError("the model is closed")
        self._wait_for_end()
        return ExecutionError(f"{self._process.name} ended during the call")

    def _wait_for_end(self) -> None:
        deadline = time.monotonic() + _DEATH_SECONDS
        while self._process.is_alive() and time.monotonic() < deadline:
            time.sleep(_PAUSE)


def _raise_error(header: Mapping[str, Any]) -> None:
    """Raise the error that an answer has, if it has one."""
    if "error" in header:
        kind = InputError if header["error"] == "input" else ExecutionError
        raise kind(str(header.get("message", "")))


def start(
    interpreter: Sequence[str],
    options: Mapping[str, object],
    *,
    name: str,
    threads: int,
    timeout: float,
) -> KitProcess:
    """Start the kit's Python and return it once its class is loaded.

    Args:
        interpreter: the command of the Python that runs it.
        options: what `child` reads.
        name: what the log calls the model.
        threads: how many threads libraries may compute with.
        timeout: how many seconds a call may take.

    Raises:
        LoadError: the class cannot be loaded.
    """
    command = [*interpreter, "-I", "-B", "-u", "-X", "faulthandler", str(_LAUNCHER)]
    return KitProcess(KitPython(command, options, threads=threads, log=KitOutput(name)), timeout)

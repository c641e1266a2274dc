"""A trial of a model file in a child process, for engines that end their process over a damaged file.

The child reads requests, one a line of JSON, each with the seconds that it may take, and answers each with
such a line: what came out, or why the file cannot be loaded. Its own standard output is kept free for that.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import runtimes
from runtimes.containment import places
from runtimes.containment.containment import Rules, contain
from runtimes.containment.landlock import Files
from runtimes.containment.seccomp import Sockets
from runtimes.errors import LoadError, ModelError

_SECONDS = 120.0
_SECONDS_PER_GIB = 120.0
_GIB = 1 << 30
_GRACE_SECONDS = 10.0
"""So much later than its parent the child ends itself: where the parent has died, nobody else does."""
_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONHOME")


class Trial:
    """A child process that tries one file after the other; a context manager, which ends it."""

    def __init__(
        self,
        engine: str,
        rehearsal: str,
        bytes_to_use: int,
        directory: Path | None = None,
        seconds: float = _SECONDS,
    ) -> None:
        """Start the child, which imports its libraries beside what the caller does meanwhile.

        Args:
            engine: what the messages call it.
            rehearsal: `module:function`; the function takes a request, for `check` a path, and raises
                LoadError.
            bytes_to_use: the most address space that the child may use.
            directory: the only one, beside those of Python, that the child may read; None: any.
            seconds: how long it may take for one file, with more for a large one.
        """
        self._engine = engine
        self._seconds = seconds
        root = str(Path(runtimes.__file__).parent.parent)
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        others = [] if directory is None else [str(directory.absolute())]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "runtimes.trial", rehearsal, str(bytes_to_use), *others],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )

    @property
    def is_alive(self) -> bool:
        """Whether it can try another file."""
        return self._process.poll() is None

    def check(self, path: Path) -> None:
        """Raise LoadError where the file cannot be loaded, or ended the child."""
        patience = self._seconds + _SECONDS_PER_GIB * path.stat().st_size / _GIB
        self._request(str(path.absolute()), f"loaded {path} and predicted", patience)

    def ask(self, request: list[Any]) -> Any:
        """Return what the function returns for a request that JSON has. Raises LoadError as `check` does."""
        return self._request(request, f"looked at {request[0]}", self._seconds)

    def _request(self, request: Any, task: str, patience: float) -> Any:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            order = {"request": request, "seconds": patience + _GRACE_SECONDS}
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        line = self._answer(patience)
        if not line.endswith(b"\n"):
            is_late = (
                self.is_alive and not line and self._process.stdout is not None and not self._has_ended()
            )
            self.close()
            code = self._process.returncode
            reason = f"took longer than {patience:.0f} s" if is_late else _ending(code)
            raise LoadError(
                f"{self._engine} {reason} when it {task}: the file is damaged; copy or save the model again"
            )
        answer = json.loads(line)
        if answer["refused"] is not None:
            raise LoadError(answer["refused"])
        return answer["result"]

    def close(self) -> None:
        """End the child."""
        if self.is_alive:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, seconds: float) -> bytes:
        """Return the child's next line, cut short where it ended or took too long."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        line, end = b"", time.monotonic() + seconds
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
            piece = os.read(descriptor, 65_536) if ready else b""
            if not piece:
                break
            line += piece
        return line

    def _has_ended(self) -> bool:
        """Whether the child closed its output, as it does when it ends; the end itself may come later."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        return not self.is_alive


def _ending(code: int) -> str:
    """Return how a process ended, as the rest of a sentence."""
    if code < 0:
        return f"crashed ({signal.Signals(-code).name})"
    return f"ended with status {code}"


def _main(rehearsal: str, bytes_to_use: int, directory: Path | None) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (bytes_to_use, bytes_to_use))
    # A crash writes no core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, _, name = rehearsal.partition(":")
    rehearse = getattr(import_module(module), name)
    files = None
    if directory is not None:
        readable = (*places.readable(), places.own_process(), directory)
        files = Files(readable, devices=places.devices())
    contain(Rules(files, Sockets.NONE))
    for line in sys.stdin:
        order = json.loads(line)
        reason, result, request = None, None, order["request"]
        signal.setitimer(signal.ITIMER_REAL, order["seconds"])
        try:
            result = rehearse(Path(request) if isinstance(request, str) else request)
        except ModelError as error:
            reason = str(error)
        except MemoryError:
            path = request if isinstance(request, str) else request[0]
            reason = f"{path} needs more memory than a model of its size: the file is damaged"
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps({"refused": reason, "result": result}), file=answers, flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)

"""A process that has imported what all of Ray's Python processes import, and forks each of them.

Ray starts every worker process anew: each imports Ray, Serve and ours again, which takes more than a second
of CPU, and keeps 100 MiB of its own. A process that is forked has all of it, and shares the memory.

It runs as `python -m gateway.control.loop.fork_server LISTENER`, with the descriptor of a socket that
listens, and is told the process id of the raylet on its standard input: Ray reads that from the environment
when it is imported. It ends with the process that started it, and takes requests with Ray's token alone, of
its own user (`fork_request.py` sends them).

What is forked is as if it had been started: it has the environment, the arguments and the process group
that Ray gave it. Two things would be wrong with it, and are looked for before the first fork; where one of
them is, this process ends, and Ray starts its processes itself:

- another thread runs, of which a fork copies the locks, and not the thread;
- Ray's generator of random ids has been used: all that are forked would make the same ids of calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hmac
import importlib
import os
import runpy
import select
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from gateway.control.loop.fork_request import FORKED, TOKEN

RAYLET = "RAY_RAYLET_PID"
"""The variable by which Ray's processes know whose end they follow; read when Ray is imported."""
JOB, NO_JOB = "RAY_JOB_ID", "ffffffff"
"""The variable with the job that a process is for, also read then; one for none takes any job's work."""
WITHOUT_RAY = (
    "fastapi",
    "gateway.control.admin.api",
    "gateway.control.front.repository",
    "gateway.worker.assembly",
    "gateway.worker.loading",
    "numpy",
    "uvloop",
)
"""What takes long to import and does not import Ray: it is imported while Ray's own programs start."""
WITH_RAY = ("gateway.worker.replica", "gateway.control.gateway", "ray.serve._private.controller")
"""What the processes of Serve's controller, of the gateway and of workers import."""
_ACTOR_CLASS_ID = "ActorClassID"
_REQUEST_SECONDS = 5.0
# More than Linux lets a command and its environment have by default.
_REQUEST_BYTES = 4 * 1024 * 1024
_COUNT_DIGITS = 6
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_OOM_VARIABLE, _OOM_SCORE = "RAY_worker_oom_score_adjustment", "1000"


@dataclass(frozen=True, slots=True)
class Request:
    """A Python command that is to run, with its environment."""

    command: tuple[str, ...]
    environment: dict[str, str]

    @staticmethod
    def parse(message: bytes, token: str) -> Request | None:
        """Return what was asked for; None where the token is another, or it is no request."""
        sent, *pieces = message.split(b"\0")
        if not token or not hmac.compare_digest(sent, token.encode()):
            return None
        fields = [piece.decode(errors="surrogateescape") for piece in pieces]
        if not fields or not fields[0].isdecimal() or len(fields[0]) > _COUNT_DIGITS:
            return None
        length = int(fields[0])
        command, variables = fields[1 : length + 1], fields[length + 1 :]
        # The interpreter, and the script: what else Python may be told is for processes that are started.
        if len(command) != length or length < 2 or not command[1].endswith(".py"):
            return None
        environment = dict(variable.split("=", 1) for variable in variables if "=" in variable)
        return Request(tuple(command), environment)


def main(listener: socket.socket) -> None:
    """Import what is needed, and fork processes as asked, until whoever started this ends."""
    parent = os.getppid()
    kernel = ctypes.CDLL(None)
    kernel.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # What a worker that dies leaves, such as the process of an engine, ends here without a zombie.
    kernel.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Else numpy starts threads. Ray has its processes compute with one, where the user asks for no more.
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import_without_ray()
    raylet = sys.stdin.readline().strip()
    if not raylet or os.getppid() != parent:
        return
    # What is forked reads from nowhere.
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    os.environ |= {RAYLET: raylet, JOB: NO_JOB}
    import_ray()
    if has_threads() or not have_ids_of_their_own():
        return
    # The objects there are stay for good: the collector shall not write to their memory.
    gc.collect()
    gc.freeze()
    become(serve(listener, os.environ.get(TOKEN, "")))


def import_without_ray() -> None:
    """Import what does not import Ray: `WITHOUT_RAY`, and the runtimes, without their engines."""
    _import(WITHOUT_RAY)
    # Each worker asks all of them which reads its model: to import them is half of what its start computes.
    # Not above: numpy, which comes with them, reads the environment.
    from runtimes.select import built_in_modules

    _import(tuple(built_in_modules()))


def import_ray() -> None:
    """Import Ray, and what imports it, without a use of Ray's random ids."""
    from ray import actor

    class FromSystem:
        """Makes ids of actor classes, one for each that a module defines, of the system's random bytes."""

        @staticmethod
        def from_random() -> object:
            return kept(os.urandom(kept.size()))

    kept: Any = getattr(actor, _ACTOR_CLASS_ID)
    setattr(actor, _ACTOR_CLASS_ID, FromSystem)
    try:
        _import(WITH_RAY)
    finally:
        setattr(actor, _ACTOR_CLASS_ID, kept)


def has_threads() -> bool:
    """Tell whether anything runs here beside the main thread."""
    return len(list(Path("/proc/self/task").iterdir())) > 1


def have_ids_of_their_own() -> bool:
    """Tell whether two processes that are forked make different random ids."""
    ids = []
    for _ in range(2):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os.write(writer, _random_id())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        ids.append(os.read(reader, 1024))
        os.close(reader)
    return bool(ids[0]) and ids[0] != ids[1]


def _random_id() -> bytes:
    from ray._raylet import JobID, TaskID

    made: bytes = TaskID.for_fake_task(JobID.from_int(1)).binary()
    return made


def serve(listener: socket.socket, token: str) -> Request:
    """Fork a process for each request that comes with the token; returns in each of these alone."""
    # Nobody waits for what is forked: Ray sees by its connection that it has ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            request = Request.parse(_received(connection), token) if _is_own_user(connection) else None
            # Who has waited for too long has started the process itself.
            if request is None or _is_gone(connection):
                continue
            if os.fork() == 0:
                listener.close()
                return request
            connection.sendall(FORKED)


def become(request: Request) -> NoReturn:
    """Run the command in this process, which ends with it."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        os.environ.clear()
        os.environ.update({**request.environment, JOB: NO_JOB})
        sys.argv = list(request.command[1:])
        # A worker removes secrets from its environment before it loads a kit: none may be left here.
        del request
        # As Ray does with the processes that it starts: they are to be killed before all others.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(os.environ.get(_OOM_VARIABLE, _OOM_SCORE))
        _seed()
        sys.path.insert(0, str(Path(sys.argv[0]).parent))
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _seed() -> None:
    """Have numpy give other random numbers than in all other processes, as Python does by itself."""
    if (generators := sys.modules.get("numpy.random")) is not None:
        generators.seed()


def _import(modules: tuple[str, ...]) -> None:
    for module in modules:
        # What cannot be imported, the processes find out that need it.
        with contextlib.suppress(Exception):
            importlib.import_module(module)


def _received(connection: socket.socket) -> bytes:
    """Return what was sent; b"" where it is too much.

    Raises:
        OSError: when it takes too long.
    """
    deadline = time.monotonic() + _REQUEST_SECONDS
    message = bytearray()
    while len(message) <= _REQUEST_BYTES:
        # Not 0, with which it would not wait, and never less.
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        if not (piece := connection.recv(65536)):
            return bytes(message)
        message += piece
    return b""


def _is_gone(connection: socket.socket) -> bool:
    """Tell whether the other end is closed, and not for sending alone."""
    poll = select.poll()
    poll.register(connection, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def _is_own_user(connection: socket.socket) -> bool:
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(user) == os.geteuid()


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))

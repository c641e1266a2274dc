"""Processes that are forked instead of started: they are as Ray's own would be."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.control.loop import fork_request, fork_server, fork_server_process
from gateway.control.loop.fork_request import TOKEN, ask
from gateway.control.loop.fork_server import Request
from tests.support.waiting import wait

# A fork server that imports nothing first.
SERVER = """
import socket, sys
from gateway.control.loop import fork_server
fork_server.WITHOUT_RAY, fork_server.import_ray = ("json", "numpy.random"), lambda: None
fork_server._random_id = lambda: __import__("os").urandom(8)
{before}
fork_server.main(socket.socket(fileno=int(sys.argv[1])))
"""
SCRIPT = """
import json, os, signal, sys
from pathlib import Path

def kept():
    os.environ.pop("PASSWORD", None)
    frame = sys._getframe(1)
    names = []
    while frame := frame.f_back:
        names += [name for name, value in list(frame.f_locals.items()) if "hunter2" in repr(value)]
    return names

Path(sys.argv[1]).write_text(json.dumps({
    "arguments": sys.argv, "environment": dict(os.environ), "name": __name__, "group": os.getpgid(0),
    "process": os.getpid(), "imported": "json" in sys.modules,
    "ends": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL, "umask": os.umask(0),
    "score": Path("/proc/self/oom_score_adj").read_text(),
    "descriptors": [int(file.name) for file in Path("/proc/self/fd").iterdir() if file.exists()],
    "kept": kept(), "numbers": __import__("numpy").random.random(4).tolist(),
}))
os.rename(sys.argv[1], sys.argv[1] + ".done")
sys.exit(3)
"""


class Server:
    """A fork server with its socket."""

    def __init__(self, directory: Path, before: str = "") -> None:
        self.path = str(directory / "fork.sock")
        environment = {**os.environ, TOKEN: "secret"}
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(self.path)
            listener.listen()
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    SERVER.format(before=before),
                    str(listener.fileno()),
                ],
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                env=environment,
                text=True,
                umask=0o077,
            )

    def serve(self) -> None:
        """Tell it the raylet's process id."""
        assert self.process.stdin is not None
        self.process.stdin.write("4711\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.serve()
    yield server
    server.end()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(SCRIPT)
    return path


def answer(file: Path) -> dict[str, object]:
    done = file.with_name(file.name + ".done")
    wait(done.exists)
    answer: dict[str, object] = json.loads(done.read_text())
    return answer


def test_what_is_forked_is_as_if_it_was_started(server: Server, script: Path, tmp_path: Path) -> None:
    file = tmp_path / "answer"
    environment = {TOKEN: "secret", "RAY_JOB_ID": "01", "TEXT": "a=b\nc", "RAY_RAYLET_PID": "4711"}
    assert ask(server.path, [sys.executable, str(script), str(file), "--x="], environment)
    forked = answer(file)
    assert forked["arguments"] == [str(script), str(file), "--x="]
    assert forked["environment"] == {**environment, "RAY_JOB_ID": "ffffffff"}
    assert forked["name"] == "__main__"
    assert forked["group"] == forked["process"] != server.process.pid
    assert forked["imported"]
    assert forked["ends"]
    assert forked["umask"] == 0o077
    assert forked["score"] == "1000\n"
    assert forked["descriptors"] == [0, 1, 2]
    # Nothing is left of it, not even a zombie.
    wait(lambda: not Path(f"/proc/{forked['process']}").exists())


def test_nothing_is_kept_of_the_environment_that_a_worker_empties_and_no_numbers_are_shared(
    server: Server, script: Path, tmp_path: Path
) -> None:
    environment = {TOKEN: "secret", "PASSWORD": "hunter2"}
    numbers = []
    for name in ("a", "b"):
        assert ask(server.path, [sys.executable, str(script), str(tmp_path / name)], environment)
        forked = answer(tmp_path / name)
        assert forked["kept"] == []
        numbers.append(forked["numbers"])
    assert numbers[0] != numbers[1]


@pytest.mark.parametrize(
    "message",
    [b"\xff\xfe", b"secret\0\xd9\xa3\0python\0a.py", b"secret\0" + b"9" * 5000, b"x" * 5 * 1024 * 1024],
    ids=["no text", "other digits", "a long number", "long"],
)
def test_no_message_ends_it(message: bytes, server: Server, script: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, contextlib.suppress(OSError):
        connection.connect(server.path)
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert ask(server.path, [sys.executable, str(script), str(tmp_path / "a")], {TOKEN: "secret"})
    answer(tmp_path / "a")


def test_who_sends_slowly_keeps_others_waiting_for_a_moment_alone(script: Path, tmp_path: Path) -> None:
    server = Server(tmp_path, before="fork_server._REQUEST_SECONDS = 0.5")
    server.serve()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(server.path)
        connection.settimeout(10)
        with contextlib.suppress(OSError):
            for _ in range(30):
                connection.sendall(b"x")
                time.sleep(0.1)
            pytest.fail("it is still read from")
    assert ask(server.path, [sys.executable, str(script), str(tmp_path / "a")], {TOKEN: "secret"})
    answer(tmp_path / "a")
    server.end()


def test_nothing_is_forked_for_who_waits_no_more(script: Path, tmp_path: Path) -> None:
    server = Server(tmp_path)
    for name in ("gone", "waits"):
        fields = ["secret", "3", sys.executable, str(script), str(tmp_path / name)]
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(server.path)
        connection.sendall("\0".join(fields).encode())
        connection.shutdown(socket.SHUT_WR)
        if name == "gone":
            connection.close()
    server.serve()
    answer(tmp_path / "waits")
    connection.close()
    assert not (tmp_path / "gone.done").exists()
    server.end()


ORPHAN = """
import os, sys, time
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        time.sleep(0.01)
    with open(sys.argv[1], "w") as file:
        file.write(f"[{os.getpid()}, {os.getppid()}]")
    os.rename(sys.argv[1], sys.argv[1] + ".done")
"""


def test_a_process_that_outlives_its_worker_becomes_no_zombie(server: Server, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(ORPHAN)
    assert ask(server.path, [sys.executable, str(script), str(tmp_path / "a")], {TOKEN: "secret"})
    done = tmp_path / "a.done"
    wait(done.exists)
    orphan, parent = json.loads(done.read_text())
    assert parent == server.process.pid
    wait(lambda: not Path(f"/proc/{orphan}").exists())


@pytest.mark.parametrize("token", ["", "another"])
def test_who_has_not_rays_token_gets_nothing(
    token: str, server: Server, script: Path, tmp_path: Path
) -> None:
    file = tmp_path / "answer"
    assert not ask(server.path, [sys.executable, str(script), str(file)], {TOKEN: token})
    assert not ask(server.path, [sys.executable, "-c", "1"], {TOKEN: "secret"})
    assert ask(server.path, [sys.executable, str(script), str(tmp_path / "b")], {TOKEN: "secret"})
    answer(tmp_path / "b")
    assert not (tmp_path / "answer.done").exists()


@pytest.mark.parametrize(
    "message", [b"", b"t", b"t\0x", b"t\x009\0python\0a.py", b"t\x001\0python", b"u\x002\0python\0a.py"]
)
def test_what_is_no_request_is_none(message: bytes) -> None:
    assert Request.parse(message, "t") is None
    assert Request.parse(b"\x002\0python\0a.py", "") is None, "there is no token"


def test_a_request_that_waits_is_taken_once_the_raylet_is_known(script: Path, tmp_path: Path) -> None:
    server = Server(tmp_path)
    with subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-S",
            fork_request.__file__,
            server.path,
            sys.executable,
            str(script),
            str(tmp_path / "a"),
        ],
        env={TOKEN: "secret"},
        cwd=tmp_path,
    ) as request:
        time.sleep(0.3)
        assert request.poll() is None
        server.serve()
        assert request.wait(10) == 0
    server.end()


CANNOT_SERVE = "fork_server.serve = None"
SAME_IDS = "fork_server._random_id = lambda: b'1'"
THREAD = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"


@pytest.mark.parametrize("before", [CANNOT_SERVE, THREAD, SAME_IDS])
def test_where_there_is_no_fork_server_the_command_itself_runs(
    before: str, script: Path, tmp_path: Path
) -> None:
    server = Server(tmp_path, before=before)
    server.serve()
    command = [
        sys.executable,
        "/ray/setup_worker.py",
        str(script),
        str(tmp_path / "answer"),
        "--language=PYTHON",
    ]
    done = subprocess.run(
        [sys.executable, "-I", "-S", fork_request.__file__, server.path, *command],
        env={TOKEN: "secret"},
        check=False,
        timeout=30,
    )
    server.end()
    assert done.returncode == 3
    assert answer(tmp_path / "answer")["arguments"] == [str(script), str(tmp_path / "answer")]


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    server = Server(tmp_path)
    assert server.process.stdin is not None
    server.process.communicate(timeout=10)
    assert server.process.returncode == 0, "no raylet was started"


def test_one_that_ends_before_its_raylet_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fork_server_process, "_ENDING_SECONDS", 0.1)
    with subprocess.Popen(["sleep", "60"]) as raylet:
        for has_raylet in (False, True):
            server = fork_server_process.ForkServer(tmp_path / str(has_raylet))
            server.serve(raylet.pid if has_raylet else 2**22)
            server._process.kill()
            server.close()
            wait(lambda: not any(thread.name == "fork-server" for thread in threading.enumerate()))
            assert ("fork_server.ended" in caplog.messages) is has_raylet
        raylet.kill()


IMPORTS = """
import sys
from gateway.control.loop import fork_server
fork_server.import_without_ray()
assert "ray" not in sys.modules, "it would have no raylet"
assert all(name in sys.modules for name in fork_server.WITHOUT_RAY)
fork_server.import_ray()
assert all(name in sys.modules for name in fork_server.WITH_RAY)
from runtimes.select import installed
before = set(sys.modules)
assert installed()
assert set(sys.modules) == before, "each worker would import them again"
assert not fork_server.has_threads()
assert fork_server.have_ids_of_their_own()
unused = {"torch", "sklearn", "scipy", "onnxruntime", "xgboost", "transformers"} & set(sys.modules)
assert not unused, unused
# It finds out where ids were made before the fork.
fork_server._random_id()
assert not fork_server.have_ids_of_their_own()
from ray import ActorClassID, actor
assert actor.ActorClassID is ActorClassID
"""


def test_what_is_imported_before_a_fork_starts_no_thread_and_makes_no_ids() -> None:
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **threads, fork_server.RAYLET: "1", "RAY_JOB_ID": "ffffffff"}
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, env=environment)

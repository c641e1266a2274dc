"""An engine as a child process: how it starts, fails, is ended, and dies with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtimes.engines import sockets
from runtimes.engines.process import EngineProcess
from runtimes.errors import LoadError
from tests.support.waiting import wait

_ENGINE = """
import http.server, socketserver, sys, threading
from runtimes.engines import child

options = child.begin()
{before}

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(options["word"].encode())
    def address_string(self):
        return "unix"

server = socketserver.ThreadingUnixStreamServer(options["socket"], Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
child.wait_for_parent()
"""

Start = Callable[..., EngineProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start engines that answer HTTP, after the code in `before`; they are closed after the test."""
    engines: list[EngineProcess] = []

    def _start(before: str = "", **options: object) -> EngineProcess:
        code = _ENGINE.format(before=textwrap.dedent(before))
        engine = EngineProcess([sys.executable, "-c", code], {"word": "hello", **options}, threads=1)
        engines.append(engine)
        return engine

    yield _start
    for engine in engines:
        engine.close()


def test_it_answers_on_a_socket_that_only_this_user_can_open(start: Start) -> None:
    engine = start(word="blue")
    engine.wait_ready()
    assert engine.is_alive()
    assert engine.failure() == ""
    assert engine.socket.is_socket()
    assert engine.directory.stat().st_mode & 0o777 == 0o700
    connection = sockets.UnixConnection(engine.socket, 10)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"blue"
    connection.close()


def test_close_ends_it_and_removes_its_directory_twice_harmless(start: Start) -> None:
    engine = start()
    engine.wait_ready()
    engine.close()
    engine.close()
    assert not engine.is_alive()
    assert engine.failure() == "the engine was closed"
    assert not engine.directory.exists()
    assert not _runs(engine.pid)


def test_one_that_ignores_sigterm_is_killed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtimes.engines.process._TERM_SECONDS", 0.3)
    engine = start("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    engine.wait_ready()
    engine.close()
    assert not _runs(engine.pid)


def test_what_it_started_ends_with_it(start: Start) -> None:
    engine = start("import subprocess; print('sleeper', subprocess.Popen(['sleep', '600']).pid, flush=True)")
    engine.wait_ready()
    sleeper = int(engine.log.text.split("sleeper ")[1].split()[0])
    assert _runs(sleeper)
    os.kill(engine.pid, signal.SIGKILL)
    wait(lambda: not engine.is_alive())
    wait(lambda: not _runs(sleeper))


def test_the_reason_of_a_failed_start_is_in_the_error(start: Start) -> None:
    engine = start("print('a line'); raise SystemExit('error: no such architecture \\'x\\'')")
    with pytest.raises(LoadError, match="exit code 1: error: no such architecture 'x'"):
        engine.wait_ready()
    assert not engine.is_alive()


def test_a_crash_names_the_signal_and_the_end_of_the_log(start: Start) -> None:
    engine = start("import os; print('at the tensors', flush=True); os.abort()")
    with pytest.raises(LoadError, match="killed by SIGABRT: at the tensors"):
        engine.wait_ready()


def test_a_kill_while_it_serves_is_noticed(start: Start) -> None:
    engine = start("print('warning: nothing of note', flush=True)")
    engine.wait_ready()
    os.kill(engine.pid, signal.SIGKILL)
    wait(lambda: not engine.is_alive())
    assert engine.failure() == "the engine was killed by SIGKILL, as the kernel does where memory is short"


def test_one_without_progress_is_given_up(start: Start) -> None:
    engine = start("import time; print('waiting', flush=True); time.sleep(600)")
    with pytest.raises(LoadError, match="did nothing for 1 seconds: waiting"):
        engine.wait_ready(patience=1)


def test_one_that_is_closed_while_it_starts_ends(start: Start) -> None:
    engine = start("import time; time.sleep(600)")
    threading.Timer(0.3, engine.close).start()
    with pytest.raises(LoadError, match="the engine was closed"):
        engine.wait_ready()
    wait(lambda: not _runs(engine.pid))


def test_a_program_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(LoadError, match="cannot be started"):
        EngineProcess(["/no/such/program"], {}, threads=1)


def test_a_long_log_is_read_and_only_its_end_kept(start: Start) -> None:
    engine = start("for n in range(200_000): print('line', n)")
    engine.wait_ready()
    wait(lambda: "line 199999" in engine.log.text)
    assert engine.log.size > 1_000_000
    assert len(engine.log.text) <= 64 * 1024


def test_secrets_of_the_parent_stay_there(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_PASSWORD", "hunter2")
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    monkeypatch.setenv("VLLM_API_KEY", "hunter2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    engine = start(
        "import os; print(sorted(os.environ.items()), flush=True); print(sys.argv, flush=True)",
        word="private",
    )
    engine.wait_ready()
    assert "hunter2" not in engine.log.text
    assert "private" not in Path(f"/proc/{engine.pid}/cmdline").read_text()
    for pair in (("CUDA_VISIBLE_DEVICES", "3"), ("HF_HUB_OFFLINE", "1"), ("OMP_NUM_THREADS", "1")):
        assert repr(pair) in engine.log.text


def test_the_kernel_kills_it_first(start: Start) -> None:
    engine = start()
    engine.wait_ready()
    assert Path(f"/proc/{engine.pid}/oom_score_adj").read_text().strip() == "1000"


_PARENT = """
import sys, threading, time
from runtimes.engines.process import EngineProcess

def start():
    engine = EngineProcess([sys.executable, "-c", sys.argv[1]], {{"word": ""}}, threads=1)
    engine.wait_ready()
    print(engine.pid, engine.directory, flush=True)

thread = threading.Thread(target=start)
thread.start()
thread.join()
{after}
"""


@pytest.mark.parametrize("is_busy", [False, True])
def test_it_dies_with_its_parent_and_not_with_the_thread_that_started_it(
    tmp_path: Path, is_busy: bool
) -> None:
    # A busy engine holds the lock of its interpreter, as llama.cpp does while it loads; first, it answers.
    busy = "threading.Timer(0.3, lambda: __import__('re').match('(a+)+b', 'a' * 99)).start()"
    engine = _ENGINE.format(before="") + "\n"
    if is_busy:
        answered = "self.wfile.write"
        engine = engine.replace(answered, f"{busy}\n        {answered}")
    command = [sys.executable, "-c", _PARENT.format(after="time.sleep(600)"), engine]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            pid, directory = parent.stdout.readline().split()
            time.sleep(0.8)
            assert _runs(int(pid))
        finally:
            parent.kill()
    wait(lambda: not _runs(int(pid)))
    _age(Path(directory))

    def is_swept() -> bool:
        sockets.directory().rmdir()
        return not Path(directory).exists()

    wait(is_swept)


def test_directories_of_running_engines_are_left(start: Start) -> None:
    engine = start()
    engine.wait_ready()
    _age(engine.directory)
    sockets.directory().rmdir()
    assert engine.socket.is_socket()


def test_directories_of_engines_that_never_answered_are_removed_after_a_day(start: Start) -> None:
    engine = start("import time; time.sleep(600)")
    _age(engine.directory)
    sockets.directory().rmdir()
    assert engine.directory.exists()
    _age(engine.directory, days=2)
    sockets.directory().rmdir()
    assert not engine.directory.exists()


def test_a_long_temporary_directory_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("d" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    directory = sockets.directory()
    directory.rmdir()
    assert directory.parent == Path("/tmp")


def _age(directory: Path, days: int = 0) -> None:
    """Set the directory's time to an hour ago, and days."""
    before = time.time() - 3_600 - days * 24 * 3_600
    os.utime(directory, (before, before))


def _runs(pid: int) -> bool:
    """Whether a process runs: neither gone nor a zombie that nobody has waited for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"

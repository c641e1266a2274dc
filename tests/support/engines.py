"""Engines of language models for tests: llama.cpp's, which is real, and one that fails as it is told to."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtimes.engines.sockets import UnixConnection
from runtimes.engines.task import Task
from tests.support.waiting import wait

_START = """
import sys, threading, xllamacpp
model, socket, slots, context, what = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path = model
params.hostnames = [socket]
params.n_ctx, params.n_parallel = int(context) * int(slots), int(slots)
params.n_batch = params.n_ubatch = 64
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.cors_origins = "localhost"
if what == "embedding":
    params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
server = xllamacpp.Server(params)
sys.stdin.read()
"""


class Engine:
    """A loaded model that answers on a Unix socket, see `OpenAIModel`."""

    platform = "test_llama_cpp"
    device = "cpu"
    has_tools = False

    def __init__(self, socket: Path, slots: int, context: int, tasks: frozenset[Task]) -> None:
        self.socket = socket
        self.slots = slots
        self.context = context
        self.tasks = tasks

    def is_alive(self) -> bool:
        return True

    def failure(self) -> str:
        return ""

    def close(self) -> None:
        pass

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the engine itself, past all that is in front of it."""
        connection = UnixConnection(self.socket, timeout=60)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    @property
    def busy(self) -> int:
        """How many of its slots work on a call."""
        return sum(slot["is_processing"] for slot in self.ask("GET", "/slots"))


class LlamaEngine(Engine):
    """llama.cpp's server in a process of its own, with one thread."""

    def __init__(self, model: Path, slots: int = 4, context: int = 1024, what: str = "chat") -> None:
        tasks = {Task.EMBEDDING} if what == "embedding" else {Task.CHAT, Task.COMPLETION}
        self._directory = tempfile.TemporaryDirectory(prefix="kitserve-engine-")
        super().__init__(Path(self._directory.name) / "s.sock", slots, context, frozenset(tasks))
        command = [sys.executable, "-c", _START, str(model), str(self.socket), str(slots), str(context), what]
        self._log = Path(self._directory.name) / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            wait(self._answers, 60)
        except BaseException:
            self.close()
            raise

    def _answers(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        try:
            return bool(self.ask("GET", "/health").get("status") == "ok")
        except (OSError, http.client.HTTPException):
            return False

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def failure(self) -> str:
        return "" if self.is_alive() else f"it ended with status {self.process.returncode}"

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self._directory.cleanup()


Behaviour = Callable[[socket.socket, bytes], None]
"""Answers one request on a connection: the head and body that came are given."""


class FaultyEngine(Engine):
    """An engine that answers as a test says, to see what its callers get then."""

    def __init__(self, behave: Behaviour, slots: int = 2, context: int = 100) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="kitserve-engine-")
        address = Path(self._directory.name) / "s.sock"
        super().__init__(address, slots, context, frozenset({Task.CHAT, Task.COMPLETION}))
        self.behave = behave
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed = 0
        """How many connections its clients closed."""
        self.is_running = True
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(address))
        self._listening.listen(64)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        return self.is_running

    def failure(self) -> str:
        return "" if self.is_running else "it was ended by the test"

    def close(self) -> None:
        self._listening.close()
        self._directory.cleanup()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while request := _read_request(connection):
                if request.startswith(b"GET /v1/models "):
                    connection.sendall(answer(200, {"data": [{"id": "engine's own"}]}))
                    continue
                self.requests.append(request)
                try:
                    self.behave(connection, request)
                except OSError:
                    self.closed += 1
                    return
            self.closed += 1


def answer(status: int, document: Any) -> bytes:
    """Return an answer with a JSON document."""
    body = json.dumps(document, separators=(",", ":")).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """Return a piece of a stream."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def delta(text: str, finish_reason: str | None = None, **members: Any) -> bytes:
    """Return an event of a chat."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return event({"id": "1", "model": "engine's own", "choices": [choice], **members})


def event(document: Any) -> bytes:
    """Return an event of a stream."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
USAGE = event({"id": "1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        ),
        0,
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body

"""The watch over an engine: it ends, it stands still, what computes in it stands still."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.worker.engine_watch import end_of
from runtimes.base import Resources
from runtimes.engines.base import EngineOptions
from runtimes.engines.process import EngineProcess
from runtimes.engines.sockets import status
from runtimes.gguf import GgufRuntime
from tests.support.gguf_files import tiny_llama

_ENGINE = """
import http.server, os, socketserver, threading, time
from runtimes.engines import child

options = child.begin()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == options["silent"]:
            time.sleep(600)
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def address_string(self):
        return "unix"

class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

threading.Thread(target=Server(options["socket"], Handler).serve_forever, daemon=True).start()
child.wait_for_parent()
os._exit(0)
"""
PATIENCE = {"/health": 1.5, "/lora-adapters": 3.0}


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[EngineProcess]:
    """An engine that leaves one path unanswered."""
    silent = getattr(request, "param", "")
    process = EngineProcess([sys.executable, "-c", _ENGINE], {"silent": silent}, threads=1)
    process.wait_ready()
    yield process
    process.close()


async def _end(engine: EngineProcess, seconds: float) -> str:
    return await asyncio.wait_for(end_of(engine, PATIENCE, 0.1), seconds)


def test_an_engine_that_answers_with_whatever_status_is_left_alone(engine: EngineProcess) -> None:
    with pytest.raises(TimeoutError):
        asyncio.run(_end(engine, 4.0))


def test_an_engine_that_ends_is_noticed_with_its_reason(engine: EngineProcess) -> None:
    os.kill(engine.pid, signal.SIGABRT)
    assert "SIGABRT" in asyncio.run(_end(engine, 10.0))


def test_an_engine_that_stands_still_is_noticed(engine: EngineProcess) -> None:
    os.kill(engine.pid, signal.SIGSTOP)
    assert asyncio.run(_end(engine, 20.0)) == "the engine hangs: for 2 s it has not answered GET /health"


@pytest.mark.parametrize("engine", ["/lora-adapters"], indirect=True)
def test_an_engine_whose_computing_stands_still_is_noticed(engine: EngineProcess) -> None:
    assert (
        asyncio.run(_end(engine, 20.0)) == "the engine hangs: for 3 s it has not answered GET /lora-adapters"
    )


def test_llama_cpp_answers_both_paths(tmp_path: Path) -> None:
    model = GgufRuntime().start(
        tiny_llama(tmp_path / "tiny.gguf"), Resources(), EngineOptions(slots=1, context=256)
    )
    try:
        assert [status(model.socket, path) for path in PATIENCE] == [200, 200]
    finally:
        model.close()

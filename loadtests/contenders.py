"""Who is measured, how each is started, and that nothing of it is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests

from gateway.cli.processes import descendants, end_all
from gateway.logs import log_path
from loadtests.call import BODY, HEADERS
from loadtests.cpu import Processes
from tests.e2e.running import running
from tests.ports import free_port

FLOOR = "floor"
PLAIN = "plain Ray Serve"
WORKER = "Kitserve worker"
EDGE = "Kitserve"
CANARY = "Kitserve, 20 % canary"
NAMES = (FLOOR, PLAIN, WORKER, EDGE, CANARY)

_SAMPLES = Path(__file__).parents[1] / "configs" / "samples"
V1 = f"oci-layout:{_SAMPLES}:samples/iris:v1"
V2 = f"oci-layout:{_SAMPLES}:samples/iris:v2"

_PATH = "/v2/models/{}/infer"
_READY_SECONDS = 120
_STOP_SECONDS = 15
_LEFTOVER_SECONDS = 3


class NotReady(Exception):
    """A contender did not start."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that answers calls. `processes` are those whose CPU time its answers cost."""

    name: str
    url: str
    processes: Processes


@contextmanager
def python_server(name: str, module: str, model: Path) -> Iterator[Contender]:
    """A server that is run as `python -m MODULE PORT MODEL`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}{_PATH.format('iris')}"
    # Nobody's settings for Serve, and no throughput options, reach plain Ray Serve.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_SERVE_")}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(Path(__file__).parents[1])}
    with tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(port), str(model)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=words,
            text=True,
            start_new_session=True,
        )

        def ended() -> str:
            if process.poll() is None:
                return ""
            words.seek(0)
            return f"{name} ended with {process.returncode}: {words.read()[-2000:]}"

        try:
            _wait(url, partial(requests.post, data=BODY, headers=HEADERS, timeout=5), ended)
            yield Contender(name, url, lambda: [process.pid, *descendants(process.pid)])
        finally:
            _end(process)


@contextmanager
def kitserve(directory: Path) -> Iterator[list[Contender]]:
    """One Kitserve: a worker without the edge, the same through the edge, and two behind a canary."""
    with running(directory) as serve:
        serve.models = {"iris": {"kit": V1}, "trial": {"kit": V1, "canary": {"kit": V2, "weight": 20}}}
        try:
            serve.start()
            _wait(f"{serve.url}/v2/health/ready", partial(requests.get, timeout=5), lambda: "")
            assert serve.process is not None
            haproxy = partial(_haproxy, serve.process.pid)
            (alone,), trial = (_workers(log_path(serve.home), model) for model in serve.models)
            yield [
                Contender(
                    WORKER, f"http://127.0.0.1:{alone.port}{_PATH.format('iris')}", lambda: [alone.pid]
                ),
                Contender(EDGE, serve.url + _PATH.format("iris"), lambda: [alone.pid, *haproxy()]),
                Contender(
                    CANARY,
                    serve.url + _PATH.format("trial"),
                    lambda: [*(worker.pid for worker in trial), *haproxy()],
                ),
            ]
        finally:
            if serve.process is not None:
                _end(serve.process)


@dataclass(frozen=True, slots=True)
class _Worker:
    pid: int
    port: int


def _workers(log: Path, model: str) -> list[_Worker]:
    """The workers that said they are ready; the log calls a process `worker-PID`."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
    return [
        _Worker(int(line["process"].removeprefix("worker-")), line["port"])
        for line in lines
        if line["event"] == "worker.ready" and line["model"] == model
    ]


def _haproxy(root: int) -> list[int]:
    found = []
    for process in descendants(root):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{process}/comm").read_text().startswith("haproxy"):
                found.append(process)
    return found


def _wait(url: str, call: Callable[[str], requests.Response], ended: Callable[[], str]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    last = "no answer"
    while time.monotonic() < deadline:
        if why := ended():
            raise NotReady(why)
        try:
            answer = call(url)
            if answer.status_code == 200:
                return
            last = answer.text[:200]
        except requests.RequestException as error:
            last = str(error)
        time.sleep(0.2)
    raise NotReady(f"{url} was not ready after {_READY_SECONDS} s: {last}")


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started, by force where asking does not do it."""
    family = descendants(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    end_all(family, _LEFTOVER_SECONDS)

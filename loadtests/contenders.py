"""The contenders: how each is started with a model, and ended without leaving anything behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests

from gateway.cli.processes import descendants, end_all
from loadtests import venvs
from loadtests.calls import BENTOML_JSON, OIP_BINARY, OIP_JSON, Dialect
from loadtests.models import Model
from loadtests.usage import Processes
from loadtests.workloads import Form
from tests.support.artifacts import LayoutBuilder, tar
from tests.support.kitserve import Running, running
from tests.support.ports import free_port

FLOOR = "floor"
MLSERVER = "MLServer"
LITSERVE = "LitServe"
BENTOML = "BentoML"
KSERVE = "KServe"
RAY_SERVE = "Ray Serve"
KITSERVE = "Kitserve"
BATCHING = "Kitserve, batching"
PEERS = (MLSERVER, LITSERVE, BENTOML, KSERVE, RAY_SERVE)
NAMES = (FLOOR, *PEERS, KITSERVE, BATCHING)

_ROOT = Path(__file__).parents[1]
_KITSERVE_MODELS = {KITSERVE: "plain", BATCHING: "batched"}
_READY_SECONDS = 120
_STOP_SECONDS = 15
_LEFTOVER_SECONDS = 3
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

Say = Callable[[str], None]


class NotReady(Exception):
    """A contender did not start."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that is measured. `processes` returns every process that it runs."""

    name: str
    url: str
    dialects: Mapping[Form, Dialect]
    processes: Processes


@dataclass(frozen=True, slots=True)
class Field:
    """The contenders that are up, and why the others are absent."""

    contenders: list[Contender] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Server:
    """A server that is started as `python ARGUMENTS PORT MODEL`.

    `peer` names its directory and so its Python; "" is this Python.
    """

    peer: str = ""
    arguments: tuple[str, ...] = ()
    dialects: Mapping[Form, Dialect] = field(default_factory=lambda: {"json": OIP_JSON})
    path: str = "/v2/models/model/infer"

    def command(self) -> list[str]:
        if self.peer:
            return [str(venvs.python(self.peer)), str(venvs.script(self.peer))]
        return [sys.executable, *self.arguments]


_OIP: Mapping[Form, Dialect] = {"json": OIP_JSON, "binary": OIP_BINARY}
_SERVERS = {
    FLOOR: _Server(arguments=("-m", "loadtests.floor"), dialects=_OIP),
    MLSERVER: _Server("mlserver"),
    LITSERVE: _Server("litserve"),
    BENTOML: _Server("bentoml", dialects={"json": BENTOML_JSON}, path="/infer"),
    KSERVE: _Server("kserve", dialects=_OIP),
    RAY_SERVE: _Server(arguments=("-m", "loadtests.plain_ray_serve")),
}


def speaks(name: str, form: Form) -> bool:
    """Tell whether a contender takes tensors in that form."""
    return name not in _SERVERS or form in _SERVERS[name].dialects


@contextmanager
def field_of(names: Sequence[str], model: Model, say: Say) -> Iterator[Field]:
    """Start contenders, each with one model alone, and end them at the end of the block.

    A peer that cannot be installed, or does not start, is absent.

    Raises:
        NotReady: when a contender that is no peer does not start.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ksb-")))
        os.environ["RAY_TMPDIR"] = str(directory)  # what Ray leaves on disk goes with the rest
        file = directory / "model.onnx"
        file.write_bytes(model.onnx)
        up = Field()
        started: dict[str, Started] = {}
        for name in (name for name in names if name in _SERVERS):
            try:
                command = [*_SERVERS[name].command(), str(port := free_port()), str(file)]
            except venvs.NotInstalled as error:
                up.absent[name] = str(error)
                continue
            log = directory / f"{len(started)}.log"
            started[name] = stack.enter_context(server_process(name, command, port, log))
        ours = [name for name in names if name in _KITSERVE_MODELS]
        if ours:
            up.contenders.extend(stack.enter_context(_kitserve(directory, model, ours)))
        for name, server in started.items():
            contender = Contender(
                name,
                f"http://127.0.0.1:{server.port}{_SERVERS[name].path}",
                _SERVERS[name].dialects,
                server.processes,
            )
            try:
                _wait(contender, model, server.ended)
            except NotReady as error:
                if name not in PEERS:
                    raise
                up.absent[name] = str(error)
                continue
            up.contenders.append(contender)
        up.contenders.sort(key=lambda contender: NAMES.index(contender.name))
        for name, why in up.absent.items():
            say(f"{name} is left out: {why}")
        yield up


@dataclass(frozen=True, slots=True)
class Started:
    """A server of one process and what that starts."""

    name: str
    port: int
    process: subprocess.Popen[str]
    log: Path

    def processes(self) -> list[int]:
        """Return all of its processes."""
        return [self.process.pid, *descendants(self.process.pid)]

    def ended(self) -> str:
        """Return how it ended and what it wrote last; "" while it runs."""
        if self.process.poll() is None:
            return ""
        return f"{self.name} ended with {self.process.returncode}: {self.log.read_text()[-2000:]}"


@contextmanager
def server_process(name: str, command: list[str], port: int, log: Path) -> Iterator[Started]:
    """Start a server whose command line has this port, and end it; it computes with one thread."""
    # Plain Ray Serve gets no one's settings, and none of the options for throughput.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_SERVE_")}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", **ONE_THREAD}
    if command[0] == sys.executable:
        environment["PYTHONPATH"] = str(_ROOT)
    with log.open("w") as log_file:
        server = subprocess.Popen(
            command,
            env=environment,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            text=True,
            start_new_session=True,
        )
    try:
        yield Started(name, port, server, log)
    finally:
        _end(server)


@contextmanager
def _kitserve(directory: Path, model: Model, names: Sequence[str]) -> Iterator[list[Contender]]:
    """Start one Kitserve, which serves the model once for each of its contenders, each on its own worker."""
    builder = LayoutBuilder(directory / "layout")
    builder.kit("bench/model:v1", tar(("model/model.onnx", model.onnx)))
    with running(directory) as serve:
        kit = f"oci-layout:{builder.directory}:bench/model:v1"
        for name in names:
            # With no delay, only calls that wait anyway run together.
            batching = {"batching": {"max_batch_size": model.batch, "max_delay": 0}}
            serve.models[_KITSERVE_MODELS[name]] = {"kit": kit, **(batching if name == BATCHING else {})}
        try:
            try:
                serve.start()
            except AssertionError as error:
                raise NotReady(f"Kitserve did not start: {error}") from error
            contenders = [_served(serve, name) for name in names]
            for contender in contenders:
                _wait(contender, model, lambda: "")
            yield contenders
        finally:
            if serve.process is not None:
                _end(serve.process)


def _served(serve: Running, name: str) -> Contender:
    served = _KITSERVE_MODELS[name]

    def processes() -> list[int]:
        assert serve.process is not None
        others = {worker for model in serve.models if model != served for worker in serve.workers(model)}
        return [
            process
            for process in (serve.process.pid, *descendants(serve.process.pid))
            if process not in others
        ]

    return Contender(name, f"{serve.url}/v2/models/{served}/infer", _OIP, processes)


def _wait(contender: Contender, model: Model, ended: Callable[[], str]) -> None:
    call = contender.dialects["json"].call(model.inputs[0])
    deadline = time.monotonic() + _READY_SECONDS
    last = "no answer"
    while time.monotonic() < deadline:
        if why := ended():
            raise NotReady(why)
        try:
            answer = requests.post(contender.url, call.body, headers=dict(call.headers), timeout=5)
            if answer.status_code == 200:
                return
            last = answer.text[:200]
        except requests.RequestException as error:
            last = str(error)
        time.sleep(0.2)
    raise NotReady(f"{contender.name} was not ready after {_READY_SECONDS} s: {last}")


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started: by SIGTERM, then by SIGKILL."""
    family = descendants(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait()
    end_all(family, _LEFTOVER_SECONDS)

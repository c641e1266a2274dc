"""A real Kitserve: `kitserve serve` in a process of its own, driven as a person would."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml

from gateway.cli.processes import descendants
from gateway.control.admin.socket_file import SOCKET_FILE
from gateway.control.admin.token import read_token
from gateway.edge.files import EdgeFiles
from gateway.logs.events import log_path
from tests.support.ports import free_port
from tests.support.unix_adapter import UnixAdapter
from tests.support.warm_commands import run_warm

KITSERVE = [sys.executable, "-m", "gateway.cli"]
READY_SECONDS = 90
TITLE_SECONDS = 5
RUNNING_METHOD = re.compile(r"ray::\d+:worker\.")
IRIS = [5.1, 3.5, 1.4, 0.2]


class Running:
    """One `kitserve serve`, its ports, its files and its models."""

    def __init__(
        self,
        directory: Path,
        registries: Mapping[str, Any] | None = None,
        tracing: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.port, self.admin_port = free_port(), free_port()
        self.file = directory / "kitserve.yaml"
        self.registries = dict(registries or {})
        self.tracing = tracing
        self.models: dict[str, dict[str, Any]] = {}
        self.settings: dict[str, Any] = {}
        self.process: subprocess.Popen[str] | None = None
        self.log = directory / "serve.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin(self) -> str:
        return f"127.0.0.1:{self.admin_port}"

    @property
    def socket(self) -> str:
        """Where the admin API takes its owner's requests."""
        return str(self.home / SOCKET_FILE)

    @property
    def token(self) -> dict[str, str]:
        """The headers of a request that changes something over TCP."""
        return {"Authorization": f"Bearer {read_token(self.home)}"}

    def start(self) -> None:
        self.write()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*KITSERVE, "serve", str(self.file), "--home", str(self.home)],
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.wait(lambda status: status["generation"] > 0)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Returns the exit code and how long it took."""
        assert self.process is not None
        started = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(60)
        return code, time.monotonic() - started

    def write(self) -> None:
        document = {
            "listen": f"127.0.0.1:{self.port}",
            "admin": self.admin,
            "models": [{"name": name, **model} for name, model in self.models.items()],
            "registries": self.registries,
            **({} if self.tracing is None else {"tracing": dict(self.tracing)}),
            **self.settings,
        }
        self.file.write_text(yaml.safe_dump(document))

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command, which saves a second each time over `run_anew`."""
        return self._checked(run_warm(arguments, self._environment()), check)

    def run_anew(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in a Python of its own, as `serve` needs it."""
        done = subprocess.run(
            [*KITSERVE, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=self._environment(),
        )
        return self._checked(done, check)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "KITSERVE_HOME": str(self.home)}

    @staticmethod
    def _checked(done: subprocess.CompletedProcess[str], check: bool) -> subprocess.CompletedProcess[str]:
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def apply(self, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`kitserve apply` of the models as they are in `self.models`."""
        self.write()
        return self.run("apply", str(self.file), check=check)

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.run("status", "--admin", self.admin, "-o", "json").stdout)
        return document

    def ask(self, path: str) -> requests.Response:
        """Ask the admin API as its owner."""
        with requests.Session() as session:
            session.mount("http://", UnixAdapter(Path(self.socket)))
            return session.get(f"http://localhost{path}", timeout=10)

    def model(self, name: str) -> dict[str, Any]:
        answer = self.ask(f"/api/models/{name}")
        assert answer.status_code == 200, answer.text
        model: dict[str, Any] = answer.json()
        return model

    def wait(self, holds: Any, seconds: float = READY_SECONDS) -> dict[str, Any]:
        """Wait until `holds(status)`; returns that status."""
        deadline = time.monotonic() + seconds
        status: dict[str, Any] = {}
        while True:
            with contextlib.suppress(requests.RequestException):
                status = self.ask("/api/status").json()
                if holds(status):
                    return status
            assert self.process is None or self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"{status}\n{self.log.read_text()[-4000:]}"
            time.sleep(0.1)

    def wait_for_rollout(self, name: str, seconds: float = 60, **fields: Any) -> dict[str, Any]:
        """Wait until the rollout of a model has these fields; return it."""

        def rollout(status: dict[str, Any]) -> dict[str, Any] | None:
            document: dict[str, Any] | None = next(
                model["rollout"] for model in status["models"] if model["name"] == name
            )
            return document

        def holds(status: dict[str, Any]) -> bool:
            shown = rollout(status)
            return shown is not None and all(shown[field] == value for field, value in fields.items())

        shown = rollout(self.wait(holds, seconds))
        assert shown is not None
        return shown

    def infer(
        self, model: str, data: Any = IRIS, version: str | None = None, name: str = "input"
    ) -> requests.Response:
        path = f"{model}/versions/{version}" if version else model
        tensor = {"name": name, "shape": [1, 4], "datatype": "FP32", "data": data}
        return requests.post(f"{self.url}/v2/models/{path}/infer", json={"inputs": [tensor]}, timeout=20)

    def workers(self, model: str) -> list[int]:
        """Process ids of a model's workers."""
        return self._processes(f"ray::ServeReplica:{model}.")

    def replicas(self, app: str) -> list[int]:
        """Process ids of one version's workers."""
        return self._processes(f"ray::ServeReplica:{app}:")

    def events(self) -> list[str]:
        """What gateway and workers have logged so far, by name."""
        return [json.loads(line)["event"] for line in log_path(self.home).read_text().splitlines()]

    def gateway(self) -> list[int]:
        """Process ids of the gateway's replica."""
        return self._processes("ray::ServeReplica:kitserve:gateway")

    def edge(self) -> EdgeFiles:
        """The files and sockets of its HAProxy."""
        assert self.process is not None
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_text().split("\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and "-f" in words:
                    return EdgeFiles(Path(words[words.index("-f") + 1]).parent)
        raise AssertionError("no edge runs")

    def _processes(self, title: str) -> list[int]:
        """Those of its own processes whose titles begin so; another Kitserve may run beside it."""
        assert self.process is not None
        processes = []
        for process in descendants(self.process.pid):
            with contextlib.suppress(OSError):
                if _title(process).startswith(title):
                    processes.append(process)
        return processes

    def metrics(self) -> str:
        return requests.get(f"http://{self.admin}/metrics", timeout=10).text


def _title(process: int) -> str:
    """A process's title; waits while Ray shows a method in its stead, as it does until a worker has ended."""
    deadline = time.monotonic() + TITLE_SECONDS
    while True:
        title = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
        if not RUNNING_METHOD.match(title) or time.monotonic() > deadline:
            return title
        time.sleep(0.01)


@contextmanager
def running(
    directory: Path, registries: Mapping[str, Any] | None = None, tracing: Mapping[str, Any] | None = None
) -> Iterator[Running]:
    """A Kitserve that is stopped at the end; start it with `start`."""
    kitserve = Running(directory, registries, tracing)
    try:
        yield kitserve
    finally:
        if kitserve.process is not None and kitserve.process.poll() is None:
            kitserve.stop()

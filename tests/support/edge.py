"""A real HAProxy, and small HTTP servers in processes of their own that stand for workers."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import asdict, replace
from email.message import Message
from pathlib import Path

from gateway.edge.access import Access
from gateway.edge.bounds import EdgeBounds
from gateway.edge.control import EdgeControl
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.edge.haproxy import ask
from gateway.edge.process import EdgeProcess
from gateway.edge.routes import Backend, Route, RoutingTable, Server
from gateway.edge.traced_lines import TracedLines
from gateway.edge.tracing import EdgeTracing
from gateway.errors import EdgeError
from gateway.logs.limits import Logged
from gateway.wire.worker_tls import WorkerTls
from tests.support.ports import free_port

WORKER = """
import json, sys, threading
from gateway.wire.server import HttpServer
from gateway.wire.worker_tls import WorkerTls
class Version:
    max_body = 2**26
    inside = 0
    def head(self, exchange):
        pass
    def leave(self):
        self.inside -= 1
    def handle(self, exchange):
        if exchange.query == "hold":
            self.inside += 1
            exchange.on_abandoned = self.leave
            return
        if exchange.query == "inside":
            exchange.respond(200, [], b"%d" % self.inside)
            return
        if exchange.query == "source":
            exchange.respond(200, [], exchange.headers[b"kitserve-source"])
            return
        if exchange.query == "traced":
            names = (b"traceparent", b"tracestate", b"kitserve-traced")
            exchange.respond(200, [], b" ".join(exchange.headers.get(name, b"-") for name in names))
            return
        role = exchange.headers.get(b"modelkit-role", b"-")
        exchange.respond(200, [(b"modelkit-version", sys.argv[1].encode())], role)
    def refuse(self, exchange, status, text):
        exchange.respond(status, [], text.encode())
tls = json.loads(sys.stdin.readline())
server = HttpServer(Version(), "127.0.0.1", tls=WorkerTls(**tls).server_context() if tls else None)
server.start()
print(server.port, flush=True)
threading.Event().wait()
"""


class Workers:
    """Small HTTP servers that say which version they are."""

    def __init__(self, tls: WorkerTls | None = None) -> None:
        self._tls = json.dumps(None if tls is None else asdict(tls))
        self._processes: dict[int, subprocess.Popen[str]] = {}

    def start(self, version: str) -> Server:
        command = [sys.executable, "-c", WORKER, version]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        print(self._tls, file=process.stdin, flush=True)
        port = int(process.stdout.readline())
        self._processes[port] = process
        return Server(f"{version}-{port}", "127.0.0.1", port)

    def kill(self, server: Server) -> None:
        self._processes[server.port].kill()
        self._processes[server.port].wait()

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.communicate()


ANYBODY = Access()


class RunningEdge:
    """An edge that runs, with one model named iris."""

    def __init__(
        self,
        directory: Path,
        admin: str = "",
        key: str = "",
        access_log: Logged = "off",
        bounds: EdgeBounds | None = None,
        trusted_proxies: tuple[str, ...] = (),
        access: Access = ANYBODY,
        worker_tls: WorkerTls | None = None,
        tracing: EdgeTracing | None = None,
    ) -> None:
        self.port = free_port()
        self.files = EdgeFiles(directory)
        self.settings = EdgeSettings(
            f"127.0.0.1:{self.port}",
            access_log,
            key,
            admin,
            trusted_proxies=trusted_proxies,
            access=access,
            worker_tls=worker_tls,
        )
        if bounds is not None:
            self.settings = replace(self.settings, bounds=bounds)
        self.settings = replace(self.settings, tracing=tracing)
        self.traced: list[bytes] = []
        """The lines of traced calls."""
        self.control = EdgeControl(self.settings, self.files)
        self.control.write_first(RoutingTable((Route("iris"),)))
        self.lost: list[EdgeError] = []
        lines = None if tracing is None else TracedLines(access_log, self.traced.extend)
        self.process = EdgeProcess(self.files, self.lost.append, lines)
        self.process.start()

    def stop(self) -> None:
        """Stop it; raises AssertionError where it was lost before."""
        self.process.stop(grace=0.5)
        assert self.lost == []

    @property
    def url(self) -> str:
        scheme = "https" if self.settings.access.has_tls else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    def get(
        self, path: str, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> tuple[int, Message, bytes]:
        request = urllib.request.Request(self.url + path, headers=headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def master_pid(self) -> int:
        shown = ask(self.files.master_socket, "show proc")
        return int(next(line.split()[0] for line in shown.splitlines() if " master " in line))


def backend(version: str, *servers: Server) -> Backend:
    return Backend(f"iris.{version}", (version, f"sha256:{version}"), servers)

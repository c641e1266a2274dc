"""A whole data plane for tests of gRPC: a real edge, workers that echo, and the gateway's services."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from gateway.control.front.grpc import GrpcServices
from gateway.edge.control import EdgeControl
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.edge.process import EdgeProcess
from gateway.edge.routes import Backend, Route, RoutingTable, Server
from gateway.errors import EdgeError
from gateway.logs.limits import Logged
from gateway.metrics.tally import Numbers, Tally
from gateway.serving import DEFAULT_LIMITS, QueueLimits
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.version import AppOptions, Identity
from runtimes.base import LoadedModel
from tests.support.overview import FixedOverview


class Version:
    """One version of a model: a worker that runs here."""

    def __init__(
        self,
        model: str,
        tag: str,
        loaded: LoadedModel,
        labels: Mapping[str, Sequence[str]] | None = None,
        limits: QueueLimits = DEFAULT_LIMITS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.tally = Tally()
        self.digest = f"sha256:{tag.encode().hex():0<64}"
        identity = Identity(model, tag, self.digest)
        self.app = build_app(identity, loaded, self.tally, AppOptions(labels=labels or {}, limits=limits))
        self.server = HttpServer(self.app, "127.0.0.1", tls=tls)
        self.server.start()
        server = Server(f"{model}-{tag}", "127.0.0.1", self.server.port)
        self.backend = Backend(f"{model}.{tag}", (tag, self.digest, self.digest[:19]), (server,))

    @property
    def numbers(self) -> Numbers:
        return self.tally.numbers()

    def stop(self) -> None:
        self.server.stop()
        self.app.stop()


class Plane(FixedOverview):
    """An edge at `address`, and what the gateway behind it says: `status` and `samples`."""

    def __init__(self, directory: Path, port: int, access_log: Logged = "off") -> None:
        super().__init__()
        self.address = f"127.0.0.1:{port}"
        self.files = EdgeFiles(directory)
        self.control = EdgeControl(EdgeSettings(self.address, access_log), self.files)
        self.control.write_first(RoutingTable())
        self.lost: list[EdgeError] = []
        self.edge = EdgeProcess(self.files, self.lost.append)
        self.services = HttpServer(GrpcServices(self), str(self.files.services_socket))

    def route(self, *routes: Route) -> None:
        self.control.apply(RoutingTable(routes))


@contextmanager
def running_plane(directory: Path, port: int, access_log: Logged = "off") -> Iterator[Plane]:
    plane = Plane(directory, port, access_log)
    plane.services.start()
    plane.edge.start()
    try:
        yield plane
    finally:
        plane.edge.stop(grace=0.5)
        plane.services.stop()
    assert plane.lost == []

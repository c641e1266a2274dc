"""A whole data plane for tests of gRPC: a real edge, workers that echo, and the gateway's services."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from gateway.control.front.grpc import GrpcServices
from gateway.control.front.repository import ServerProtocol
from gateway.control.state.status import Status
from gateway.edge.control import EdgeControl, EdgeFiles, EdgeSettings
from gateway.edge.process import Edge
from gateway.edge.routes import Backend, Route, RoutingTable, Server
from gateway.engine.jobs import DEFAULT_LIMITS, QueueLimits
from gateway.errors import EdgeError
from gateway.metrics import Numbers, Tally, VersionSample
from gateway.wire.server import HttpServer
from gateway.worker.app import Identity, WorkerApp
from runtimes.base import LoadedModel


class Version:
    """One version of a model: a worker that runs here."""

    def __init__(
        self,
        model: str,
        tag: str,
        loaded: LoadedModel,
        labels: Mapping[str, Sequence[str]] | None = None,
        limits: QueueLimits = DEFAULT_LIMITS,
    ) -> None:
        self.tally = Tally()
        self.digest = f"sha256:{tag.encode().hex():0<64}"
        identity = Identity(model, tag, self.digest)
        self.app = WorkerApp(identity, loaded, self.tally, labels=labels or {}, limits=limits)
        self.server = HttpServer(self.app, "127.0.0.1")
        self.server.start()
        server = Server(f"{model}-{tag}", "127.0.0.1", self.server.port)
        self.backend = Backend(f"{model}.{tag}", (tag, self.digest, self.digest[:19]), (server,))

    @property
    def numbers(self) -> Numbers:
        return self.tally.numbers()

    def stop(self) -> None:
        self.server.stop()
        self.app.compute.stop()


class Plane:
    """An edge at `address`, and what the gateway behind it says: `status` and `samples`."""

    def __init__(self, directory: Path, port: int, access_log: str = "off") -> None:
        self.address = f"127.0.0.1:{port}"
        self.files = EdgeFiles(directory)
        self.status = Status()
        self.samples: tuple[VersionSample, ...] = ()
        self.control = EdgeControl(EdgeSettings(self.address, access_log), self.files)
        self.control.write_first(RoutingTable())
        self.lost: list[EdgeError] = []
        self.edge = Edge(self.files, self.lost.append)
        protocol = ServerProtocol(lambda: self.status, lambda: self.samples)
        services = GrpcServices(protocol, lambda: self.status)
        self.services = HttpServer(services, str(self.files.services_socket))

    def route(self, *routes: Route) -> None:
        self.control.apply(RoutingTable(routes))


@contextmanager
def running_plane(directory: Path, port: int, access_log: str = "off") -> Iterator[Plane]:
    plane = Plane(directory, port, access_log)
    plane.services.start()
    plane.edge.start()
    try:
        yield plane
    finally:
        plane.edge.stop(grace=0.5)
        plane.services.stop()
    assert plane.lost == []

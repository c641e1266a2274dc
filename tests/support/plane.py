"""A data plane in seconds: the real edge, workers' servers and gateway's API, with no Ray to start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from gateway.contract import Description
from gateway.control.admin.api import AdminApi
from gateway.control.admin.server import AdminServer
from gateway.control.front.docs import Docs
from gateway.control.front.repository import ServerProtocol
from gateway.control.state.database import State
from gateway.control.state.status import ModelState, ModelStatus, Status, VersionStatus
from gateway.edge.control import EdgeControl, EdgeFiles, EdgeSettings
from gateway.edge.process import Edge
from gateway.edge.routes import Backend, Route, RoutingTable, Server
from gateway.errors import EdgeError
from runtimes.base import LoadedModel
from tests.support.ports import free_port
from tests.support.worker import DIGEST, worker


@contextmanager
def data_plane(directory: Path, models: Mapping[str, LoadedModel]) -> Iterator[str]:
    """Serve each model as version v1 of its name; yield the edge's URL."""
    port = free_port()
    status = Status(1, tuple(_status(name) for name in models))
    descriptions = {
        f"{name}.v1": Description(model.platform, model.signature, "A model.")
        for name, model in models.items()
    }
    with ExitStack() as stack:
        docs = Docs(lambda: status, descriptions.get, f"127.0.0.1:{port}")
        protocol = ServerProtocol(lambda: status, lambda: ())
        state = State(directory / "state.db")
        stack.callback(state.close)
        routes = [*docs.routes(), *protocol.routes()]
        api = AdminApi(state, lambda: status, CollectorRegistry(), lambda: None, routes)
        server = AdminServer(api.app("127.0.0.1"), "127.0.0.1")
        server.start()
        stack.callback(server.stop)
        routing = []
        for name, model in models.items():
            host, _, worker_port = stack.enter_context(worker(model, name)).partition(":")
            names = ("v1", DIGEST, DIGEST[7:19])
            routing.append(Route(name, Backend(f"{name}.v1", names, (Server(name, host, int(worker_port)),))))
        lost: list[EdgeError] = []
        files = EdgeFiles(directory)
        control = EdgeControl(EdgeSettings(f"127.0.0.1:{port}", "off", "", f"127.0.0.1:{server.port}"), files)
        control.write_first(RoutingTable())
        edge = Edge(files, lost.append)
        edge.start()
        stack.callback(edge.stop, grace=0.5)
        control.apply(RoutingTable(tuple(routing)))
        yield f"http://127.0.0.1:{port}"
        assert lost == []


def _status(name: str) -> ModelStatus:
    version = VersionStatus("v1", DIGEST, "", f"{name}.v1", "stable", 100, ModelState.READY, 1, "test")
    return ModelStatus(name, ModelState.READY, "", (version,))

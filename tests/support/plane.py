"""A data plane in seconds: the real edge, workers' servers and gateway's API, with no Ray to start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gateway.contract import AppName, Description
from gateway.control.front.docs import Docs
from gateway.control.front.repository import Repository
from gateway.control.state.status import ModelState, ModelStatus, Status, VersionStatus
from gateway.control.web.app import web_app
from gateway.control.web.server import WebServer
from gateway.edge.control import EdgeControl
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.edge.process import EdgeProcess
from gateway.edge.routes import Backend, Route, RoutingTable, Server
from gateway.errors import EdgeError
from gateway.wire.server import tcp_socket
from runtimes.base import TensorModel
from tests.support.overview import FixedOverview
from tests.support.ports import free_port
from tests.support.worker import DIGEST, worker


@contextmanager
def data_plane(directory: Path, models: Mapping[str, TensorModel]) -> Iterator[str]:
    """Serve each model as version v1 of its name; yield the edge's URL."""
    port = free_port()
    descriptions = {
        f"{name}.v1": Description(model.platform, model.signature, "A model.")
        for name, model in models.items()
    }
    overview = FixedOverview(Status(1, tuple(map(_status, models))), descriptions=descriptions)
    with ExitStack() as stack:
        routes = [*Docs(overview, lambda: f"127.0.0.1:{port}").routes(), *Repository(overview).routes()]
        server = WebServer(web_app(routes), tcp_socket("127.0.0.1", 0))
        server.start()
        stack.callback(server.stop)
        routing = []
        for name, model in models.items():
            host, _, worker_port = stack.enter_context(worker(model, name)).partition(":")
            names = ("v1", DIGEST, DIGEST[7:19])
            routing.append(Route(name, Backend(f"{name}.v1", names, (Server(name, host, int(worker_port)),))))
        lost: list[EdgeError] = []
        files = EdgeFiles(directory)
        control = EdgeControl(
            EdgeSettings(f"127.0.0.1:{port}", "off", "", f"127.0.0.1:{server.address[1]}"), files
        )
        control.write_first(RoutingTable())
        edge = EdgeProcess(files, lost.append)
        edge.start()
        stack.callback(edge.stop, grace=0.5)
        control.apply(RoutingTable(tuple(routing)))
        yield f"http://127.0.0.1:{port}"
        assert lost == []


def _status(name: str) -> ModelStatus:
    app = AppName(f"{name}.v1")
    version = VersionStatus("v1", DIGEST, "", app, "stable", 100, ModelState.READY, 1, "test")
    return ModelStatus(name, ModelState.READY, "", (version,))

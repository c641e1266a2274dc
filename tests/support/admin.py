"""An admin API over HTTP, with the state and the rollouts of a real gateway, and a status that tests set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from gateway.control.admin.api import AdminApi
from gateway.control.admin.rollout_api import RolloutApi
from gateway.control.web.app import web_app
from gateway.control.web.server import WebServer
from tests.support.overview import FixedOverview
from tests.unit.control.test_rollout_driver import World


class Admin:
    """The admin API of a model `iris`, of which v1 serves; `world` makes time pass."""

    def __init__(self, directory: Path) -> None:
        self.world = World(directory / "state.db")
        self.world.serve("v1")
        self.overview = FixedOverview()
        apis = (
            AdminApi(self.world.state, self.overview, CollectorRegistry(), lambda: None),
            RolloutApi(self.world.rollouts, self.world.state, lambda: None),
        )
        app = web_app([route for api in apis for route in api.routes()], "127.0.0.1")
        self.server = WebServer(app, "127.0.0.1")
        self.address = f"127.0.0.1:{self.server.port}"


@contextmanager
def running_admin(directory: Path) -> Iterator[Admin]:
    """Serve an admin API until the end of the block."""
    admin = Admin(directory)
    admin.server.start()
    try:
        yield admin
    finally:
        admin.server.stop()
        admin.world.state.close()

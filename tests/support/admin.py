"""An admin API over HTTP, with the state and the rollouts of a real gateway; time passes as it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from gateway.control.admin.api import AdminApi
from gateway.control.admin.rollout_api import RolloutApi
from gateway.control.state.status import ModelState, ModelStatus, Status
from gateway.control.web.app import web_app
from gateway.control.web.server import WebServer
from gateway.wire.server import tcp_socket
from tests.support.gate import gate
from tests.support.overview import FixedOverview
from tests.support.rollouts import World, digest, kit

TAGS = ("v1", "v2", "v3")
TICK_SECONDS = 6.0
OTHERS = (ModelStatus("wine", ModelState.READY, "", ()),)


class Admin:
    """The admin API of a model `iris`, of which v1 serves, and of `wine`.

    Each look at the status is a tick of six seconds, in which both versions answer calls: with errors, where
    their tag is in `failing`. `meanwhile` is called before it. No registry has other tags than v1, v2 and v3.
    """

    def __init__(self, directory: Path) -> None:
        self.world = World(directory / "state.db")
        self.world.pins |= {kit(tag): digest(tag) for tag in TAGS}
        self.world.serve("v1")
        self.failing: set[str] = set()
        self.meanwhile: Callable[[], None] = lambda: None
        apis = (
            AdminApi(self.world.state, _Overview(self), CollectorRegistry(), lambda _: [], lambda: None),
            RolloutApi(self.world.rollouts, self.world.state, lambda: None),
        )
        app = web_app([route for api in apis for route in api.routes()], gate())
        self.server = WebServer(app, tcp_socket("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.server.address[1]}"

    def look(self) -> Status:
        self.meanwhile()
        for app in self.world.workers:
            tag = app.split(".")[1]
            self.world.call(tag, 400, 500 if tag in self.failing else 200)
        plan = self.world.tick(TICK_SECONDS)
        desired = self.world.state.desired()
        for reference in plan.resolve:
            self.world.state.fail(reference, desired.generation, f"{reference}: there is no such tag")
        names = {model.name for model in desired.models}
        models = [model for model in plan.models if model.name == "iris"]
        return Status(desired.generation, (*models, *(other for other in OTHERS if other.name in names)))


class _Overview(FixedOverview):
    def __init__(self, admin: Admin) -> None:
        super().__init__()
        self._admin = admin

    @property
    def status(self) -> Status:
        return self._admin.look()

    @status.setter
    def status(self, status: Status) -> None:
        """Keep nothing: it is worked out at each look."""


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

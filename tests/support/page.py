"""The page of an admin API over HTTP, with the state and the rollouts of a real gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from gateway.contract import AppName
from gateway.control.admin.api import AdminApi
from gateway.control.admin.page.page import Page
from gateway.control.admin.rollout_api import RolloutApi
from gateway.control.state.status import ModelStatus, Status
from gateway.control.state.workers import AppNumbers
from gateway.control.web.app import web_app
from gateway.control.web.server import WebServer
from gateway.wire.server import tcp_socket
from tests.support.gate import gate
from tests.support.overview import FixedOverview
from tests.support.rollouts import ROLLOUT, World

PAUSING: dict[str, Any] = {
    "steps": [{"weight": 10, "pause": True}, {"weight": 50, "for": "1m"}],
    "checks": {"max_error_rate": 0.05, "min_requests": 10},
}
"""A rollout that waits for a person, and then for a minute."""
MEMORY = 300 * 1024 * 1024


class PageServer:
    """The admin API and the page of a model `iris` of which v1 serves, and of `others`; time is a test's."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.world = World(directory / "state.db")
        self.world.serve("v1")
        self.overview = FixedOverview()
        self.others: tuple[ModelStatus, ...] = ()
        self.page = Page(self.overview, self.world.state, self.world.rollouts)
        apis = (
            AdminApi(self.world.state, self.overview, CollectorRegistry(), lambda _: [], lambda: None),
            RolloutApi(self.world.rollouts, self.world.state, self.tick),
            self.page,
        )
        app = web_app([route for api in apis for route in api.routes()], gate())
        self.server = WebServer(app, tcp_socket("127.0.0.1", port))
        self.port: int = self.server.address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.tick(0.0)

    def begin_rollout(self, rollout: dict[str, Any] = PAUSING) -> None:
        """Have v2 on trial, at the first step."""
        self.world.apply("v2", rollout)
        for _ in range(3):
            self.tick()

    def tick(self, seconds: float = 1.0) -> None:
        """Let the gateway look once at everything, as its loop does."""
        plan = self.world.tick(seconds)
        self.overview.status = Status(self.world.state.desired().generation, (*plan.models, *self.others))
        self.overview.descriptions = {str(app): about for app, about in self.world.descriptions.items()}
        self.overview.counted = {
            app: AppNumbers(tally.numbers(), replicas={"ready": 1}, memory_bytes={f"{app}#1": MEMORY})
            for app, tally in self.world.workers.items()
        }

    def answer(self, tag: str, calls: int, status: int = 200, seconds: float = 0.004) -> None:
        """Have a version answer calls."""
        tally = self.world.workers[self.world.app(tag)]
        for _ in range(calls):
            tally.answered("stable", status, seconds, 0.0, seconds)
            tally.judged(b"", status, seconds)
        self.tick()

    def describe(self, **fields: Any) -> None:
        """Change what is known of the model of each version."""
        for app, description in self.world.descriptions.items():
            self.world.descriptions[AppName(app)] = replace(description, **fields)
        self.tick()


@contextmanager
def page_server(directory: Path, port: int = 0) -> Iterator[PageServer]:
    """Serve the page until the end of the block."""
    served = PageServer(directory, port)
    served.server.start()
    served.page.start()
    try:
        yield served
    finally:
        served.page.stop()
        served.server.stop()
        served.world.state.close()


__all__ = ["PAUSING", "ROLLOUT", "PageServer", "page_server"]

"""The gateway as Serve runs it: one replica that holds the loop, the admin API and the metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from gateway.control.admin_server import AdminServer
from gateway.control.api import AdminApi
from gateway.control.descriptions import Descriptions
from gateway.control.docs import Docs
from gateway.control.loop import ReconcileLoop
from gateway.control.protocol import ServerProtocol
from gateway.control.state import State
from gateway.control.workers import Workers
from gateway.edge.haproxy import EdgeControl, EdgeFiles, EdgeSettings
from gateway.logs import configure_logging
from gateway.metrics import KitserveCollector, VersionLabels, VersionSample
from gateway.oci.reference import Digest
from gateway.worker.spec import Announcement

_STUCK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What the command that starts the gateway tells it."""

    home: Path
    edge_files: EdgeFiles
    edge: EdgeSettings
    admin_host: str
    admin_port: int
    worker_host: str
    reserve_cpus: bool
    instance: str
    """Names one start of Kitserve; a gateway that is started again within it finds its workers there."""


class Gateway:
    """The deployment class. Everything that must last is in `State`; the rest is heard again."""

    def __init__(self, settings: GatewaySettings) -> None:
        configure_logging("gateway", settings.home)
        self._state = State(settings.home / "state.db")
        fresh = self._state.begin(settings.instance)
        self._workers = Workers()
        self._descriptions = Descriptions(self._state)
        self._loop = ReconcileLoop(
            state=self._state,
            workers=self._workers,
            edge=EdgeControl(settings.edge, settings.edge_files),
            home=settings.home,
            worker_host=settings.worker_host,
            edge_key=settings.edge.key,
            reserve_cpus=settings.reserve_cpus,
            fresh=fresh,
        )
        registry = CollectorRegistry()
        registry.register(KitserveCollector(self._samples))
        protocol = ServerProtocol(lambda: self._loop.status, self._samples)
        docs = Docs(lambda: self._loop.status, self._descriptions.of, settings.edge.listen)
        routes = [*protocol.routes(), *docs.routes()]
        api = AdminApi(self._state, lambda: self._loop.status, registry, self._loop.wake, routes)
        self._server = AdminServer(api.app(settings.admin_host), settings.admin_host, settings.admin_port)
        self._server.start()
        self._loop.start()

    async def announce(self, news: Announcement) -> bool:
        """Hear from a worker; returns whether it is to describe its model with the next report."""
        if self._workers.hear(news):
            self._loop.wake()
        return self._descriptions.hear(news)

    async def check_health(self) -> None:
        """Tell Serve whether the gateway works; raises when it does not."""
        await self._server.check()
        if time.monotonic() - self._loop.beat > _STUCK_SECONDS:
            raise RuntimeError("the reconcile loop is stuck")

    async def __del__(self) -> None:
        """Stop, at Serve's shutdown."""
        self._loop.stop()
        self._server.stop()
        self._state.close()

    def _samples(self) -> Iterator[VersionSample]:
        versions = self._state.versions()
        weights: dict[str, dict[str, int]] = {}
        for at in self._state.routed().values():
            if at.stable is not None:
                weights[at.stable] = {"stable": 100 - at.weight}
            if at.canary is not None:
                weights[at.canary] = {"canary": at.weight}
        for app, found in self._workers.numbers().items():
            version = versions.get(app)
            if version is None:
                continue
            labels = VersionLabels(
                version.model, version.label, Digest.parse(version.digest).short, found.runtime
            )
            yield VersionSample(labels, found.numbers, found.ongoing, found.replicas, weights.get(app, {}))

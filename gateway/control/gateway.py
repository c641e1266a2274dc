"""The gateway as Serve runs it: one replica that holds the loop, the admin API and the metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from gateway.config.config import GatewayConfig
from gateway.contract import Announcement, Orders, WorkerState
from gateway.control.activator.activator import Activator, Sleeper
from gateway.control.activator.held_call import HeldCall
from gateway.control.admin.api import AdminApi
from gateway.control.admin.rollout_api import RolloutApi
from gateway.control.admin.server import AdminServer
from gateway.control.front.docs import Docs
from gateway.control.front.grpc import GrpcServices
from gateway.control.front.repository import ServerProtocol
from gateway.control.loop import serving
from gateway.control.loop.loop import ReconcileLoop
from gateway.control.rollouts.driver import Rollouts
from gateway.control.rollouts.golden_gate import GoldenGate
from gateway.control.rollouts.webhooks import Webhooks
from gateway.control.state.database import State
from gateway.control.state.descriptions import Descriptions
from gateway.control.state.workers import AppNumbers, Workers
from gateway.edge.control import EdgeControl
from gateway.edge.edge import Edge
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.kits.library import Library, cache_directory
from gateway.logs import configure_logging
from gateway.metrics import KitserveCollector, VersionLabels, VersionSample
from gateway.oci.reference import Digest
from gateway.wire.server import HttpServer

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
        self._edge: Edge = EdgeControl(settings.edge, settings.edge_files)
        self._main = asyncio.get_running_loop()
        self._activator = Activator(
            settings.edge_files.activator_socket, self._find_sleeper, self._workers.ready, self._wake
        )
        self._activator.start()
        self._home = settings.home
        golden = GoldenGate(self._library, settings.edge.key)
        self._webhooks = Webhooks(lambda: self._state.desired().config.webhooks)
        self._rollouts = Rollouts(self._state, self._descriptions.of, golden, self._webhooks.tell)
        self._loop = ReconcileLoop(
            state=self._state,
            workers=self._workers,
            edge=self._edge,
            home=settings.home,
            worker_host=settings.worker_host,
            edge_key=settings.edge.key,
            reserve_cpus=settings.reserve_cpus,
            fresh=fresh,
            is_awaited=lambda app: app in self._activator.waiting(),
            rollouts=self._rollouts,
        )
        registry = CollectorRegistry()
        registry.register(KitserveCollector(self._samples))
        protocol = ServerProtocol(lambda: self._loop.status, self._samples)
        docs = Docs(lambda: self._loop.status, self._descriptions.of, settings.edge.listen)
        rollouts = RolloutApi(self._rollouts, self._loop.wake)
        routes = [*protocol.routes(), *docs.routes(), *rollouts.routes()]
        api = AdminApi(self._state, lambda: self._loop.status, registry, self._loop.wake, routes)
        self._server = AdminServer(api.app(settings.admin_host), settings.admin_host, settings.admin_port)
        self._server.start()
        services = GrpcServices(protocol, lambda: self._loop.status)
        self._services = HttpServer(services, str(settings.edge_files.services_socket))
        self._services.start()
        self._loop.start()

    async def announce(self, news: Announcement) -> Orders:
        """Hear from a worker; returns what it is to do."""
        if self._workers.hear(news):
            self._activator.hear(news)
            self._loop.wake()
        return Orders(self._descriptions.hear(news), self._rollouts.mirroring(news.app))

    async def check_health(self) -> None:
        """Tell Serve whether the gateway works; raises when it does not."""
        await self._server.check()
        await self._services.check()
        if time.monotonic() - self._loop.beat > _STUCK_SECONDS:
            raise RuntimeError("the reconcile loop is stuck")

    async def __del__(self) -> None:
        """Stop, at Serve's shutdown."""
        self._loop.stop()
        self._activator.stop()
        self._server.stop()
        self._services.stop()
        self._webhooks.stop()
        self._state.close()

    def _library(self, config: GatewayConfig) -> Library:
        return Library(cache_directory(self._home), config.source_options(), config.cache.max_size)

    def _samples(self) -> Iterator[VersionSample]:
        versions = self._state.versions()
        weights: dict[str, dict[str, int]] = {}
        for at in self._state.routed().values():
            if at.stable is not None:
                weights[at.stable] = {"stable": at.stable_weight}
            if at.canary is not None:
                weights[at.canary] = {"canary": at.weight}
        held = self._activator.waiting()
        numbers = self._workers.numbers()
        for app in dict.fromkeys((*numbers, *weights)):
            version = versions.get(app)
            if version is None:
                continue
            found = numbers.get(app, AppNumbers())
            labels = VersionLabels(
                version.model, version.label, Digest.parse(version.digest).short, found.runtime
            )
            replicas = {WorkerState.READY.value: 0, **found.replicas}
            yield VersionSample(
                labels,
                found.numbers,
                found.ongoing,
                replicas,
                weights.get(app, {}),
                queued=found.queued,
                held=held.get(app, 0),
            )

    def _find_sleeper(self, call: HeldCall) -> Sleeper | None:
        app = self._edge.occupant(call.backend)
        version = None if app is None else self._state.versions().get(app)
        if version is None:
            return None
        at = self._state.routed().get(version.model)
        if at is not None and at.stable is not None and not version.may_sleep and not call.names_version:
            version = self._state.versions().get(at.stable, version)
        return Sleeper(version.app, version.model, version.label, version.digest, version.wake_timeout)

    async def _wake(self, app: str) -> None:
        # Serve's handles belong to the loop that Serve runs this replica in.
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(serving.wake(app), self._main))

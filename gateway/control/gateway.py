"""The gateway as Serve runs it: one replica, in which all parts of the control plane are put together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware
from starlette.routing import Route

from gateway.config.admin_tls import AdminTls
from gateway.config.config import Address
from gateway.contract import Announcement, Instructions, NodeSettings, PayloadBatch
from gateway.control.activator.activator import Activator
from gateway.control.activator.sleepers import GatewaySleepers
from gateway.control.admin.api import AdminApi
from gateway.control.admin.gate import Gate
from gateway.control.admin.live import LiveSettings
from gateway.control.admin.page.page import Page
from gateway.control.admin.restart_api import RestartApi
from gateway.control.admin.rollout_api import RolloutApi
from gateway.control.admin.socket_file import bind_socket
from gateway.control.admin.tls import server_context
from gateway.control.admin.token import TokenCheck
from gateway.control.body_router.body_router import BodyRouter
from gateway.control.front.docs import Docs
from gateway.control.front.grpc import GrpcServices
from gateway.control.front.openai_models import OpenAIModels
from gateway.control.front.repository import Repository
from gateway.control.loop import ray_serve
from gateway.control.loop.capacity import gpu_faults
from gateway.control.loop.deployer import DeploySettings
from gateway.control.loop.library import open_library
from gateway.control.loop.loop import ReconcileLoop
from gateway.control.payload_log.payload_log import PayloadLog, recorded_versions
from gateway.control.planning.api import PlanApi
from gateway.control.rollouts.driver import Rollouts
from gateway.control.rollouts.golden_gate import GoldenGate
from gateway.control.rollouts.webhooks import Webhooks
from gateway.control.state.database import STATE_FILE, State
from gateway.control.state.descriptions import Descriptions
from gateway.control.state.desired import Desired
from gateway.control.state.measured import MeasuredGpus
from gateway.control.state.overview import GatewayOverview
from gateway.control.state.restarts import Restarts
from gateway.control.state.vitals import Vitals
from gateway.control.state.workers import Workers
from gateway.control.tracing.traces import Traces
from gateway.control.web.app import web_app
from gateway.control.web.movable import MovableServer
from gateway.control.web.server import WebServer
from gateway.edge.control import EdgeControl
from gateway.edge.edge import Edge
from gateway.edge.files import EdgeFiles, EdgeSettings
from gateway.files import read_regular
from gateway.home import keep_private
from gateway.logs.counts import LineCounts
from gateway.logs.events import configure_logging
from gateway.metrics.evidence_windows import ToldWindows
from gateway.metrics.exposition import KitserveCollector
from gateway.metrics.machine import usable_memory
from gateway.proxies import bypass_proxies
from gateway.tracing.settings import OtlpSettings
from gateway.wire.limits import ARRIVING_SMALL_BYTES, DRAIN_SECONDS
from gateway.wire.server import HttpServer, local_socket
from gateway.worker.handle_port import keep_on_loopback

_STUCK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The settings that the command which starts the gateway gives it."""

    home: Path
    edge_files: EdgeFiles
    edge: EdgeSettings
    admin_host: str
    admin_port: int
    admin_tls: AdminTls | None
    worker_host: str
    reserve_cpus: bool
    instance: str
    """The name of one start of Kitserve; a gateway that Serve starts again finds its workers by it."""
    visible_gpus: str | None = None
    """The GPUs that workers may use, as CUDA_VISIBLE_DEVICES names them; None: all."""
    otlp: OtlpSettings | None = None
    """Where the spans of traced calls are sent to; None where none are traced."""


class _Api(Protocol):
    def routes(self) -> list[Route]: ...


class Gateway:
    """The deployment class. What must last is in `State`; the rest comes again with the workers' reports."""

    def __init__(self, settings: GatewaySettings) -> None:
        keep_private()
        lines = configure_logging("gateway", settings.home)
        bypass_proxies()
        if settings.worker_host:
            keep_on_loopback(settings.worker_host)
        self._state = State(settings.home / STATE_FILE)
        is_fresh = self._state.begin(settings.instance)
        self._workers = Workers()
        self._restarts = Restarts()
        self._descriptions = Descriptions(self._state)
        self._measured = MeasuredGpus(self._state)
        settings = _in_force(settings, self._state, is_fresh)
        edge: Edge = EdgeControl(settings.edge, settings.edge_files)
        sleepers = GatewaySleepers(self._state, self._workers, edge, ray_serve.wake)
        tls = None if settings.edge.worker_tls is None else settings.edge.worker_tls.client_context()
        self._activator = Activator(settings.edge_files.activator_socket, sleepers, tls)
        self._activator.start()
        golden = GoldenGate(
            lambda: open_library(settings.home, self._state.desired()), settings.edge.key, tls
        )
        self._webhooks = Webhooks(lambda: self._state.desired().webhooks)
        self._rollouts = Rollouts(
            self._state, self._descriptions.of, golden, self._webhooks.send, is_new_start=is_fresh
        )
        self._loop = ReconcileLoop(
            self._state,
            self._workers,
            edge,
            self._rollouts,
            DeploySettings(_node_settings(settings), settings.reserve_cpus, ray_serve.parallel_starts()),
            self._activator.holds_calls,
            self._restarts,
        )
        self._payload_log = PayloadLog(settings.home, lambda: recorded_versions(self._state))
        self._payload_log.start()
        self._traces = None if settings.otlp is None else self._trace(settings.otlp, settings.edge_files)
        overview = self._overview(edge)
        self._page = Page(overview, self._state, self._rollouts)
        self._servers = (
            *self._admin_servers(settings, edge, overview, lines),
            self._front_server(settings, overview),
        )
        for server in self._servers:
            server.start()
        self._page.start()
        services_socket = str(settings.edge_files.services_socket)
        self._services = HttpServer(GrpcServices(overview), services_socket, body_bytes=ARRIVING_SMALL_BYTES)
        self._services.start()
        self._body_router = BodyRouter(settings.edge_files.router_socket, settings.edge_files.routed_socket)
        self._body_router.start()
        if self._traces is not None:
            self._traces.start()
        self._loop.start(has_workers=not is_fresh)

    async def announce(self, announcement: Announcement) -> Instructions:
        """Take a worker's report; returns what it is to do."""
        announcement = announcement.checked()
        if self._traces is not None:
            announcement = self._traces.hear(announcement)
        told_until = self._rollouts.hear(announcement)
        announcement = replace(announcement, evidence=ToldWindows())
        if self._workers.hear(announcement):
            self._activator.hear(announcement)
            self._loop.wake()
            self._measured.hear(announcement)
        app = announcement.app
        must_sleep = app == self._loop.making_room
        is_awaited = must_sleep or self._restarts.is_under_way(app)
        return Instructions(
            self._descriptions.hear(announcement),
            self._rollouts.mirroring(app),
            self._payload_log.rules(app),
            told_until,
            self._restarts.must_end(announcement.worker),
            must_sleep=must_sleep,
            may_rest=self._rollouts.is_unwatched(app) and not is_awaited,
        )

    async def record(self, batch: PayloadBatch) -> None:
        """Take records of a worker's calls."""
        self._payload_log.take(batch)

    async def check_health(self) -> None:
        """Raise an error when a part of the gateway does not work; Serve then starts another gateway."""
        for server in self._servers:
            await server.check()
        await self._services.check()
        if time.monotonic() - self._loop.beat > _STUCK_SECONDS:
            raise RuntimeError("the reconcile loop is stuck")

    async def __del__(self) -> None:
        """Stop, at Serve's shutdown."""
        self._loop.stop()
        self._activator.stop()
        # First: a server waits for the answers that have no end.
        self._page.stop()
        for server in self._servers:
            server.stop()
        self._services.stop()
        self._body_router.stop()
        self._webhooks.stop()
        self._payload_log.stop()
        if self._traces is not None:
            self._traces.stop()
        self._state.close()

    def _overview(self, edge: Edge) -> GatewayOverview:
        overview = GatewayOverview(
            self._loop,
            self._state,
            self._workers,
            self._descriptions,
            self._activator,
            edge,
            self._payload_log.numbers,
        )
        if self._traces is not None:
            overview.count_spans(self._traces.numbers)
        return overview

    def _admin_servers(
        self, settings: GatewaySettings, edge: Edge, overview: GatewayOverview, lines: LineCounts
    ) -> tuple[MovableServer, WebServer]:
        """Return the servers of the admin API and its page: over TCP, and at the socket in the home."""
        vitals = Vitals(settings.home, self._loop, self._state, lines, _certificates(settings))
        metrics = CollectorRegistry()
        metrics.register(KitserveCollector(lambda: replace(overview.scrape(), control_plane=vitals.sample())))
        live_settings = LiveSettings(edge, lambda: on_tcp)
        faults_of, wake = _faults_of(settings), self._loop.wake
        free_memory = usable_memory if settings.worker_host else lambda: None
        apis = (
            AdminApi(self._state, overview, metrics, faults_of, wake, live_settings),
            RolloutApi(self._rollouts, self._state, wake),
            RestartApi(self._restarts, self._state, self._workers, wake),
            PlanApi(self._state, self._loop, self._descriptions.of, settings.home, faults_of, free_memory),
            self._page,
        )
        gate = Middleware(Gate, is_token=TokenCheck(settings.home), owner=os.geteuid())
        app = web_app(_routes(apis), gate)
        tls = None if settings.admin_tls is None else server_context(settings.admin_tls)
        on_tcp = MovableServer(
            lambda listening: WebServer(app, listening, tls=tls), settings.admin_host, settings.admin_port
        )
        return on_tcp, WebServer(app, bind_socket(settings.home))

    def _front_server(self, settings: GatewaySettings, overview: GatewayOverview) -> WebServer:
        """Return the server of what the edge asks of the gateway."""
        front = (
            Repository(overview),
            OpenAIModels(overview),
            Docs(overview, lambda: self._state.desired().fixed.listen or settings.edge.listen),
        )
        return WebServer(web_app(_routes(front)), local_socket(str(settings.edge_files.front_socket)))

    def _trace(self, otlp: OtlpSettings, files: EdgeFiles) -> Traces:
        # OpenTelemetry takes memory and time that nobody pays who traces nothing.
        from gateway.control.tracing.otlp import OtlpExporter

        exporter = OtlpExporter(otlp)
        return Traces(
            exporter,
            files.trace_socket,
            lambda app: self._state.versions().get(app),
            lambda: self._loop.status,
        )


def _in_force(settings: GatewaySettings, state: State, is_fresh: bool) -> GatewaySettings:
    """Return the settings as a config has changed them since Kitserve was started."""
    fixed = state.desired().fixed
    if is_fresh or not state.is_configured():
        return settings
    admin = Address.model_validate(fixed.admin)
    edge = replace(settings.edge, listen=fixed.listen, access_log=fixed.logged)
    return replace(settings, edge=edge, admin_host=admin.host, admin_port=admin.port)


def _routes(apis: Iterable[_Api]) -> list[Route]:
    return [route for api in apis for route in api.routes()]


def _certificates(settings: GatewaySettings) -> Mapping[str, Path | bytes]:
    """Return the certificates in use: the data port's changes with its file, the admin API's does not."""
    certificates: dict[str, Path | bytes] = {"listen": settings.edge_files.certificate}
    if settings.admin_tls is not None:
        certificates["admin"] = read_regular(settings.admin_tls.cert_file)
    return certificates


def _faults_of(settings: GatewaySettings) -> Callable[[Desired], list[str]]:
    """Return what tells why a config cannot run here; a cluster may grow, so nothing is refused there."""
    is_one_machine = not settings.reserve_cpus
    return lambda desired: gpu_faults(desired, ray_serve.gpus()) if is_one_machine else []


def _node_settings(settings: GatewaySettings) -> NodeSettings:
    return NodeSettings(
        home=settings.home,
        host=settings.worker_host,
        gateway=ray_serve.GATEWAY_APP,
        edge_key=settings.edge.key,
        drain_seconds=DRAIN_SECONDS,
        access_log=settings.edge.access_log,
        tls=settings.edge.worker_tls,
        is_traced=settings.otlp is not None,
        visible_gpus=settings.visible_gpus,
    )

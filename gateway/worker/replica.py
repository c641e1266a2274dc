"""One Serve replica that runs one kit version: library, runtime, app, HTTP server.

Serve places it, restarts it, checks its health and shuts it down. Calls do not come through Serve but
straight from the edge, to the replica's own HTTP server.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Self

import ray
from ray import serve

from gateway.contract import Announcement, Instructions, Passing, WorkerSpec, WorkerState
from gateway.errors import KitserveError, UnusableModel, reason_of
from gateway.foreign_text import foreign_text
from gateway.gpus.watch import GpuWatch
from gateway.home import keep_private
from gateway.logs.events import configure_logging
from gateway.metrics.memory import family_gpu_bytes, family_resident_bytes, resident_bytes
from gateway.metrics.tally import Tally
from gateway.proxies import bypass_proxies
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.containment import (
    WorkerContainment,
    use_contained_threads,
    without_credentials,
    without_tls_key,
)
from gateway.worker.engine_numbers import EngineNumbers
from gateway.worker.engine_watch import end_of, ended
from gateway.worker.handle_port import keep_on_loopback
from gateway.worker.hang import HangTimer
from gateway.worker.load_limit import LoadLimit
from gateway.worker.loading import Loader, OpenedKit, ServableModel, closed_on_failure
from gateway.worker.memory_limit import MemoryLimit
from gateway.worker.payload_delivery import PayloadDelivery
from gateway.worker.reports import Reports
from gateway.worker.scaling import IDLE, ONGOING
from gateway.worker.stuck import stuck
from gateway.worker.version import Identity
from runtimes.base import ModelInChild, TensorModel, provider_of
from runtimes.engines.base import OpenAIModel

_HEALTH_SECONDS = 5.0
# So long after it is told, the edge sends no more calls to this worker.
_EDGE_SECONDS = 0.5
# How long the calls inside get where the memory is used up.
_LAST_CALLS_SECONDS = 10.0
# So long after a call should have ended, the process is held to hang: longer than `Overruns` takes.
_HANG_SECONDS = 5.0

log = logging.getLogger(__name__)


class Replica:
    """What a deployment of `gateway.worker.deployment` runs."""

    @classmethod
    async def start(cls, spec: WorkerSpec) -> Self:
        """Return one whose model can answer; raises why it cannot."""
        replica = cls(spec)
        await replica._open()
        return replica

    def __init__(self, spec: WorkerSpec) -> None:
        keep_private()
        self._log_counts = configure_logging("worker", spec.node.home)
        # On a cluster, the environment is that of the node's own Ray.
        bypass_proxies()
        if spec.node.host:
            keep_on_loopback(spec.node.host)
        # Before it is contained, and without its key from then on.
        self._tls = None if spec.node.tls is None else spec.node.tls.server_context()
        self._spec = spec = without_tls_key(spec)
        self._tally = Tally()
        self._gateway = serve.get_app_handle(spec.node.gateway)
        worker = serve.get_replica_context().replica_id.unique_id
        self._reports = Reports(
            Announcement(worker=worker, app=spec.app, state=WorkerState.PULLING),
            spec.names,
            self._tally,
            lambda report: self._gateway.announce.remote(report),
            self._present,
            self._follow,
        )
        resources = spec.serving.resources
        self._memory = (
            None if resources.memory is None else MemoryLimit(resources.memory, resources.wants_gpu)
        )
        self._gpus = GpuWatch() if resources.wants_gpu else None
        self._overdue = asyncio.get_running_loop().create_future()
        limit = LoadLimit(spec.node.home, spec.app, spec.serving.load_timeout, self._give_up_load)
        self._loader = Loader(spec, self._tally, self._reports.note, limit)
        self._must_sleep = False
        self._engine_numbers: EngineNumbers | None = None
        self._watching: list[asyncio.Task[None]] = []
        self._reporting = asyncio.create_task(self._reports.run())

    async def _open(self) -> None:
        """Load the model, and take calls."""
        spec = self._spec
        # It asks by UDP, which is refused once the worker is contained.
        node_address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        try:
            servable = await self._load()
            self._model, self._lease = servable.model, servable.lease
            self._reports.description = servable.description
            identity = Identity(spec.model, spec.reference.label, str(spec.reference.digest))
            with closed_on_failure(self._model):
                if self._memory is not None:
                    self._memory.check_loaded(spec.reference)
                self._reports.tracer = servable.options.tracer
                self._app = build_app(identity, self._model, self._tally, servable.options)
        except Exception as error:
            await self._tell_failure(error)
            self._reporting.cancel()
            if self._overdue.done():
                # The thread that loads cannot be ended otherwise.
                os._exit(1)
            raise
        await self._serve(servable, spec.node.host or node_address)

    async def _tell_failure(self, error: Exception) -> None:
        """Tell the gateway and the log why the model cannot answer."""
        is_expected, reason = isinstance(error, KitserveError), reason_of(error)
        self._reports.note(passing=Passing.of(error))
        self._tally.failed_to("pull" if self._reports.state is WorkerState.PULLING else "load")
        await self._reports.change(WorkerState.FAILED, reason)
        log.log(
            logging.WARNING if is_expected else logging.ERROR,
            "worker.failed",
            exc_info=None if is_expected else error,
            extra={**self._spec.names, "reason": reason},
        )

    async def _serve(self, servable: ServableModel, host: str) -> None:
        """Take calls at an address of this node, and watch what may end meanwhile."""
        spec = self._spec
        self._server = HttpServer(self._app, host, tls=self._tls)
        self._server.start()
        self._reports.note(
            host=self._server.host,
            port=self._server.port,
            runtime=servable.runtime,
            device=self._model.device,
            provider=provider_of(self._model),
        )
        self._payload_delivery = PayloadDelivery(spec.app, self._app.payloads, self._gateway.record.remote)
        self._watching.append(asyncio.create_task(self._payload_delivery.run()))
        self._ready_at = time.time()
        self._reports.note(ready_since=self._ready_at)
        if isinstance(self._model, OpenAIModel):
            self._engine_numbers = EngineNumbers(self._model.socket)
        if servable.child is not None:
            self._watching.append(asyncio.create_task(self._end_with(servable.child)))
        if isinstance(self._model, TensorModel):
            self._watching.append(asyncio.create_task(self._end_stuck()))
        if self._memory is not None:
            self._watching.append(asyncio.create_task(self._end_used_up(self._memory)))
        self._hang = HangTimer(spec.node.home, f"{spec.app}.call")
        if threads := self._hang.earlier():
            log.error("worker.hung", extra={**spec.names, "threads": threads})
        self._hang.keep(spec.serving.queue.compute_seconds + _HANG_SECONDS)
        ready = {"port": self._server.port, "runtime": servable.runtime}
        log.info("worker.ready", extra={**spec.names, **ready})
        await self._reports.change(WorkerState.READY)

    async def _load(self) -> ServableModel:
        """Bring the kit here, and load it once this process is contained."""
        opened = await asyncio.to_thread(self._loader.open)
        # Nothing is asked of a registry from now on.
        self._spec = spec = without_credentials(self._spec)
        contained = WorkerContainment(spec.node.home, opened.kit.path, opened.compiled)
        contain = partial(contained.contain, has_child=opened.has_child)
        if opened.has_child:
            # The child contains itself before it reads the kit, and this process once the child has started.
            servable = await self._load_in_time(opened, contain)
            contain()
            use_contained_threads()
        else:
            contain(tries_first=opened.tries_first)
            use_contained_threads()
            servable = await self._load_in_time(opened, lambda: None)
            if opened.tries_first:
                contained.seal()
        self._contained = contained
        self._reports.note(contained=contained.on, not_contained=contained.off)
        return servable

    async def check_health(self) -> None:
        """Raise if this worker cannot answer."""
        await asyncio.wait_for(self._server.check(), _HEALTH_SECONDS)
        if not self._app.is_alive():
            raise RuntimeError(self._app.failure())
        # A kit that is served is in use, however long ago it was loaded.
        self._lease.touch()

    def autoscaling_stats(self) -> dict[str, float]:
        """Return how many calls are inside, and for how long there were none."""
        ongoing = self._tally.ongoing
        idle_seconds = self._idle_seconds()
        if self._must_sleep and not ongoing:
            # However long it would have been kept: another model needs its place.
            idle_seconds = math.inf
        return {ONGOING: float(ongoing), IDLE: idle_seconds}

    def _idle_seconds(self) -> float:
        """Return for how long this worker has had no call."""
        return 0.0 if self._tally.ongoing else time.time() - max(self._ready_at, self._tally.last_call)

    async def stop(self) -> None:
        """Leave the edge, answer the calls inside, close."""
        await self._drain(self._spec.node.drain_seconds)
        await self._reports.change(WorkerState.DRAINING)
        self._reporting.cancel()
        for task in self._watching:
            task.cancel()
        await self._payload_delivery.deliver()
        self._hang.stop()
        await asyncio.to_thread(self._close)
        log.info("worker.stopped", extra=self._spec.names)

    async def _drain(self, seconds: float, detail: str = "") -> None:
        """Leave the edge, and answer the calls inside for `seconds` at most from then on."""
        await self._reports.change(WorkerState.DRAINING, detail)
        await asyncio.sleep(_EDGE_SECONDS)
        deadline = time.monotonic() + seconds
        while self._tally.ongoing and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if self._tally.ongoing:
            log.warning("worker.abandoned", extra={**self._spec.names, "calls": self._tally.ongoing})

    def _close(self) -> None:
        self._server.stop()
        self._app.stop()
        self._model.close()
        self._contained.close()

    async def _end_with(self, engine: ModelInChild) -> None:
        """End this process once its engine has ended, or hangs: Serve starts another worker in its place."""
        # Whether the kit's own Python hangs, its calls tell.
        reason = foreign_text(await (end_of(engine) if isinstance(engine, OpenAIModel) else ended(engine)))
        log.error("worker.engine_ended", extra={**self._spec.names, "reason": reason})
        if engine.is_alive():
            await asyncio.to_thread(engine.close)
        # The calls inside are answered first, with errors.
        await asyncio.sleep(_EDGE_SECONDS)
        await asyncio.to_thread(engine.close)
        os._exit(1)

    async def _load_in_time(self, opened: OpenedKit, before_model: Callable[[], None]) -> ServableModel:
        """Load the model, within its time."""
        loading = asyncio.create_task(asyncio.to_thread(self._loader.load, opened, before_model))
        futures: set[asyncio.Future[Any]] = {loading, self._overdue}
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        return loading.result() if loading.done() else self._overdue.result()

    def _give_up_load(self, failure: UnusableModel) -> None:
        """Fail, although the model still loads; the load limit calls this, from a thread of its own."""
        self._overdue.get_loop().call_soon_threadsafe(self._overdue.set_exception, failure)

    async def _end_stuck(self) -> None:
        """End this process once a call cannot be ended: Serve starts another worker in its place."""
        reason = await stuck(self._app, self._server)
        log.error("worker.stuck", extra={**self._spec.names, "reason": reason})
        await self._reports.change(WorkerState.DRAINING, reason)
        # The answers are on their way, and the edge sends no more calls.
        await asyncio.sleep(_EDGE_SECONDS)
        os._exit(1)

    async def _end_used_up(self, memory: MemoryLimit) -> None:
        """End this process once its memory is used up, after the calls that it has."""
        reason = await memory.used_up()
        log.error("worker.memory_used_up", extra={**self._spec.names, "reason": reason})
        await self._drain(_LAST_CALLS_SECONDS, reason)
        os._exit(1)

    async def _end_replaced(self) -> None:
        """End this process as another worker takes its place, after the calls that it has."""
        log.info("worker.replaced", extra=self._spec.names)
        await self._drain(self._spec.node.drain_seconds)
        # What it counted last is the gateway's by now or never.
        await self._reports.change(WorkerState.DRAINING)
        await asyncio.to_thread(self._close)
        os._exit(0)

    def _present(self, report: Announcement) -> Announcement:
        """Return a report with what is the case now."""
        engine, generating = self._engine_numbers, self._tally.generating
        has_port = bool(report.port)
        numbers = self._tally.numbers()
        numbers.log_lines = self._log_counts.totals()
        numbers.refused_bodies = self._server.refused_bodies if has_port else 0
        return replace(
            report,
            ongoing=self._tally.ongoing,
            generating=generating,
            kv_cache_usage=None if engine is None else engine.kv_cache_usage(generating),
            idle_seconds=self._idle_seconds() if has_port else 0.0,
            queued=self._app.queued if has_port else 0,
            not_batched=self._app.not_batched if has_port else "",
            memory_bytes=family_resident_bytes() if self._loader.has_child else resident_bytes(),
            gpu_memory_bytes=None if self._gpus is None else family_gpu_bytes(self._gpus.latest()),
            numbers=numbers,
        )

    def _follow(self, report: Announcement, instructions: Instructions) -> None:
        """Do what the gateway answers to a report."""
        reports = self._reports
        self._must_sleep = instructions.must_sleep
        if instructions.must_end and reports.state is WorkerState.READY:
            reports.note(state=WorkerState.DRAINING)
            self._watching.append(asyncio.create_task(self._end_replaced()))
        if report.port:
            self._app.mirror(instructions.mirroring)
            self._app.payloads.set_rules(instructions.payloads)

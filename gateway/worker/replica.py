"""One Serve replica that runs one kit version: library, runtime, app, HTTP server.

Serve places it, restarts it, checks its health and shuts it down. Calls do not come through Serve but
straight from the edge, to the replica's own HTTP server.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from dataclasses import replace
from typing import Any

import ray
from ray import serve

from gateway.contract import Announcement, Description, Instructions, Passing, WorkerSpec, WorkerState
from gateway.errors import KitserveError
from gateway.home import keep_private
from gateway.logs.events import configure_logging
from gateway.metrics.memory import family_resident_bytes, resident_bytes
from gateway.metrics.tally import Tally
from gateway.proxies import bypass_proxies
from gateway.wire.server import HttpServer
from gateway.worker.assembly import build_app
from gateway.worker.delivery import Delivery
from gateway.worker.engine_numbers import EngineNumbers
from gateway.worker.engine_watch import end_of, ended
from gateway.worker.handle_port import keep_on_loopback
from gateway.worker.loading import Loader, closed_on_failure
from gateway.worker.scaling import IDLE, ONGOING
from gateway.worker.version import Identity
from runtimes.base import ModelInChild
from runtimes.engines.base import OpenAIModel

ANNOUNCE_SECONDS = 1.0
_GATEWAY_SECONDS = 5.0
_HEALTH_SECONDS = 5.0
# So long after it is told, the edge sends no more calls to this worker.
_EDGE_SECONDS = 0.5

log = logging.getLogger(__name__)


class Worker:
    """The deployment class. Its construction ends when the model can answer, or raises why it cannot."""

    async def __init__(self, spec: WorkerSpec) -> None:  # type: ignore[misc]  # Serve awaits it
        keep_private()
        configure_logging("worker", spec.node.home)
        # On a cluster, the environment is that of the node's own Ray.
        bypass_proxies()
        if spec.node.host:
            keep_on_loopback(spec.node.host)
        self._spec = spec
        self._tally = Tally()
        self._gateway = serve.get_app_handle(spec.node.gateway)
        self._announcement = Announcement(
            worker=serve.get_replica_context().replica_id.unique_id, app=spec.app, state=WorkerState.PULLING
        )
        self._numbers = itertools.count(1)
        self._delivery = Delivery(spec.names)
        self._loader = Loader(spec, self._tally, self._note)
        self._description: Description | None = None
        self._must_describe = False
        self._engine_numbers: EngineNumbers | None = None
        self._watching: asyncio.Task[None] | None = None
        self._announcing = asyncio.create_task(self._announce_for_ever())
        try:
            servable = await asyncio.to_thread(self._loader.load)
            self._model, self._description, self._lease = servable.model, servable.description, servable.lease
            identity = Identity(spec.model, spec.reference.label, str(spec.reference.digest))
            with closed_on_failure(self._model):
                self._app = build_app(identity, self._model, self._tally, servable.options)
        except Exception as error:
            is_expected = isinstance(error, KitserveError)
            reason = str(error) if is_expected else f"{type(error).__name__}: {error}"
            self._note(passing=Passing.of(error))
            self._tally.failed_to("pull" if self._announcement.state is WorkerState.PULLING else "load")
            await self._report(WorkerState.FAILED, reason)
            log.log(
                logging.WARNING if is_expected else logging.ERROR,
                "worker.failed",
                exc_info=not is_expected,
                extra={**spec.names, "reason": reason},
            )
            self._announcing.cancel()
            raise
        node_address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._server = HttpServer(self._app, spec.node.host or node_address)
        self._server.start()
        self._note(
            host=self._server.host,
            port=self._server.port,
            runtime=servable.runtime,
            device=self._model.device,
        )
        self._ready_at = time.time()
        if isinstance(self._model, OpenAIModel):
            self._engine_numbers = EngineNumbers(self._model.socket)
        if servable.child is not None:
            self._watching = asyncio.create_task(self._end_with(servable.child))
        ready = {"port": self._server.port, "runtime": servable.runtime}
        log.info("worker.ready", extra={**spec.names, **ready})
        await self._report(WorkerState.READY)

    async def check_health(self) -> None:
        """Raise if this worker cannot answer; Serve calls this."""
        await asyncio.wait_for(self._server.check(), _HEALTH_SECONDS)
        if not self._app.is_alive():
            raise RuntimeError(self._app.failure())
        # A kit that is served is in use, however long ago it was loaded.
        self._lease.touch()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return how many calls are inside, and for how long there were none; for Serve's autoscaling."""
        ongoing = self._tally.ongoing
        idle_seconds = 0.0 if ongoing else time.time() - max(self._ready_at, self._tally.last_call)
        return {ONGOING: float(ongoing), IDLE: idle_seconds}

    async def is_awake(self) -> bool:
        """Answer through Serve: a call that waits for this is what starts the first worker."""
        return True

    async def __del__(self) -> None:
        """Leave the edge, answer the calls inside, close. Serve calls this once, at its shutdown."""
        if not hasattr(self, "_server"):
            return
        await self._report(WorkerState.DRAINING)
        await asyncio.sleep(_EDGE_SECONDS)
        deadline = time.monotonic() + self._spec.node.drain_seconds
        while self._tally.ongoing and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if self._tally.ongoing:
            log.warning("worker.abandoned", extra={**self._spec.names, "calls": self._tally.ongoing})
        await self._report(WorkerState.DRAINING)
        self._announcing.cancel()
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.to_thread(self._close)
        log.info("worker.stopped", extra=self._spec.names)

    def _note(self, **changes: Any) -> None:
        """Change what is announced next."""
        self._announcement = replace(self._announcement, **changes)

    def _close(self) -> None:
        self._server.stop()
        self._app.stop()
        self._model.close()

    async def _announce_for_ever(self) -> None:
        while True:
            await self._announce()
            await asyncio.sleep(ANNOUNCE_SECONDS)

    async def _end_with(self, engine: ModelInChild) -> None:
        """End this process once its engine has ended, or hangs: Serve starts another worker in its place."""
        # Whether the kit's own Python hangs, its calls tell.
        reason = await (end_of(engine) if isinstance(engine, OpenAIModel) else ended(engine))
        log.error("worker.engine_ended", extra={**self._spec.names, "reason": reason})
        if engine.is_alive():
            await asyncio.to_thread(engine.close)
        # The calls inside are answered first, with errors.
        await asyncio.sleep(_EDGE_SECONDS)
        await asyncio.to_thread(engine.close)
        os._exit(1)

    async def _report(self, state: WorkerState, detail: str = "") -> None:
        """Change this worker's state and report it at once."""
        self._note(state=state, detail=detail)
        await self._announce()

    async def _announce(self) -> None:
        numbers, generating = self._engine_numbers, self._tally.generating
        announcement = replace(
            self._announcement,
            ongoing=self._tally.ongoing,
            generating=generating,
            kv_cache_usage=None if numbers is None else numbers.kv_cache_usage(generating),
            queued=self._app.queued if self._announcement.port else 0,
            not_batched=self._app.not_batched if self._announcement.port else "",
            memory_bytes=family_resident_bytes() if self._loader.has_child else resident_bytes(),
            numbers=self._tally.numbers(),
            description=self._description if self._must_describe else None,
            number=next(self._numbers),
        )
        try:
            instructions: Instructions = await asyncio.wait_for(
                self._gateway.announce.remote(announcement), _GATEWAY_SECONDS
            )
        except Exception as error:
            # A gateway that is being restarted gets the next announcement.
            self._delivery.failed(error)
            return
        self._delivery.succeeded()
        self._must_describe = instructions.describe
        if announcement.port:
            self._app.mirror(instructions.mirroring)

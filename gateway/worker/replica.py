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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray import serve
from rich.filesize import decimal

from gateway.codec.predict.image_settings import ImageSettings, UnusableImageSettings
from gateway.codec.predict.images import takes_images
from gateway.contract import Announcement, Description, Instructions, Passing, WorkerSpec, WorkerState
from gateway.engine.first_call import answer_first_call
from gateway.errors import KitserveError, UnusableModel
from gateway.kits.kit import Kit
from gateway.kits.language import language_model
from gateway.kits.library import Library, UnpackedKit, cache_directory
from gateway.kits.mlflow import mlflow_model
from gateway.kits.model import choose_runtime, load
from gateway.kits.stated import stated_signature, with_stated_signature
from gateway.logs.events import configure_logging
from gateway.metrics.memory import family_resident_bytes, resident_bytes
from gateway.metrics.tally import Tally
from gateway.proxies import bypass_proxies
from gateway.serving import NOTHING_STATED, Generation
from gateway.wire.server import HttpServer
from gateway.worker.admission import Admission
from gateway.worker.assembly import build_app
from gateway.worker.delivery import Delivery
from gateway.worker.describe import describe
from gateway.worker.engine_numbers import EngineNumbers
from gateway.worker.engine_watch import end_of, ended
from gateway.worker.example import KitExample
from gateway.worker.first_prompt import answer_first_prompt
from gateway.worker.golden import golden_inputs, golden_prompt
from gateway.worker.image_settings import read_image_settings
from gateway.worker.labels import Labels, UnusableLabels, combined, own_labels, read_labels
from gateway.worker.scaling import IDLE, ONGOING
from gateway.worker.version import AppOptions, Identity
from runtimes.base import LoadedModel, ModelInChild, Signature, TensorModel
from runtimes.engines.base import EngineRuntime, OpenAIModel
from runtimes.errors import Unsupported
from runtimes.python.runtime import PythonOptions, PythonRuntime
from runtimes.text_model import TextModel

ANNOUNCE_SECONDS = 1.0
_GATEWAY_SECONDS = 5.0
_HEALTH_SECONDS = 5.0
# So long after it is told, the edge sends no more calls to this worker.
_EDGE_SECONDS = 0.5

log = logging.getLogger(__name__)


class Worker:
    """The deployment class. Its construction ends when the model can answer, or raises why it cannot."""

    async def __init__(self, spec: WorkerSpec) -> None:  # type: ignore[misc]  # Serve awaits it
        configure_logging("worker", spec.node.home)
        # On a cluster, the environment is that of the node's own Ray.
        bypass_proxies()
        self._spec = spec
        self._tally = Tally()
        self._gateway = serve.get_app_handle(spec.node.gateway)
        self._announcement = Announcement(
            worker=serve.get_replica_context().replica_id.unique_id, app=spec.app, state=WorkerState.PULLING
        )
        self._numbers = itertools.count(1)
        self._delivery = Delivery(self._names)
        self._description: Description | None = None
        self._must_describe = False
        self._has_child = False
        self._engine_numbers: EngineNumbers | None = None
        self._child: ModelInChild | None = None
        self._watching: asyncio.Task[None] | None = None
        self._announcing = asyncio.create_task(self._announce_for_ever())
        try:
            self._model, self._runtime, options = await asyncio.to_thread(self._load)
            identity = Identity(spec.model, spec.reference.label, str(spec.reference.digest))
            with _closed_on_failure(self._model):
                self._app = build_app(identity, self._model, self._tally, options)
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
                extra={**self._names, "reason": reason},
            )
            self._announcing.cancel()
            raise
        node_address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._server = HttpServer(self._app, spec.node.host or node_address)
        self._server.start()
        self._note(
            host=self._server.host,
            port=self._server.port,
            runtime=self._runtime,
            device=self._model.device,
        )
        self._ready_at = time.time()
        if isinstance(self._model, OpenAIModel):
            self._engine_numbers = EngineNumbers(self._model.socket)
        if self._child is not None:
            self._watching = asyncio.create_task(self._end_with(self._child))
        log.info("worker.ready", extra={**self._names, "port": self._server.port, "runtime": self._runtime})
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
            log.warning("worker.abandoned", extra={**self._names, "calls": self._tally.ongoing})
        await self._report(WorkerState.DRAINING)
        self._announcing.cancel()
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.to_thread(self._close)
        log.info("worker.stopped", extra=self._names)

    @property
    def _names(self) -> dict[str, Any]:
        spec, reference = self._spec, self._spec.reference
        names = {"model": spec.model, "version": reference.label, "digest": str(reference.digest)}
        return {**names, "app": spec.app}

    def _load(self) -> tuple[LoadedModel, str, AppOptions]:
        """Bring the kit to this node and load it; returns the model, its runtime's name, and its options."""
        spec = self._spec
        library = Library(cache_directory(spec.node.home), spec.sources, spec.cache_limit)
        parents = [parent.reference for parent in spec.parents]
        kit = library.open(spec.reference.reference, self, policy=spec.policy, parents=parents)
        self._lease = kit.lease
        self._tally.opened(kit.pulled_bytes, kit.from_cache, kit.unpack_seconds)
        choice = choose_runtime(
            kit, spec.runtime, kit.verdict.code, spec.file, allow_pickles=kit.verdict.pickles
        )
        self._note(state=WorkerState.LOADING, detail="", runtime=choice.runtime.name)
        self._has_child = isinstance(choice.runtime, EngineRuntime | PythonRuntime)
        language = language_model(kit, choice, spec.serving)
        resources = spec.serving.resources
        admission = Admission(spec.node.home / "memory", waits=self._wait_for_memory)
        with admission.admitted(kit, choice, language, resources):
            self._note(detail="")
            started = time.perf_counter()
            loaded = load(
                kit, choice, resources, replace(language.options, name=spec.model), self._python_options(kit)
            )
        self._tally.loaded(time.perf_counter() - started)
        with _closed_on_failure(loaded):
            self._child = loaded if isinstance(loaded, ModelInChild) else None
            mlflow, example = mlflow_model(kit, choice), ""
            model = with_stated_signature(loaded, kit.kit, spec.serving.stated, mlflow)
            if isinstance(model, TensorModel):
                kit_example = KitExample.of(kit, mlflow, model.signature)
                self._answer_first_call(model, library, kit_example)
                example = kit_example.text
            elif isinstance(model, OpenAIModel):
                self._answer_first_prompt(model, language.generation, library)
            labels = combined(self._labels(kit), own_labels(model))
            image = self._image_settings(kit.kit)
            signature = model.signature if isinstance(model, TensorModel) else Signature((), ())
            tasks = model.tasks if isinstance(model, OpenAIModel | TextModel) else ()
            self._description = describe(
                kit.kit, model.platform, signature, labels, tasks, example, takes_images(signature, image)
            )
        options = AppOptions(
            spec.node.edge_key,
            labels,
            spec.serving.queue,
            spec.serving.batching,
            is_proven=not self._announcement.first_call,
            generation=language.generation,
            access_log=spec.node.access_log,
            image=image,
        )
        return model, choice.runtime.name, options

    def _python_options(self, kit: UnpackedKit) -> PythonOptions:
        """Return how the kit's own Python is started, as far as the config decides it."""
        spec = self._spec
        return PythonOptions(
            name=spec.model,
            stated=stated_signature(None, kit.kit, spec.serving.stated) or NOTHING_STATED,
            timeout=spec.serving.queue.timeout,
            note=lambda detail: self._note(detail=detail),
        )

    def _answer_first_call(self, model: TensorModel, library: Library, example: KitExample) -> None:
        """Prove that a call can succeed. Raises UnusableModel where none can; anything else is noted."""
        spec, inputs = self._spec, None
        if spec.golden is not None:
            reference = spec.reference.reference
            inputs = golden_inputs(library, reference, spec.golden, spec.policy, model.signature)
        started = time.perf_counter()
        try:
            if inputs is not None:
                reason = answer_first_call(model, inputs)
            else:
                reason = answer_first_call(model, example.inputs, pass_over=example.pass_over)
        except Unsupported as error:
            raise UnusableModel(f"{spec.reference}: no call can be answered: {error}") from error
        if self._child is not None and not self._child.is_alive():
            raise UnusableModel(f"{spec.reference}: its first call ended it: {self._child.failure()}")
        self._note_first_call(reason, started)

    def _answer_first_prompt(self, model: OpenAIModel, generation: Generation, library: Library) -> None:
        """Have a language model answer a call; that it does not is noted. Raises UnusableModel."""
        spec, prompt = self._spec, None
        if spec.golden is not None:
            prompt = golden_prompt(library, spec.reference.reference, spec.golden, spec.policy)
        started = time.perf_counter()
        self._note_first_call(answer_first_prompt(model, spec.model, generation, prompt), started)

    def _note_first_call(self, reason: str, started: float) -> None:
        self._note(first_call=reason)
        seconds = round(time.perf_counter() - started, 3)
        level = logging.WARNING if reason else logging.INFO
        log.log(level, "worker.first_call", extra={**self._names, "seconds": seconds, "reason": reason})

    def _image_settings(self, kit: Kit) -> ImageSettings | None:
        """Return what the kit says about images; a kit whose settings cannot be read is served without."""
        try:
            return read_image_settings(kit)
        except UnusableImageSettings as error:
            log.warning("image_settings.unusable", extra={**self._names, "reason": str(error)})
            return None

    def _labels(self, kit: UnpackedKit) -> Labels:
        """Return the kit's labels; a kit whose labels cannot be read is served without them."""
        try:
            return read_labels(kit)
        except (UnusableLabels, OSError) as error:
            log.warning("labels.unusable", extra={**self._names, "reason": str(error)})
            return {}

    def _note(self, **changes: Any) -> None:
        """Change what is announced next."""
        self._announcement = replace(self._announcement, **changes)

    def pulling(self, done: int, total: int) -> None:
        """Note how many bytes were pulled; the library calls this."""
        self._note(detail=f"{decimal(done)} of {decimal(total)}")

    def unpacking(self) -> None:
        """Note that the kit is being unpacked; the library calls this."""
        self._note(detail="unpacking")

    def _wait_for_memory(self) -> None:
        """Note that other models are loaded first; the admission calls this."""
        self._note(detail="waits for the memory until another model is loaded")

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
        log.error("worker.engine_ended", extra={**self._names, "reason": reason})
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
            memory_bytes=family_resident_bytes() if self._has_child else resident_bytes(),
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


@contextmanager
def _closed_on_failure(model: LoadedModel) -> Iterator[None]:
    """Close a model that is not to be served after all: its engine may be a process of its own."""
    try:
        yield
    except BaseException:
        model.close()
        raise

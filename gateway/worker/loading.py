"""The way from a kit's reference to a model that can answer: fetch, choose, load, and a first call."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.filesize import decimal

from gateway.codec.predict.images import takes_images
from gateway.contract import Description, WorkerSpec, WorkerState
from gateway.engine.first_call import made_up
from gateway.engine.lanes import lanes_that_pay
from gateway.engine.running_bodies import RunningBodies, open_running_bodies
from gateway.errors import NoMemory, UnusableModel
from gateway.foreign_text import foreign_text
from gateway.gpus.nvml import read_gpus
from gateway.home import make_private
from gateway.kits.compiled import compiled_directory, directory_for, gpu_kind
from gateway.kits.declared import check_declared
from gateway.kits.language import LanguageModel, language_model
from gateway.kits.library import Library, UnpackedKit, cache_directory
from gateway.kits.mlflow import mlflow_model
from gateway.kits.model import choose_runtime, load
from gateway.kits.stated import stated_signature, with_stated_signature
from gateway.metrics.memory import family
from gateway.metrics.tally import Tally
from gateway.oci.leases import Lease
from gateway.serving import NOTHING_STATED, Generation
from gateway.tracing.call_trace import Tracer
from gateway.worker.admission import MEMORY_DIRECTORY, Admission
from gateway.worker.containment import without_credentials
from gateway.worker.describe import describe
from gateway.worker.example import KitExample
from gateway.worker.first_call import FirstCall, Note
from gateway.worker.golden import FetchedDataset
from gateway.worker.gpu_admission import Placed
from gateway.worker.gpu_loading import claim_gpus
from gateway.worker.kit_settings import usable_image_settings, usable_labels
from gateway.worker.labels import combined, own_labels
from gateway.worker.load_limit import LoadLimit
from gateway.worker.version import AppOptions
from runtimes.base import LoadedModel, ModelInChild, Resources, Signature, TensorModel
from runtimes.device_errors import device_failure
from runtimes.engines.base import EngineRuntime, OpenAIModel
from runtimes.errors import DeviceOutOfMemory
from runtimes.memory_errors import is_out_of_memory
from runtimes.python.runtime import PythonOptions, PythonRuntime
from runtimes.select import Choice
from runtimes.signature import CPU
from runtimes.text_model import TextModel

# The runtimes that use `runtimes.trial`.
_TRYING = ("catboost", "skops", "sklearn")
# Those whose engine may compile a model, see `Resources.engine_cache`.
_COMPILING = ("onnx",)
# The first axis and the others of a call by which it is measured whether to run several at once.
_LANE_SIZES = (1, 32)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServableModel:
    """A loaded model, and what its worker serves it with."""

    model: LoadedModel
    runtime: str
    """The name of its runtime."""
    child: ModelInChild | None
    """The model, where it runs in a process of its own."""
    options: AppOptions
    description: Description
    lease: Lease
    """Keeps the kit's directory on this node."""


@dataclass(frozen=True, slots=True)
class OpenedKit:
    """A kit that is on this node, and how it is to be loaded; nothing more is fetched for that."""

    kit: UnpackedKit
    choice: Choice
    datasets: FetchedDataset
    running: RunningBodies | None
    """Where it is written down what the model works on; None: nowhere."""
    compiled: Path | None = None
    """Where its engine keeps what it compiles for GPUs; None: nowhere."""

    @property
    def has_child(self) -> bool:
        """Whether its model runs in a process of its own."""
        return isinstance(self.choice.runtime, EngineRuntime | PythonRuntime)

    @property
    def tries_first(self) -> bool:
        """Whether its file may be loaded by a child process first."""
        return self.choice.runtime.name in _TRYING


class Loader:
    """Loads the model of one worker; what happens meanwhile is told by `note` and counted in `tally`.

    It is the progress of its own pull, see `gateway.kits.pull.Progress`.
    """

    def __init__(self, spec: WorkerSpec, tally: Tally, note: Note, limit: LoadLimit) -> None:
        self._limit = limit
        self._spec = spec
        self._tally = tally
        self._note = note
        self._compiled: Path | None = None
        self._placed: Placed | None = None
        self.has_child = False
        """Whether the model runs in a process of its own; known before that is started."""

    def open(self) -> OpenedKit:
        """Bring the kit to this node, and all that is fetched beside it. Raises KitserveError."""
        spec = self._spec
        # On a cluster, each node has a home of its own.
        make_private(spec.node.home)
        library = Library(
            cache_directory(spec.node.home), spec.sources, spec.cache_limit, self._wait_for_lock
        )
        parents = [parent.reference for parent in spec.parents]
        kit = library.open(spec.reference.reference, self, policy=spec.policy, parents=parents)
        self._tally.opened(kit.pulled_bytes, kit.from_cache, kit.unpack_seconds)
        choice = choose_runtime(
            kit, spec.runtime, kit.verdict.code, spec.file, allow_pickles=kit.verdict.pickles
        )
        self._note(state=WorkerState.LOADING, detail="", runtime=choice.runtime.name)
        datasets = FetchedDataset(library, spec.reference.reference, spec.golden, spec.policy)
        running = open_running_bodies(spec.node.home / "running", spec.app)
        if spec.serving.resources.wants_gpu and choice.runtime.name in _COMPILING:
            self._compiled = compiled_directory(cache_directory(spec.node.home), kit.path.name)
        opened = OpenedKit(kit, choice, datasets, running, self._compiled)
        self.has_child = opened.has_child
        self._spec = without_credentials(spec)
        return opened

    def load(self, opened: OpenedKit, before_model: Callable[[], None]) -> ServableModel:
        """Load the model and have it answer a first call.

        Args:
            opened: the kit.
            before_model: called in between, where a child has loaded the kit's Python and this process is to
                load the model that is beside that.

        Raises:
            KitserveError: where that fails; UnusableModel where no call on the model can succeed.
        """
        kit, choice = opened.kit, opened.choice
        language = language_model(kit, choice, self._spec.serving)
        loaded = self._load_admitted(kit, choice, language, before_model)
        with closed_on_failure(loaded), self._limit.held():
            servable = self._prove(opened, loaded, language.generation)
            self._measure()
            return servable

    def _measure(self) -> None:
        """Note what the model has taken of its GPUs, after its first call."""
        if self._placed is not None:
            used = self._placed.used(family())
            self._placed.loaded(used)
            self._note(gpu_bytes=used)

    def pulling(self, done: int, total: int) -> None:
        """Note how many bytes were pulled; the library calls this."""
        self._note(detail=f"{decimal(done)} of {decimal(total)}")

    def unpacking(self) -> None:
        """Note that the kit is being unpacked; the library calls this."""
        self._note(detail="unpacking")

    def _load_admitted(
        self, kit: UnpackedKit, choice: Choice, language: LanguageModel, before_model: Callable[[], None]
    ) -> LoadedModel:
        """Load the model on what is to compute it: a GPU, or the CPU where that may."""
        resources = self._spec.serving.resources
        if resources.wants_gpu:
            try:
                return self._load_on_gpu(kit, choice, language, before_model)
            except (UnusableModel, NoMemory) as error:
                if not resources.may_use_cpu:
                    raise
                log.warning("worker.on_cpu", extra={**self._spec.names, "reason": str(error)})
                # The status names the version beside it.
                trouble = str(error).removeprefix(f"{kit.kit.reference}: ")
                self._note(gpu_trouble=trouble, gpu_wait="")
        on_cpu = replace(resources, gpus=0.0, gpu_memory=None, accelerator=None, device=CPU)
        return self._load_on(on_cpu, kit, choice, language, before_model)

    def _load_on_gpu(
        self, kit: UnpackedKit, choice: Choice, language: LanguageModel, before_model: Callable[[], None]
    ) -> LoadedModel:
        """Load the model on the GPUs that it gets by their memory, or that Ray has given it."""
        resources = self._spec.serving.resources
        placed = claim_gpus(self._spec, kit, choice, language, self._wait_for_gpu)
        self._note(detail="", gpu_wait="")
        if placed is None:
            return self._load_on(resources, kit, choice, language, before_model)
        number = resources.gpus or float(len(placed.devices))
        on_gpu = replace(resources, gpus=number, accelerator=None, device=None)
        try:
            loaded = self._load_on(on_gpu, kit, choice, language, before_model)
        except BaseException:
            placed.release()
            raise
        self._placed = placed
        self._note(gpus=placed.names)
        return loaded

    def _load_on(
        self,
        resources: Resources,
        kit: UnpackedKit,
        choice: Choice,
        language: LanguageModel,
        before_model: Callable[[], None],
    ) -> LoadedModel:
        """Load the model once there is memory for it, where its need is known."""
        spec = self._spec
        admission = Admission(spec.node.home / MEMORY_DIRECTORY, waits=self._wait_for_memory)
        with admission.admitted(kit, choice, language, resources):
            self._note(detail="")
            started = time.perf_counter()
            engine_options = replace(language.options, name=spec.model)
            with self._limit.held():
                try:
                    loaded = load(
                        kit,
                        choice,
                        self._with_engine_cache(resources),
                        engine_options,
                        self._python_options(kit, before_model),
                    )
                except Exception as error:
                    if isinstance(device_failure(error), DeviceOutOfMemory):
                        raise UnusableModel(
                            f"{spec.reference}: to load, it needs more of the GPU's memory than it gets; "
                            f"give it more, or a GPU with more free ({type(error).__name__}: {error})"
                        ) from error
                    if resources.memory is None or not is_out_of_memory(error):
                        raise
                    raise UnusableModel(
                        f"{spec.reference}: to load, it needs more than the {decimal(resources.memory)} of "
                        f"`resources.memory`; give it more ({type(error).__name__}: {error})"
                    ) from error
        self._tally.loaded(time.perf_counter() - started)
        return loaded

    def _with_engine_cache(self, resources: Resources) -> Resources:
        """Return the resources with the directory for what the engine compiles for the worker's GPU."""
        if self._compiled is None or resources.gpus <= 0:
            return resources
        kind = gpu_kind(read_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        return replace(resources, engine_cache=directory_for(self._compiled, kind))

    def _wait_for_gpu(self, reason: str) -> None:
        """Note what there is no room for; the admission calls this."""
        self._note(detail=f"waits for a GPU: {reason}", gpu_wait=reason)

    def _wait_for_memory(self) -> None:
        """Note that other models are loaded first; the admission calls this."""
        self._note(detail="waits for the memory until another model is loaded")

    def _wait_for_lock(self, what: str) -> None:
        """Note which lock is waited for; the library calls this."""
        self._note(detail=what)

    def _python_options(self, kit: UnpackedKit, before_model: Callable[[], None]) -> PythonOptions:
        """Return how the kit's own Python is started, as far as the config decides it."""
        spec = self._spec
        return PythonOptions(
            name=spec.model,
            stated=stated_signature(None, kit.kit, spec.serving.stated) or NOTHING_STATED,
            timeout=spec.serving.queue.compute_timeout or spec.serving.queue.timeout,
            note=lambda detail: self._note(detail=detail),
            before_model=before_model,
        )

    def _prove(self, opened: OpenedKit, loaded: LoadedModel, generation: Generation) -> ServableModel:
        """Have a loaded model answer a first call, and describe it."""
        spec, kit, choice, datasets = self._spec, opened.kit, opened.choice, opened.datasets
        first_call = FirstCall(spec, self._note)
        mlflow, example, failure, lanes = mlflow_model(kit, choice), "", "", 1
        child = loaded if isinstance(loaded, ModelInChild) else None
        model = with_stated_signature(loaded, kit.kit, spec.serving.stated, mlflow)
        if isinstance(model, TensorModel):
            check_declared(kit.kit, model.signature)
        if isinstance(model, TensorModel):
            kit_example = KitExample.of(kit, mlflow, model.signature)
            failure = first_call.answer_call(model, child, datasets, kit_example)
            example = kit_example.text
            if not failure:
                inputs = kit_example.inputs or made_up(model.signature, _LANE_SIZES) or {}
                lanes = lanes_that_pay(model, inputs)
        elif isinstance(model, OpenAIModel):
            failure = first_call.answer_prompt(model, generation, datasets)
        labels = usable_labels(kit, spec)
        image = usable_image_settings(kit.kit, spec)
        signature = model.signature if isinstance(model, TensorModel) else Signature((), ())
        tasks = model.tasks if isinstance(model, OpenAIModel | TextModel) else ()
        description = describe(
            kit.kit,
            model.platform,
            signature,
            combined(labels, own_labels(model)),
            tasks,
            example,
            takes_images(signature, image),
        )
        tls = spec.node.tls
        description = replace(description, trust=foreign_text(kit.verdict.signature))
        options = AppOptions(
            spec.node.edge_key,
            None if tls is None else tls.client_context(),
            labels,
            spec.serving.queue,
            spec.serving.batching,
            lanes=lanes,
            is_proven=not failure,
            generation=generation,
            access_log=spec.node.access_log,
            image=image,
            running=opened.running,
            tracer=Tracer() if spec.node.is_traced else None,
        )
        return ServableModel(model, choice.runtime.name, child, options, description, kit.lease)


@contextmanager
def closed_on_failure(model: LoadedModel) -> Iterator[None]:
    """Close a model that is not to be served after all: its engine may be a process of its own."""
    try:
        yield
    except BaseException:
        model.close()
        raise

"""What a user writes about a model: its kit, and how its versions are run."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import ByteSize, Field, field_validator, model_validator

from gateway.config.calls import Batching, Queue, Timeout
from gateway.config.faults import faults_at
from gateway.config.kits import Seconds, Strict, Trust, fault
from gateway.config.language import Engine, Generation
from gateway.config.names import MODEL_NAME, STATISTICS
from gateway.config.payloads import Payloads
from gateway.config.rollout import Rollout
from gateway.config.tensors import Tensor, check_names
from gateway.config.variants import WrittenVariant, reference_of
from gateway.errors import InvalidReference, UnsafeArchive
from gateway.kits.limits import MAX_PARENTS
from gateway.kits.paths import safe_path
from gateway.oci.pinned import PinnedReference
from gateway.oci.reference import Reference, parse_reference
from gateway.serving import DEFAULT_LIMITS, LOAD_SECONDS, Scaling, Serving
from gateway.wire.limits import WAKE_SECONDS
from runtimes.signature import DEVICE_WORDS, Signature
from runtimes.signature import Resources as ModelResources

_RESOURCES = ModelResources()
_SCALING = Scaling()
_MAX_REPLICAS = 256
_LEAST_MEMORY = 256 * 1024 * 1024
_DEVICE_NAME = re.compile(r"[0-9]{1,3}|(?:GPU|MIG)-[0-9A-Za-z/-]{1,80}")
AUTO = "auto"
"""Stands in place of a runtime's name: the files decide."""


class Resources(Strict):
    """What each worker of the model may use."""

    cpus: Annotated[float, Field(gt=0, le=1024)] = _RESOURCES.cpus
    """How many threads the model computes with, rounded up. On a Ray cluster, Ray also reserves so many CPUs
    for the worker; on one machine it reserves none."""
    gpus: Annotated[float, Field(ge=0, le=64)] = _RESOURCES.gpus
    """How many GPUs Ray reserves for the worker: whole ones, or a share of one, such as 0.5. On one machine,
    a config that asks for more than there are is refused; on a cluster, workers wait for nodes with them."""

    memory: Annotated[ByteSize, Field(ge=_LEAST_MEMORY)] | None = None
    """How much memory the worker's process may take, and a process of the model's beside it, such as `2GiB`;
    absent, as much as there is. A call that needs more is answered with 507, and a worker that has used up
    almost all of it is replaced."""

    gpu_memory: Annotated[ByteSize, Field(ge=_LEAST_MEMORY)] | None = None
    """How much memory of a GPU the worker may use, such as `6GiB`, of each where it has several. Without
    `gpus`, it shares a GPU that has so much free. Absent, what its files tell or what was measured counts."""
    accelerator: str | None = None
    """The kind of GPU, by Ray's label of its nodes, such as `A100` or `H100`; absent, any."""
    device: str | None = None
    """What computes. `cpu`; `gpu`: one that has the memory; `prefer-gpu`: the same, or the CPU where none can
    be used; or the GPUs that it must have, by index or UUID: `"1"`, `GPU-…`, `MIG-…`, `0,1`. Absent, a GPU
    where `gpus` or `gpu_memory` is written."""

    @field_validator("device", mode="before")
    @classmethod
    def _device(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            return value
        value = ",".join(name.strip() for name in value.split(","))
        if value in DEVICE_WORDS or (
            all(map(_DEVICE_NAME.fullmatch, names := value.split(","))) and len({*names}) == len(names)
        ):
            return value
        raise ValueError(f"{value!r} is no device: {', '.join(DEVICE_WORDS)}, or GPUs by index or UUID")

    @field_validator("accelerator")
    @classmethod
    def _accelerator(cls, value: str | None) -> str | None:
        if value is not None and not MODEL_NAME.fullmatch(value):
            raise ValueError(f"{value!r} is no label of Ray's, such as A100 or H100")
        return value

    @model_validator(mode="after")
    def _one_device(self) -> Resources:
        asked = next((name for name in ("gpus", "gpu_memory", "accelerator") if getattr(self, name)), None)
        if self.device == "cpu" and asked is not None:
            raise faults_at({("device",): f"cpu, although `{asked}` asks for a GPU; write one of the two"})
        named = ModelResources(device=self.device).pinned
        if named and self.gpus not in (0, len(named)):
            message = f"names {len(named)} and `gpus` says {self.gpus:g}; leave out `gpus`"
            raise faults_at({("device",): message})
        if self.accelerator is not None and not ModelResources(**dict(self)).wants_gpu:
            raise faults_at(
                {("accelerator",): "says of what kind a GPU is, and none is asked for: add `gpus`"}
            )
        return self

    @field_validator("gpus")
    @classmethod
    def _whole_or_shared(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"{value:g} GPUs: a worker has a share of one GPU, or whole ones")
        return value


class Replicas(Strict):
    """How many workers run each version. A plain number fixes it: `replicas: 2`."""

    min: Annotated[int, Field(ge=0, le=_MAX_REPLICAS)] = _SCALING.min
    """The fewest workers. With 0, a version that nobody calls has no worker, and the next call starts one."""
    max: Annotated[int, Field(ge=1, le=_MAX_REPLICAS)] = _SCALING.max
    """The most workers; where only `min` is written, as many as that, but at least 1."""
    target_ongoing_requests: Annotated[float, Field(gt=0)] = _SCALING.target_ongoing_requests
    """How many calls a worker should have at a time. If there are more, workers are added."""
    upscale_delay: Seconds = _SCALING.upscale_delay
    """How long there must be too many calls before workers are added."""
    downscale_delay: Seconds = _SCALING.downscale_delay
    """How long there must be too few calls before workers are taken away."""
    downscale_to_zero_delay: Seconds = _SCALING.downscale_to_zero_delay
    """How long nobody must have called before the last worker is stopped, where `min` is 0."""
    wake_timeout: Annotated[Seconds, Field(le=WAKE_SECONDS)] = _SCALING.wake_timeout
    """How long a call waits for a version that has no worker yet, before it is answered with 503."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: object) -> object:
        if isinstance(value, dict):
            fewest = value.get("min")
            is_number = type(fewest) is int and 0 <= fewest <= _MAX_REPLICAS
            return {**value, "max": fewest or 1} if is_number and "max" not in value else value
        if isinstance(value, Replicas):
            return value
        if not isinstance(value, int) or isinstance(value, bool):
            raise fault("write how many workers there are, such as 2, or bounds, such as {min: 1, max: 4}")
        if value == 0:
            raise ValueError("0 workers answer nobody; {min: 0, max: 1} has one only while it is called")
        if not 0 < value <= _MAX_REPLICAS:
            raise ValueError(f"must be at least 1, and at most {_MAX_REPLICAS}, not {value}")
        return {"min": value, "max": value}

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is more than max ({self.max})")
        return self

    def scaling(self) -> Scaling:
        """Return these bounds as the value that a version carries."""
        return Scaling(**dict(self))


def _check_kit(value: str) -> str:
    try:
        reference = parse_reference(value)
    except InvalidReference as error:
        raise ValueError(str(error)) from None
    if reference.variant is not None:
        raise ValueError(f"{value}: write what is in the brackets as `variant` beside `kit`")
    return value


def _check_parents(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(value) > MAX_PARENTS:
        raise ValueError(f"a kit has at most {MAX_PARENTS} parents, not {len(value)}")
    for parent in value:
        try:
            PinnedReference.parse(parent)
        except InvalidReference as error:
            raise ValueError(str(error)) from None
    return value


def _check_file(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        path = safe_path(value)
    except UnsafeArchive as error:
        raise ValueError(f"name a file by its path within the kit: {error}") from None
    if not path:
        raise ValueError("name a file by its path within the kit, such as onnx/model.onnx")
    return path


class Canary(Strict):
    """A second version that gets a fixed share of the calls."""

    kit: str
    """The reference of the second kit."""
    weight: Annotated[int, Field(ge=0, le=100)]
    """How many percent of the calls that name no version go to it."""
    file: str | None = None
    """Which file of the second kit is the model; absent, that of the model's `file`, if it has one."""
    variant: WrittenVariant | None = None
    """Which kit is meant where the second `kit` is an index; absent, as the model's `variant` says."""
    parents: tuple[str, ...] = ()
    """The parents of the second kit, as the model's `parents`."""

    _kit = field_validator("kit")(_check_kit)
    _file = field_validator("file")(_check_file)
    _parents = field_validator("parents")(_check_parents)


class Served(Strict):
    """What each model says for itself: the name that clients call, and the kit that answers."""

    name: str
    """What clients call the model: letters, digits, `.`, `_` and `-`, at most 64, a letter or digit first."""
    kit: str
    """The reference of the kit."""
    parents: tuple[str, ...] = ()
    """The kit's parents, each with its digest, the nearest first: what `--locked` writes here from the lock.
    Absent, what the tags in the Kitfiles meant when the kit was first looked up."""

    _kit = field_validator("kit")(_check_kit)
    _parents = field_validator("parents")(_check_parents)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not MODEL_NAME.fullmatch(value):
            raise ValueError(f"{value!r} is not a model name: letters, digits, '.', '_' and '-', at most 64")
        if value == STATISTICS:
            raise ValueError(f"{value!r} is the path of the statistics of all models; choose another name")
        return value


class ModelSettings(Strict):
    """How a model is run; `defaults` says it for every model."""

    file: str | None = None
    """Which file of the kit is the model, as a path within the kit, such as `onnx/model_int8.onnx`. Absent,
    what the Kitfile's `model.path` names."""
    variant: WrittenVariant | None = None
    """Which kit is meant where `kit` is an index of several: by labels that only one of them has, such as
    `{quantization: q4_0}`, or `auto`, the largest that fits the memory that is free on the gateway's machine.
    Another variant is another version. Absent, the index's only kit."""
    runtime: str = AUTO
    """The name of the runtime that loads the model, such as `onnx`. `auto` chooses by the files' content."""
    resources: Resources = Resources()
    """What each worker may use."""
    inputs: tuple[Tensor, ...] = ()
    """What the model takes, where its file does not say it (TorchScript). It replaces what the Kitfile
    states, and what is left out is as the file has it."""
    outputs: tuple[Tensor, ...] = ()
    """What the model gives, likewise."""
    engine: Engine = Engine()
    """How the engine of a language model is started."""
    generation: Generation = Generation()
    """What calls on a language model have that do not say it themselves."""
    replicas: Replicas = Replicas()
    """How many workers run each version: a plain number, or bounds."""
    batching: Batching | None = None
    """Which calls run together; absent, each runs alone, but on models of texts those that come together."""
    queue: Queue = Queue()
    """How much may wait for each worker."""
    timeout: Timeout = DEFAULT_LIMITS.timeout
    """How long a call may wait for the model, whatever its caller says; at most 75s."""
    compute_timeout: Annotated[Seconds, Field(gt=0)] | None = None
    """How long the model may compute a call; absent, 10 s longer than `timeout`. A call that takes longer is
    ended with 504, and where the model does not end it, its worker is replaced."""
    load_timeout: Annotated[Seconds, Field(ge=1)] = LOAD_SECONDS
    """How long a model may take to load, once its kit is on the machine; then its version has failed."""
    rollout: Rollout | None = None
    """How another kit takes over; absent, at once, as soon as its workers are ready."""
    payloads: Payloads | None = None
    """Which calls are recorded; absent, none."""
    track: Annotated[Seconds, Field(ge=1)] | None = None
    """How often to look whether the tag of `kit` has moved; absent, only when a config is applied."""
    trust: Trust = Trust()
    """Which kits this model may be; a rule that is written here replaces the file's rule of that name."""

    _file = field_validator("file")(_check_file)

    @field_validator("inputs", "outputs")
    @classmethod
    def _tensors(cls, value: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        check_names(value)
        return value


class Model(ModelSettings, Served):
    """A name that clients call, and the kit that answers."""

    canary: Canary | None = None
    """A second version that gets a fixed share of the calls. Not together with `rollout`."""

    @model_validator(mode="after")
    def _two_kits(self) -> Model:
        if self.canary is not None and self.canary_reference() == self.reference():
            message = f"the canary is the same kit as the stable version ({self.kit})"
            raise faults_at({("canary", "kit"): message})
        for place, kit in (("", self), ("canary", self.canary)):
            if kit is not None and kit.parents and parse_reference(kit.kit).digest is None:
                message = f"the parents of {kit.kit} are written, and its own digest is not"
                raise faults_at({(place, "kit") if place else ("kit",): message})
        if self.track is not None and parse_reference(self.kit).digest is not None:
            raise faults_at({("track",): f"{self.kit} is pinned to a digest, which never moves"})
        if self.canary is not None and self.rollout is not None:
            message = "with `rollout`, another `kit` is the canary by itself; write one of the two"
            raise faults_at({("canary",): message})
        return self

    def reference(self) -> Reference:
        """Return the reference of the kit, with its variant."""
        return reference_of(self.kit, self.variant)

    def canary_reference(self) -> Reference | None:
        """Return the reference of the canary's kit, with its variant; None where there is no canary."""
        if self.canary is None:
            return None
        return reference_of(self.canary.kit, self.canary.variant or self.variant)

    def serving(self) -> Serving:
        """Return how the model's versions are run."""
        return Serving(
            resources=ModelResources(**dict(self.resources)),
            batching=None if self.batching is None else self.batching.value(),
            queue=self.queue.limits(self.timeout, self.compute_timeout),
            scaling=self.replicas.scaling(),
            stated=Signature(
                tuple(tensor.spec() for tensor in self.inputs),
                tuple(tensor.spec() for tensor in self.outputs),
            ),
            engine=self.engine.value(),
            generation=self.generation.value(),
            load_timeout=self.load_timeout,
        )

"""What the admin API tells of models and versions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gateway.contract import AppName
from gateway.control.state.rollout_status import RolloutStatus


class ModelState(StrEnum):
    """How far the newest config of a model is. A failed one may still serve its last good version."""

    PULLING = "pulling"
    LOADING = "loading"
    READY = "ready"
    ASLEEP = "asleep"
    """Nobody calls it, so it has no worker; the next call wakes it, waits, and is answered."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RetryStatus:
    """What failed for a reason that may pass, and is tried again."""

    reason: str
    tries: int
    seconds: float
    """Until the next try; 0 while it is made."""
    is_trying: bool
    has_failed: bool
    """Whether it counts as failed by now; before, it is only late."""


@dataclass(frozen=True, slots=True)
class GenerationStatus:
    """What a language model does now, and what its present workers did since they started."""

    generating: int
    """Calls whose answers are made."""
    waiting: int
    """Calls that wait for that."""
    input_tokens: int
    """Of prompts, the cached ones included."""
    cached_tokens: int
    output_tokens: int
    first_token_seconds: float | None
    """How long a caller waited for the first token, in the mean; None before there was one."""
    tokens_per_second: float | None
    """How fast one answer went on after its first token, in the mean; None before one did."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker, and how far it is contained, by the words of `gateway.worker.containment`."""

    worker: str
    contained: tuple[str, ...]
    not_contained: tuple[str, ...]
    device: str = ""
    """What computes: "cpu", or its GPUs."""
    provider: str = ""
    """What of its engine computes: "CUDAExecutionProvider"."""
    memory_bytes: int = 0
    """The resident memory of its process."""
    gpu_bytes: int | None = None
    """What it took of its GPUs' memory once it was loaded; None where it has none, or NVML does not tell."""


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version of a model. `weight` is its percent of unversioned calls."""

    tag: str
    digest: str
    reference: str
    app: AppName
    role: str
    weight: int
    state: ModelState
    replicas: int
    runtime: str
    note: str = ""
    """What a person should know of it."""
    generation: GenerationStatus | None = None
    """None where no worker has made tokens."""
    workers: tuple[WorkerStatus, ...] = ()
    """Those that can be called."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model, its state, why it is so, and its versions: routed ones first."""

    name: str
    state: ModelState
    message: str
    versions: tuple[VersionStatus, ...]
    rollout: RolloutStatus | None = None
    retry: RetryStatus | None = None
    """When what `message` tells of is tried again; None where it is not."""


@dataclass(frozen=True, slots=True)
class Status:
    """All models. `generation` is the config's that this was worked out for."""

    generation: int = 0
    models: tuple[ModelStatus, ...] = ()
    edge: str = ""
    """What is wrong at the edge, if anything."""
    trouble: str = ""
    """What keeps the gateway from its work, if anything; the rest is then of before."""

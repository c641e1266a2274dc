"""All that the control plane and the workers say to each other: values that cross between processes."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import NewType

from gateway.errors import ControlError, KitserveError, RegistryUnavailable
from gateway.foreign_text import foreign_text, message_text
from gateway.kits.policy import Policy
from gateway.logs.limits import Logged
from gateway.metrics.evidence_windows import ToldWindows
from gateway.metrics.tally import Numbers
from gateway.oci.options import SourceOptions
from gateway.oci.pinned import PinnedReference
from gateway.payloads.rules import PayloadRules
from gateway.rollout.plan import Agreement, AnswerChecks, Golden
from gateway.serving import Serving
from gateway.tracing.recorder import MAX_SPANS
from gateway.tracing.span import InvalidSpan, Span
from gateway.wire.worker_tls import WorkerTls
from runtimes.signature import Signature

_PORTS = 65_536
MAX_REST_SECONDS = 4.0
"""For so much longer than a second a worker that rests says nothing."""
AppName = NewType("AppName", str)
"""The name of the Serve application that runs one version."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything a worker needs to run one version."""

    app: AppName
    """The Serve application that this worker belongs to."""
    model: str
    reference: PinnedReference
    parents: tuple[PinnedReference, ...]
    """Its parent kits, where the gateway knows them."""
    runtime: str | None
    """The name of the runtime; None: by the kit's files."""
    file: str | None
    """The model's path within the kit; None: as the Kitfile has it."""
    serving: Serving
    golden: Golden | None
    """The dataset whose first row is the worker's first call; None: its values are made up."""
    policy: Policy
    """Which kits may be served as this model."""
    sources: SourceOptions
    """How kits are reached."""
    cache_limit: int | None
    """How many bytes kits may take on a node."""
    node: NodeSettings
    gpu_bytes: int | None = None
    """What a worker with the same kit and settings took of GPUs' memory; None where none was measured."""

    @property
    def names(self) -> dict[str, str]:
        """The names of the version in the lines of the log that are about it."""
        reference = self.reference
        names = {"model": self.model, "version": reference.label, "digest": str(reference.digest)}
        return {**names, "app": self.app}


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What is the same for all workers of one Kitserve."""

    home: Path
    """The node's directory for blobs, unpacked kits and logs."""
    host: str
    """The address to listen on; "" for the node's own."""
    gateway: str
    """The Serve application to report to."""
    edge_key: str = field(repr=False)
    """What every call must carry, so that nobody gets around the edge; "" where nobody else can call."""
    drain_seconds: float
    access_log: Logged = "off"
    """Which calls are logged with their tokens."""
    tls: WorkerTls | None = None
    """With what workers speak TLS, with the edge and with each other; None: HTTP in clear."""
    is_traced: bool = False
    """Whether workers tell of calls that are traced."""
    visible_gpus: str | None = None
    """The GPUs that workers may use, as CUDA_VISIBLE_DEVICES names them; None: all."""


class WorkerState(StrEnum):
    """Where a worker is on its way."""

    PULLING = "pulling"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Description:
    """What a version's callers need to know of its model; it never changes."""

    platform: str
    signature: Signature
    about: str = ""
    """What the Kitfile says the model is."""
    license: str = ""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The first of the names of an output's classes, by output; those under "" are of every other output."""
    tasks: tuple[str, ...] = ()
    """What a language model can be asked for, by the words of `runtimes.engines.base.Task`; () for others."""
    example: str = ""
    """The kit's example of a call, as the JSON of the Open Inference Protocol; "" where it has none."""
    takes_images: bool = False
    """Whether a call may be an image."""
    trust: str = ""
    """What the policy's rule on signatures found, such as the key; "" where nobody knows."""


@dataclass(frozen=True, slots=True)
class Mirroring:
    """What share of a version's calls the canary's workers, by host and port, are to answer too."""

    share: float
    targets: tuple[tuple[str, int], ...]
    agreement: Agreement
    """How the answers of models that give tensors are compared."""
    answers: AnswerChecks = field(default_factory=AnswerChecks)
    """How the answers of language models are compared."""


@dataclass(frozen=True, slots=True)
class Instructions:
    """The gateway's answer to a report."""

    describe: bool = False
    """Whether the next report is to describe the model."""
    mirroring: Mirroring | None = None
    payloads: PayloadRules | None = None
    """Which calls are recorded; None: none."""
    told_until: int = 0
    """Up to which window the worker's evidence is here: the next report is to tell of those after it."""
    must_end: bool = False
    """Whether another worker takes its place: it is to answer the calls that it has, and end."""
    must_sleep: bool = False
    """Whether it is to make room for another model, as it may sleep and nobody calls it."""
    may_rest: bool = False
    """Whether nobody waits for its next reports: it may send few while nobody calls it."""


@dataclass(frozen=True, slots=True)
class PayloadBatch:
    """Records of calls, each a line of JSON without its end, on their way from a worker to the gateway."""

    app: AppName
    lines: tuple[bytes, ...]
    dropped: int = 0
    """How many calls were to be recorded, and could not."""


@dataclass(frozen=True, slots=True)
class Passing:
    """A failure that may pass with nothing changed here, so that the same is worth another try."""

    away_host: str = ""
    """The host of a registry that answers nobody: asking it for other kits is of no use now."""
    retry_after: float = 0.0
    """How many seconds the registry asks to wait; 0 where it asks for nothing."""

    @classmethod
    def of(cls, error: BaseException) -> Passing | None:
        """Return how an error may pass; None where the same try would fail again."""
        if isinstance(error, RegistryUnavailable):
            return cls(error.away_host, error.retry_after)
        may_pass = error.may_pass if isinstance(error, KitserveError) else isinstance(error, OSError)
        return cls() if may_pass else None


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a worker reports every second, or less often while it rests, and at each change of state."""

    worker: str
    app: AppName
    state: WorkerState
    detail: str = ""
    """How far it is, or why it failed."""
    host: str = ""
    port: int = 0
    runtime: str = ""
    device: str = ""
    provider: str = ""
    """What of its engine computes, such as an execution provider of ONNX Runtime."""
    gpus: str = ""
    """The GPUs that it was given; "" for none."""
    gpu_bytes: int | None = None
    """What it took of their memory, once it was loaded; None where that is not known."""
    gpu_trouble: str = ""
    """Why the CPU computes although a GPU was preferred; "" where that is not so."""
    gpu_wait: str = ""
    """What it waits for on GPUs, with what each of them has free; "" for nothing."""
    idle_seconds: float = 0.0
    """For how long it has had no call."""
    ongoing: int = 0
    queued: int = 0
    """Those of the calls inside that wait for the model."""
    not_batched: str = ""
    """Why calls run one by one although they were to run together, "" where they do not."""
    contained: tuple[str, ...] = ()
    """What it gave up before it loaded the kit, by the words of `gateway.worker.containment`."""
    not_contained: tuple[str, ...] = ()
    """What it could not give up."""
    first_call: str = ""
    """Why the call that it tried before it was ready was not answered; "" where it was."""
    generating: int = 0
    """Those of the calls inside whose answers a language model makes now."""
    kv_cache_usage: float | None = None
    """The part of the engine's key-value cache in use, from 0 to 1; None where the engine does not say it."""
    memory_bytes: int = 0
    """The resident memory of its process."""
    gpu_memory_bytes: int | None = None
    """What its processes have of the GPUs' memory; None where it has none, or NVML does not say it."""
    numbers: Numbers = field(default_factory=Numbers)
    evidence: ToldWindows = field(default_factory=ToldWindows)
    """What rollouts are judged by, as far as the gateway has not said that it has it."""
    ready_since: float = 0.0
    """When the worker began to take calls, in seconds since 1970; 0 before."""
    description: Description | None = None
    """Sent only when the gateway asks for it."""
    number: int = 0
    """Counts a worker's reports: a later one may arrive first."""
    rest_seconds: float = 0.0
    """For so much longer than a second it says nothing, if nothing happens."""
    passing: Passing | None = None
    """Set where it failed for a reason that may pass."""
    spans: tuple[Span, ...] = ()
    """Of the calls that are traced, since the last report."""
    dropped_spans: int = 0
    """How many spans were lost so far."""

    def checked(self) -> Announcement:
        """Return the report with its texts cut and printable, as its worker may run code of a kit.

        Raises:
            ControlError: when it would have calls sent to what is no address.
        """
        try:
            # In the form that HAProxy tells it in, too.
            host = str(ipaddress.ip_address(self.host)) if self.host else ""
        except ValueError:
            host = None
        if host is None or not 0 <= self.port < _PORTS:
            raise ControlError(f"a worker of {self.app} reports an address that is none")
        return replace(
            self,
            host=host,
            detail=message_text(self.detail),
            runtime=foreign_text(self.runtime),
            device=foreign_text(self.device),
            provider=foreign_text(self.provider),
            gpus=foreign_text(self.gpus),
            gpu_trouble=message_text(self.gpu_trouble),
            gpu_wait=message_text(self.gpu_wait),
            not_batched=foreign_text(self.not_batched),
            first_call=foreign_text(self.first_call),
            spans=tuple(_checked(self.spans[:MAX_SPANS])),
            evidence=self.evidence.bounded(),
            # In this order, 0 stays where it is no number.
            rest_seconds=min(max(0.0, self.rest_seconds), MAX_REST_SECONDS),
        )


def _checked(spans: Iterable[Span]) -> Iterator[Span]:
    """Yield the spans that are such, checked."""
    for span in spans:
        with suppress(InvalidSpan, TypeError, AttributeError):
            yield span.checked()

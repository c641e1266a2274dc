"""What a loaded model can do, while it is served: one class for each capability in `runtimes.base`."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Protocol

from gateway.codec.json_request import Decoder
from gateway.contract import Mirroring
from gateway.engine.lanes import Compute, ComputeLanes, share_of
from gateway.engine.thread import ComputeThread
from gateway.serving import Batching
from gateway.worker.describe import configuration, metadata, proven
from gateway.worker.mirror import Mirror
from gateway.worker.version import ServedVersion
from runtimes.base import BatchedModel, TensorModel


class Capability(Protocol):
    """What the app needs of any capability; its handlers know which it is."""

    @property
    def queued(self) -> int:
        """How many calls wait for the model."""
        ...

    @property
    def not_batched(self) -> str:
        """Why calls run one by one although they were to run together, "" where they do not."""
        ...

    def set_mirroring(self, mirroring: Mirroring | None) -> None:
        """Have a share of the calls mirrored from now on, or none; may be called from any thread."""

    def is_alive(self) -> bool:
        """Whether it still takes calls."""
        ...

    def failure(self) -> str:
        """Return why it takes no more calls, once it does not."""
        ...

    def give_up(self) -> None:
        """Answer the calls inside with errors, once it takes no more; may be called from any thread."""

    def stop(self) -> None:
        """Finish the calls that wait, then end."""


class TensorCapability:
    """A model that makes tensors of tensors, with the thread that runs it."""

    def __init__(self, version: ServedVersion, model: TensorModel) -> None:
        identity, options = version.identity, version.options
        self._version = version
        self.signature = model.signature
        batching = options.batching
        if batching is None and isinstance(model, BatchedModel) and model.pays_to_batch:
            batching = Batching()
        self.compute = _compute(model, version, batching)
        self.decode = Decoder(model.signature)
        """Reads the JSON and binary requests of the Open Inference Protocol."""
        shown = proven(model.signature) if options.is_proven else model.signature
        self.metadata = metadata(identity.model, identity.version, model.platform, shown)
        self.configuration = configuration(identity.model, model.platform, shown, self.compute.batching)
        self.mirror: Mirror | None = None
        """Where a share of the calls goes besides."""

    @property
    def queued(self) -> int:
        return self.compute.queued

    @property
    def not_batched(self) -> str:
        return self.compute.not_batched

    def set_mirroring(self, mirroring: Mirroring | None) -> None:
        previous = self.mirror
        if mirroring == (None if previous is None else previous.mirroring):
            return
        version, options = self._version, self._version.options
        key, tls = options.edge_key.encode(), options.tls
        self.mirror = None if mirroring is None else Mirror(mirroring, version.tally, key, tls)
        if previous is not None:
            previous.stop()

    def is_alive(self) -> bool:
        return self.compute.is_alive()

    def failure(self) -> str:
        return self.compute.failure()

    def give_up(self) -> None:
        self.compute.give_up()

    def stop(self) -> None:
        self.set_mirroring(None)
        self.compute.stop()


def _compute(model: TensorModel, version: ServedVersion, batching: Batching | None) -> Compute:
    """Start the threads that run a model."""
    options, limits, lanes = version.options, version.options.limits, version.options.lanes
    if lanes > 1:
        limits = replace(
            limits,
            max_requests=share_of(limits.max_requests, lanes),
            max_bytes=share_of(limits.max_bytes, lanes),
        )
    threads = [
        ComputeThread(model, version.tally, limits, asdict(version.identity), batching, options.running)
        for _ in range(lanes)
    ]
    return threads[0] if lanes == 1 else ComputeLanes(threads)

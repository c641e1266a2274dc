"""What a user writes about the calls of a model: how many may wait, for how long, and which run together."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, model_validator

from gateway.config.kits import Seconds, Strict, read_seconds
from gateway.metrics.counts import MAX_BATCH_ROWS
from gateway.serving import DEFAULT_LIMITS, QueueLimits
from gateway.serving import Batching as BatchingValue
from gateway.wire.limits import CALL_SECONDS

_MIB = 1024 * 1024
_BATCHING = BatchingValue()


class Batching(Strict):
    """Which calls run together. Only for models that treat each row of a batch by itself."""

    max_batch_size: Annotated[int, Field(ge=2, le=MAX_BATCH_ROWS)] = _BATCHING.max_batch_size
    """How many rows a batch has at most. A call with more rows runs alone."""
    max_delay: Annotated[float, BeforeValidator(read_seconds), Field(ge=0, le=10)] = _BATCHING.max_delay
    """How long a call waits for others at most (Triton: `max_queue_delay_microseconds`). With 0, only calls
    that wait anyway run together."""

    @model_validator(mode="before")
    @classmethod
    def _fields(cls, value: object) -> object:
        if value is None or isinstance(value, dict | Batching):
            return value
        raise ValueError("write {max_batch_size: 32, max_delay: 2ms}, or leave it out")

    def value(self) -> BatchingValue:
        """Return these settings as the value that a version carries."""
        return BatchingValue(**dict(self))


class Queue(Strict):
    """How much may wait for the model of one worker. What is more is answered with 503 at once."""

    max_requests: Annotated[int, Field(ge=1, le=1_000_000)] = DEFAULT_LIMITS.max_requests
    """How many calls may wait (Triton: `max_queue_size`; Ray Serve: `max_queued_requests`)."""
    max_bytes: Annotated[ByteSize, Field(ge=_MIB)] = ByteSize(DEFAULT_LIMITS.max_bytes)
    """How large the bodies of the calls that wait may be together."""

    def limits(self, timeout: float, compute_timeout: float | None) -> QueueLimits:
        """Return these limits as the value that a version carries; for the times see `QueueLimits`."""
        return QueueLimits(self.max_requests, int(self.max_bytes), timeout, compute_timeout)


def _within_the_edge(value: float) -> float:
    if value > CALL_SECONDS:
        raise ValueError(f"the edge gives up a call after {CALL_SECONDS:g} s; no call can wait longer")
    return value


Timeout = Annotated[Seconds, AfterValidator(_within_the_edge)]
"""How long a call may wait for the model, whatever its caller says."""

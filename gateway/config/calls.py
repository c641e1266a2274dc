"""What a user writes about the calls of a model: how many may wait, for how long, and which run together."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, model_validator

from gateway.config.kits import Seconds, Strict, read_seconds
from gateway.metrics.counts import MAX_BATCH_ROWS
from gateway.wire.limits import CALL_SECONDS

_MIB = 1024 * 1024


class Batching(Strict):
    """Which calls run together. Only for models that treat each row of a batch by itself."""

    max_batch_size: Annotated[int, Field(ge=2, le=MAX_BATCH_ROWS)] = 32
    """The most rows of a batch. A call with more rows runs alone."""
    max_delay: Annotated[float, BeforeValidator(read_seconds), Field(ge=0, le=10)] = 0.002
    """The longest that a call waits for others, which Triton calls `max_queue_delay_microseconds`; with 0
    only those run together that wait anyway."""

    @model_validator(mode="before")
    @classmethod
    def _fields(cls, value: object) -> object:
        if value is None or isinstance(value, dict | Batching):
            return value
        raise ValueError("write {max_batch_size: 32, max_delay: 2ms}, or leave it out")


class Queue(Strict):
    """How much may wait for one worker's model; what is more is answered with 503 at once."""

    max_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    """Calls: `max_queue_size` of Triton, `max_queued_requests` of Ray Serve."""
    max_bytes: Annotated[ByteSize, Field(ge=_MIB)] = ByteSize(256 * _MIB)
    """Bytes of their bodies."""


def _within_the_edge(value: float) -> float:
    if value > CALL_SECONDS:
        raise ValueError(f"the edge gives up a call after {CALL_SECONDS:g} s; no call can wait longer")
    return value


Timeout = Annotated[Seconds, AfterValidator(_within_the_edge)]
"""How long a call may wait for the model, whatever its caller says."""

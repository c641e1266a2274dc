"""How much may wait for a model, and which calls run together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many calls may wait for the model, how many bytes of them, and how long, in seconds."""

    max_requests: int = 512
    max_bytes: int = 256 * 1024 * 1024
    timeout: float = 60.0


DEFAULT_LIMITS = QueueLimits()


@dataclass(frozen=True, slots=True)
class Batching:
    """The most rows of a batch, and the most seconds that its oldest call waits for others."""

    max_batch_size: int
    max_delay: float

"""What the edge counts of the calls to one version, or to all: plain numbers, which add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
"""HAProxy counts answers by the first digit of their status."""
SOURCES = ("worker", "activator", "edge")
"""Who answered: a worker, the gateway's activator (for a version that had no worker), the edge itself."""
ERRORS = ("connect", "response", "client_abort", "server_abort")
"""What went wrong between edge and worker, also where another try then succeeded; or who hung up."""


@dataclass(slots=True)
class EdgeNumbers:
    """What the edge did with the calls to one version since it was started."""

    responses: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Answers by one of `SOURCES` and one of `STATUS_CLASSES`."""
    errors: Counter[str] = field(default_factory=Counter)
    """By the words of `ERRORS`."""
    retries: int = 0
    redispatches: int = 0
    queued: int = 0
    """Calls that wait for a worker now."""

    def add(self, other: EdgeNumbers) -> None:
        """Add another's numbers to these."""
        self.responses.update(other.responses)
        self.errors.update(other.errors)
        self.retries += other.retries
        self.redispatches += other.redispatches
        self.queued += other.queued

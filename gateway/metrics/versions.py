"""One version at one moment, as its metrics read it: its names, what it counted, and what it does now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.metrics.edge_numbers import EdgeNumbers
from gateway.metrics.tally import Numbers

VERSION_LABELS = ("model", "version", "digest", "runtime")
"""The labels of every metric of a version; `digest` is its first 12 digits."""


@dataclass(frozen=True, slots=True)
class VersionLabels:
    """What names a version in every metric, see `VERSION_LABELS`."""

    model: str
    version: str
    digest: str
    runtime: str


@dataclass(frozen=True, slots=True)
class VersionSample:
    """One version at one moment."""

    labels: VersionLabels
    numbers: Numbers
    ongoing: int = 0
    replicas: Mapping[str, int] = field(default_factory=dict)
    """Workers by state."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """Percent of unversioned calls by role."""
    queued: int = 0
    """Calls that wait for the model."""
    held: int = 0
    """Calls that wait for the version to wake."""
    edge: EdgeNumbers = field(default_factory=EdgeNumbers)
    restarts: int = 0
    """Workers that ended by themselves."""
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    """Resident memory by worker."""
    generating: int = 0
    """Calls whose answers a language model makes."""
    kv_cache_usage: Mapping[str, float] = field(default_factory=dict)
    """The part of the key-value cache in use by worker, where its engine says it."""
    memory_limit_bytes: int | None = None
    """How much memory each worker may take; None where nothing is said."""
    uncontained: int = 0
    """Workers that can be called and have not given up all that a worker gives up."""
    gpu_memory_bytes: Mapping[str, int] = field(default_factory=dict)
    """Memory of GPUs by worker, where NVML says it."""

    def plus(self, other: VersionSample) -> VersionSample:
        """Return both as one; their labels are equal."""
        numbers, edge = Numbers(), EdgeNumbers()
        for sample in (self, other):
            numbers.add(sample.numbers)
            edge.add(sample.edge)
        return VersionSample(
            self.labels,
            numbers,
            self.ongoing + other.ongoing,
            {
                state: self.replicas.get(state, 0) + other.replicas.get(state, 0)
                for state in {**self.replicas, **other.replicas}
            },
            {**self.weights, **other.weights},
            self.queued + other.queued,
            self.held + other.held,
            edge,
            self.restarts + other.restarts,
            {**self.memory_bytes, **other.memory_bytes},
            self.generating + other.generating,
            {**self.kv_cache_usage, **other.kv_cache_usage},
            self.memory_limit_bytes if other.memory_limit_bytes is None else other.memory_limit_bytes,
            self.uncontained + other.uncontained,
            {**self.gpu_memory_bytes, **other.gpu_memory_bytes},
        )

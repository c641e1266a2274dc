"""What `kitserve plan` says: values that become the document of `-o json`, see docs/operating.md.

A member is added at will; what one means, and its type, changes only with another `FORMAT`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from gateway.config.changes import FieldChange

FORMAT = 1


class Action(StrEnum):
    """What a config does to a model."""

    NEW = "new"
    CHANGED = "changed"
    REMOVED = "removed"
    UNCHANGED = "unchanged"


class Workers(StrEnum):
    """What a config does to the workers of a model."""

    NEW = "new"
    """Others are started; those that there are stay until these take over."""
    SCALED = "scaled"
    KEPT = "kept"
    REMOVED = "removed"


class Source(StrEnum):
    """Where a number of bytes of memory comes from."""

    MEASURED = "measured"
    """What a worker with this kit takes now."""
    ESTIMATED = "estimated"
    """What the model's files tell, without the worker's own."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class KitFacts:
    """What the documents of a kit say of it, and how the policy judges it."""

    reference: str
    tag: str
    digest: str
    format: str
    size: int
    """Of the layers that serving needs, in bytes."""
    package: str
    licenses: tuple[str, ...]
    framework: str
    parameters: Mapping[str, str]
    """Of the Kitfile's model, each as JSON."""
    parents: tuple[str, ...]
    signature: str
    code: bool
    """Whether the policy lets it run code."""
    hazard: str | None = None
    """The class of its model: `data`, `known pickle`, `program` or `code`; None before it is pulled."""
    runtime: str | None = None
    """None before it is pulled."""


@dataclass(frozen=True, slots=True)
class KitPlan:
    """One kit of a model, as it is and as it will be; `role` is stable or canary."""

    role: str
    before: KitFacts | None
    after: KitFacts | None
    has_moved: bool
    """Whether the same tag means another kit than it did."""
    changes: tuple[FieldChange, ...]
    """What is different in the facts of the two kits, besides names, digests and sizes."""
    pull_bytes: int
    """What is to be fetched for it; layers that several kits share are counted for each."""
    refused: str
    """Why it would not be served; "" where nothing is against it."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """What a config does to a model's rollout."""

    starts: bool
    """Whether one begins."""
    ends: str
    """What becomes of the one under way; "" where there is none, or it goes on."""
    stable: str
    canary: str
    steps: tuple[str, ...]
    checks: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """The memory of the workers of one version."""

    model: str
    version: str
    workers: int
    bytes_each: int | None
    """Of each worker; None where nobody knows it before it is loaded."""
    source: Source
    is_new: bool
    """Whether these workers are to be started."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of memory that workers take: now, while old and new ones run, and then. None: not known."""

    before: int
    during: int
    after: int
    unknown: tuple[str, ...]
    """Models of whose new versions nobody knows it before they are loaded; the sums are without these."""
    free: int | None
    total: int | None


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What is to be fetched; layers that several kits share count once, those in the cache not at all."""

    bytes: int
    layers: int
    disk_free: int
    evictable: int
    """What kits that nobody uses take in the cache: they make room."""
    cache_limit: int | None
    is_enough: bool


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What a config does to one model."""

    name: str
    action: Action
    changes: tuple[FieldChange, ...]
    """Of its fields in the config."""
    kits: tuple[KitPlan, ...]
    workers: Workers
    rollout: RolloutPlan | None
    memory: tuple[MemoryUse, ...]
    refused: str
    """Why what the config asks for would not be in force; "" where nothing is against it."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class ConfigPlan:
    """What a config would change."""

    format: int
    against: str
    """`running`, `file` or `nothing`."""
    generation: int
    """Of the config in force; 0 for none."""
    has_changes: bool
    is_refused: bool
    """Whether `apply` would end with 1, as far as is known."""
    models: tuple[ModelPlan, ...]
    settings: tuple[FieldChange, ...]
    """Changed fields that are of no model."""
    restart: tuple[str, ...]
    """Those that need a restart of `kitserve serve`; `apply` is refused until then."""
    faults: tuple[str, ...]
    """Why the config as a whole cannot run here."""
    pull: PullPlan
    memory: MemoryPlan

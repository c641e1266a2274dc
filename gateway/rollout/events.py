"""What may happen to a rollout: what the config asks for, what is observed, and what people order."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.rollout.evidence import Evidence
from gateway.rollout.plan import Plan
from gateway.rollout.state import Reason
from gateway.rollout.units import History, Units


@dataclass(frozen=True, slots=True)
class Target:
    """What the config asks for now."""

    revision: str
    plan: Plan
    settings: str = ""
    """Changes with whatever else needs other workers; "" where nobody says."""


@dataclass(frozen=True, slots=True)
class NoTarget:
    """The config asks for a kit that cannot be resolved."""


@dataclass(frozen=True, slots=True)
class Stable:
    """The revision that is stable in the route now."""

    revision: str


@dataclass(frozen=True, slots=True)
class StableLost:
    """The stable version cannot be served any more, and the canary answers."""

    message: str


@dataclass(frozen=True, slots=True)
class CanaryReady:
    """The canary has all its workers."""


@dataclass(frozen=True, slots=True)
class CanaryFailed:
    """The canary cannot be served: its kit, its model, or its workers while they start."""

    message: str


@dataclass(frozen=True, slots=True)
class CanaryLost:
    """A worker of the canary died after it had answered."""

    message: str


@dataclass(frozen=True, slots=True)
class GatesPassed:
    """The canary may be given calls."""

    message: str = ""


@dataclass(frozen=True, slots=True)
class GateFailed:
    """The canary may not be given calls."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes."""

    evidence: Evidence = field(default_factory=Evidence)
    """What both versions did since the last tick."""
    is_up: bool = True
    """Whether the canary answers calls."""
    is_waiting: bool = False
    """Whether nothing may be concluded: the stable version is away, or the config's kit not resolved yet."""
    workers: tuple[str, ...] = ()
    """The canary's workers that take calls."""
    units: Units | None = None
    """The same evidence in units that are independent; None where it is counted by call alone."""
    history: History = field(default_factory=History)
    """What the stable version did before; it matters at the first tick of a step."""


@dataclass(frozen=True, slots=True)
class Promote:
    """A person lets the rollout go on to its next step, or to its end."""

    full: bool = False


@dataclass(frozen=True, slots=True)
class Abort:
    """A person stops the rollout."""

    message: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """A person wants what failed, or what was rolled back, tried again."""


@dataclass(frozen=True, slots=True)
class Rollback:
    """A person returns to an earlier revision."""

    revision: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """The gateway has started again, with another clock.

    `is_new_start` says that Kitserve itself was started again: then no worker of before is left, and none
    of them has died on its own.
    """

    is_new_start: bool = False


Event = (
    Target
    | NoTarget
    | Stable
    | StableLost
    | CanaryReady
    | CanaryFailed
    | CanaryLost
    | GatesPassed
    | GateFailed
    | Tick
    | Promote
    | Abort
    | Retry
    | Rollback
    | Resumed
)


@dataclass(frozen=True, slots=True)
class Changed:
    """The rollout is in another phase, step or rollout than before."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """An order made no sense, and changed nothing."""

    message: str


Action = Changed | Refused
"""What happened, to be told. What is to be done follows from the state."""
